import { describe, expect, test, vi } from "vitest";
import { compareQuantizationsInWorker, loadModel, loadModelInWorker, type Model, type ModelSource, type PresetName, type WorkerLoadOptions } from "nibble-webgpu";
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

  const missing = new URL("/no/such/script.js", location.href).href;
  const html = "data:text/html,<p>";
  test.each<[what: string, script: string, message: RegExp, details: object]>([
    ["is missing", "/no/such/script.js", /could not be started.*no\/such/, { script: missing }],
    ["is of another type", html, /could not be started.*text\/html/, { script: html }],
    ["throws", "data:text/javascript,throw new Error('boom')", /failed: .*boom/, { line: 1 }],
    ["is none of ours and talks", "data:text/javascript,postMessage('hello')", /expected a message of Nibble's/, {}],
  ])("before it began, because its script %s, rejects the load as `worker` at once", async (_, worker, message, details) => {
    await expect(loadModelInWorker(files, { worker })).rejects.toMatchObject({ name: "EngineError", code: "worker", message: expect.stringMatching(message) as string, details });
  });

  test("before it began, because a policy blocks it, rejects the load as `worker` at once, having loaded under one that does not", async () => {
    const loadUnder = async (policy: string): Promise<Model> => {
      const frame = document.createElement("iframe");
      frame.srcdoc = `<meta http-equiv="Content-Security-Policy" content="${policy}">`;
      const loaded = new Promise((resolve) => frame.addEventListener("load", resolve));
      document.body.append(frame);
      await loaded;
      vi.stubGlobal("Worker", (frame.contentWindow as unknown as typeof globalThis).Worker); // a worker's policy is that of the window whose constructor makes it
      return loadModelInWorker(files, { backend: "cpu", worker: "/src/worker/engineWorker.ts?worker_file&type=module" }).finally(() => vi.unstubAllGlobals());
    };
    using _ = await loadUnder("worker-src 'self'");
    await expect(loadUnder("worker-src 'none'")).rejects.toMatchObject({ name: "EngineError", code: "worker", message: expect.stringContaining("could not be started") as string, details: { script: expect.stringContaining("engineWorker") as string } });
  });
});

test("two models and a comparison, each in a worker of its own, give what each gives alone, and disposing of one leaves the others at work", async () => {
  const files = seededCheckpoint(tinyCheckpoints.width2);
  const tokens = [1, 2, 3, 5, 8, 13, 21, 34];
  const load = (quantization: PresetName): Promise<Model> => loadModelInWorker(files, { backend: "cpu", quantization });
  const measures = async (): Promise<object[]> => {
    const rows: object[] = [];
    for await (const { name, perplexity, klDivergence } of compareQuantizationsInWorker(files, { backend: "cpu", text: tokens, windowTokens: 4, recipes: ["int8", "nf4"] })) rows.push({ name, perplexity, klDivergence });
    return rows;
  };
  using model = await load("int8");
  const disposed = await load("nf4");
  const alone = [await model.logits(tokens), await measures()];
  const together = [model.logits(tokens), measures()];
  const running = disposed.complete(tokens, { maxTokens: 8 });
  disposed.dispose();
  await expect(running).rejects.toMatchObject({ code: "disposed" });
  expect(await Promise.all(together)).toEqual(alone);
});
