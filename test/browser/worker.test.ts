import { describe, expect, test } from "vitest";
import { loadModel, loadModelInWorker, type Model, type ModelSource, type PresetName, type WorkerLoadOptions } from "nibble-webgpu";
import prompt64 from "../fixtures/golden/prompt-64.json";
import { seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";

const embedded = "/models/stories-12m/";

/** Whether a model in a worker says what the direct one says, bit by bit. */
async function expectSame(source: ModelSource, options: WorkerLoadOptions, tokens: readonly number[], maxTokens: number): Promise<void> {
  const answers = async (model: Model): Promise<unknown[]> => {
    const { text, tokens: drawn } = await model.complete(tokens, { maxTokens, temperature: 0.8, topK: 40, seed: 5 });
    return [text, drawn, await model.logits(tokens), await model.tokenLogProbs(tokens), await model.perplexity(tokens, { windowTokens: 7 }), model.adapter, model.memory];
  };
  using direct = await loadModel(source, options);
  using behind = await loadModelInWorker(source, options);
  expect(behind.adapter.backend).toBe(options.backend);
  expect(await answers(behind)).toEqual(await answers(direct));
}

describe("a model in a real worker", () => {
  test("gives the embedded model's texts and numbers on the CPU, bit for bit", () => expectSame(embedded, { backend: "cpu" }, prompt64.tokens, 8));
  test("gives them on WebGPU, bit for bit", () => expectSame(embedded, { backend: "webgpu", quantization: "nf4" }, prompt64.tokens.slice(0, 7), 3));

  test.each<PresetName>(["llm-int8", "nf4-dq"])("gives those of a tiny checkpoint on WebGPU as %s, bit for bit", (quantization) =>
    expectSame(seededCheckpoint(tinyCheckpoints.width100), { backend: "webgpu", quantization }, [1, 2, 3, 5, 8, 13, 21, 34], 5));

  test("reads files and blobs where they are", async () => {
    const files = Object.entries(seededCheckpoint(tinyCheckpoints.width2)).map(([name, content]) => new File([content], name));
    using direct = await loadModel(files, { backend: "cpu" });
    using behind = await loadModelInWorker(files, { backend: "cpu" });
    expect(await behind.logits([1, 2, 3])).toEqual(await direct.logits([1, 2, 3]));
  });
});

describe("a real worker that ends", () => {
  const files = seededCheckpoint(tinyCheckpoints.width2);

  test("because others terminate it rejects the call at work and later ones as `worker`", async () => {
    const worker = new Worker(new URL("../../src/worker/engineWorker.ts", import.meta.url), { type: "module" });
    const model = await loadModelInWorker(files, { backend: "cpu", worker });
    const running = (async () => {
      for await (const _ of model.generate([1, 2, 3])) worker.terminate();
    })();
    await expect(Promise.race([running, model.lost.then((error) => Promise.reject(error))])).rejects.toMatchObject({ code: "worker", message: expect.stringContaining("terminated") as string });
    await expect(model.logits([1])).rejects.toMatchObject({ code: "worker" });
  });

  test.each<[what: string, script: string]>([
    ["is missing", "/no/such/script.js"],
    ["throws", "data:text/javascript,throw new Error('boom')"],
    ["is none of ours and talks", "data:text/javascript,postMessage('hello')"],
  ])("before it began, because its script %s, rejects the load as `worker`", async (_, worker) => {
    await expect(loadModelInWorker(files, { worker })).rejects.toMatchObject({ name: "EngineError", code: "worker" });
  });
});
