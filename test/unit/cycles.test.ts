import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, test } from "vitest";
import { loadModel } from "../../src/index.ts";
import { Choices } from "../fuzz/choices.ts";
import { seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";
import { tolerances } from "../tolerances.ts";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

/** Bytes of objects, and of arrays and WebAssembly memories, that something still refers to. */
async function usedBytes(): Promise<number> {
  for (let i = 0; i < 3; i++) {
    collectGarbage();
    await new Promise(setImmediate); // finalizers run between turns
  }
  const { heapUsed, arrayBuffers, external } = process.memoryUsage();
  return heapUsed + Math.max(arrayBuffers, external);
}

describe("100 loads on the CPU", () => {
  const files = seededCheckpoint(tinyCheckpoints.oneLayer);
  const random = new Choices(1);

  test("would be seen to leak, were ten models kept", async () => {
    const kept: unknown[] = [];
    const before = await usedBytes();
    for (let i = 0; i < 10; i++) kept.push(await loadModel(files, { backend: "cpu" }));
    expect((await usedBytes()) - before).toBeGreaterThan(tolerances.leakedBytes);
    expect(kept).toHaveLength(10);
  });

  test.each<[what: string, cycle: () => Promise<unknown>]>([
    ["that generate and are disposed of", async () => {
      using model = await loadModel(files, { backend: "cpu" });
      await model.complete([1, 2], { maxTokens: 3 });
      await model.tokenLogProbs([1, 2, 3]);
    }],
    ["that leave the loop early and are not disposed of", async () => {
      const model = await loadModel(files, { backend: "cpu", quantization: "nf4" });
      for await (const _ of model.generate([1, 2], { maxTokens: 4 })) break;
    }],
    ["that are aborted somewhere", async () => {
      const controller = new AbortController();
      const abortAt = random.below(30) / 30;
      const loading = loadModel(files, { backend: "cpu", signal: controller.signal, onProgress: ({ fraction }) => void (fraction >= abortAt && controller.abort("enough")) });
      await loading.then((model) => model.dispose(), (reason: unknown) => expect(reason).toBe("enough")); // prettier-ignore
    }],
  ])("%s take no more memory than 20 of them", async (_, cycle) => {
    for (let i = 0; i < 20; i++) await cycle();
    const before = await usedBytes();
    for (let i = 20; i < 100; i++) await cycle();
    expect((await usedBytes()) - before).toBeLessThan(tolerances.leakedBytes);
  }, 60_000); // prettier-ignore
});
