import { describe, expect, test } from "vitest";
import { compareQuantizations, fitToBudget, loadModel, type ComparisonRow, type GeneratedToken, type GenerateOptions, type LoadOptions, type Model } from "../../src/index.ts";
import { seededCheckpoint } from "../fixtures/seededCheckpoint.ts";
import { LosingGpu } from "../fixtures/losingGpu.ts";
import { MapCache } from "../fixtures/mapCache.ts";
import { TinyServer } from "../fixtures/tinyServer.ts";
import { adapterName } from "../gpu.ts";

const adapter = await adapterName();
const V = 211;
const shape = { nLayer: 1, nHead: 2, nEmbd: 32, nPositions: 64, vocabSize: V, seed: 1000 };
const files = seededCheckpoint(shape);
const tokens = Array.from({ length: 20 }, (_, i) => (i * 37 + 5) % V);
const text = Array.from({ length: 150 }, (_, i) => (i * i * 13 + 7) % V);

async function load(gpu: LosingGpu, options: LoadOptions = {}): Promise<Model> {
  return loadModel(files, { backend: "webgpu", gpu: gpu.gpu, quantization: "nf4", ...options });
}

async function collect(model: Model, options: GenerateOptions, onToken: (count: number) => void = () => undefined): Promise<GeneratedToken[]> {
  const given: GeneratedToken[] = [];
  for await (const token of model.generate(tokens, options)) onToken(given.push(token));
  return given;
}

/** Everything of a row but its times. */
function measuresOf({ quantizeMs: _, prefillTokensPerSecond: _p, decodeTokensPerSecond: _d, tensors, ...measures }: ComparisonRow): object {
  return { ...measures, tensors: tensors.length };
}

// On SwiftShader every device would compile its kernels anew for 12 s.
describe.runIf(adapter !== "swiftshader")("a model whose device is lost", () => {
  test.each<[string, GenerateOptions]>([
    ["greedy, drawn on the device", { temperature: 0 }],
    ["seeded with penalties, drawn on the device", { seed: 7, temperature: 1.3, topK: 50, repetitionPenalty: 1.2, frequencyPenalty: 0.4 }],
    ["seeded, drawn by the CPU's sampler", { seed: 7, temperature: 1.3, logProbs: 2, presencePenalty: 0.3 }],
  ])("generates the very stream of one that was not: %s", async (_, options) => {
    const gpu = new LosingGpu();
    using model = await load(gpu);
    const expected = await collect(model, { ...options, maxTokens: 30 });
    const found = await collect(model, { ...options, maxTokens: 30 }, (count) => count === 11 && gpu.lose());
    expect(found).toEqual(expected);
    expect(found).toHaveLength(30);
    expect(gpu.devices).toHaveLength(2);
    expect(model.adapter.notices).toContain("The device was lost and made again, 1 time.");
  });

  test("answers as before, on another device, when it was lost between calls or while one ran", async () => {
    const gpu = new LosingGpu();
    using model = await load(gpu);
    const [logits, logProbs] = [await model.logits(tokens), await model.tokenLogProbs(tokens)];
    gpu.lose();
    expect(await model.logits(tokens)).toEqual(logits);
    const pending = model.tokenLogProbs(tokens);
    await Promise.resolve(); // it is at work
    gpu.lose();
    expect(await pending).toEqual(logProbs);
    expect(gpu.devices).toHaveLength(3);
    expect(model.adapter.notices).toContain("The device was lost and made again, 2 times.");
    expect(model.memory.total).toBe(gpu.counts.liveBytes); // of the lost devices nothing is left
  });

  test("is made again from the cache, without the network", async () => {
    const gpu = new LosingGpu();
    const server = new TinyServer(files);
    using model = await loadModel("https://models.example/tiny/", { backend: "webgpu", gpu: gpu.gpu, fetch: server.fetch, cache: new MapCache() });
    const logits = await model.logits(tokens);
    server.isOffline = true;
    gpu.lose();
    expect(await model.logits(tokens)).toEqual(logits);
    expect(model.adapter.notices.slice(-2)).toEqual(["The device was lost and made again, 1 time.", "The model came from the cache; whether its files have changed could not be asked."]);
  });

  test.each([["kept nowhere", undefined], ["in a cache that has lost it", new MapCache()]])("is not made of a file that has changed meanwhile, where it is %s", async (_, cache) => {
    const gpu = new LosingGpu();
    const server = new TinyServer(files);
    using model = await loadModel("https://models.example/tiny/", { backend: "webgpu", gpu: gpu.gpu, fetch: server.fetch, cache: cache ?? "none" });
    const logits = await model.logits(tokens);
    cache?.map.clear();
    gpu.lose();
    expect(await model.logits(tokens)).toEqual(logits); // control case
    cache?.map.clear();
    server.files = { ...files, "model.safetensors": seededCheckpoint({ ...shape, seed: 1001 })["model.safetensors"] };
    gpu.lose();
    const message = /^The GPU device was lost and could not be made again: model\.safetensors of .* is not what was loaded before: it was "[0-9a-f]{64}", now it is "[0-9a-f]{64}"\.$/;
    await expect(model.logits(tokens)).rejects.toMatchObject({ code: "deviceLost", message: expect.stringMatching(message) as string });
  });

  test("goes on measuring perplexity at the block that it was lost in, to the same bits, with progress that never falls", async () => {
    const gpu = new LosingGpu();
    using model = await load(gpu);
    const measure = async (lose: boolean): Promise<unknown[]> => {
      const seen: unknown[] = [];
      const onProgress = (progress: unknown): void => void (seen.push(progress) === 2 && lose && gpu.lose());
      return [await model.perplexity(text, { windowTokens: 48, strideTokens: 16, onProgress }), ...seen];
    };
    const expected = await measure(false);
    expect(await measure(true)).toEqual(expected);
    expect(expected.length).toBeGreaterThan(4);
    expect(gpu.devices).toHaveLength(2);
  });

  test("is loaded all the same when that happens during loading, in calibration or behind it", async () => {
    const quantization = { linear: { type: "int8", mode: "absmax", granularity: "channel" }, rounding: "gptq", activations: { type: "int8", ranges: "static" } } as const;
    const options = { backend: "webgpu", quantization, calibration: text } as const satisfies LoadOptions;
    const expected = await loadModel(files, { ...options, gpu: new LosingGpu().gpu });
    for (const lastBuffer of [30, 130]) {
      const gpu = new LosingGpu();
      gpu.onDevice = (device, count) => {
        if (count > 1) return;
        const createBuffer = device.createBuffer.bind(device);
        device.createBuffer = (descriptor) => {
          if (gpu.counts.buffers === lastBuffer) device.destroy();
          return createBuffer(descriptor);
        };
      };
      const fractions: number[] = [];
      using model = await loadModel(files, { ...options, gpu: gpu.gpu, onProgress: ({ fraction }) => fractions.push(fraction) });
      expect(gpu.devices).toHaveLength(2);
      expect(await model.logits([5, 6, 7])).toEqual(await expected.logits([5, 6, 7]));
      expect(fractions).toEqual([...fractions].sort((a, b) => a - b));
      expect(model.memory.total).toBe(gpu.counts.liveBytes);
    }
    expected.dispose();
  });

  test("ends with the third loss within a minute: `lost` resolves, this call and every later one reject with `deviceLost`, and nothing stays allocated", async () => {
    const gpu = new LosingGpu();
    const model = await load(gpu);
    gpu.lose();
    await model.logits(tokens); // control case
    gpu.onDevice = (device) => device.destroy();
    gpu.lose();
    await expect(model.logits(tokens)).rejects.toMatchObject({ name: "EngineError", code: "deviceLost", message: expect.stringContaining("3 times within a minute") as string });
    const lost = await model.lost;
    await expect(model.tokenLogProbs(tokens)).rejects.toBe(lost);
    await expect(model.complete(tokens)).rejects.toBe(lost);
    expect(gpu.devices).toHaveLength(3);
    expect([model.memory.total, gpu.counts.liveBytes]).toEqual([0, 0]);
    model.dispose();
  });

  test("gives way to dispose() and to an abort while it is made again; after the abort the next call makes it", async () => {
    const gpu = new LosingGpu();
    const model = await load(gpu);
    const expected = await model.logits(tokens);
    const controller = new AbortController();
    const reason = new Error("enough");
    gpu.onDevice = () => controller.abort(reason);
    gpu.lose();
    await expect(model.logits(tokens, { signal: controller.signal })).rejects.toBe(reason);
    expect(gpu.counts.liveBytes).toBe(0);
    gpu.onDevice = () => undefined;
    expect(await model.logits(tokens)).toEqual(expected);
    gpu.onDevice = () => model.dispose();
    gpu.lose();
    await expect(model.logits(tokens)).rejects.toMatchObject({ code: "disposed" });
    expect(gpu.counts.liveBytes).toBe(0);
    expect(gpu.devices).toHaveLength(4);
  });

  test("does not disturb a comparison, whose row starts again, nor a fit to a budget", async () => {
    const gpu = new LosingGpu();
    const shared = { text, backend: "webgpu", gpu: gpu.gpu, windowTokens: 48 } as const;
    const compare = async (loseInRow: number): Promise<object[]> => {
      const rows: object[] = [];
      let left = 1;
      const onProgress = ({ row, scoredTokens }: { row: number; scoredTokens: number }): void => void (row === loseInRow && scoredTokens > 50 && left-- > 0 && gpu.lose());
      for await (const row of compareQuantizations(files, { ...shared, recipes: ["nf4"], onProgress })) rows.push(measuresOf(row));
      return rows;
    };
    const expected = await compare(-1);
    expect(await compare(1)).toEqual(expected);
    expect(gpu.devices).toHaveLength(3);

    const fit = (loseAt: number): ReturnType<typeof fitToBudget> => {
      let reports = 0;
      return fitToBudget(files, { ...shared, formats: [{ type: "f16" }, { type: "int8", mode: "absmax", granularity: "channel" }], bitsPerWeight: 12, refinements: 0, onProgress: () => void (reports++ === loseAt && gpu.lose()) });
    };
    const fitted = await fit(-1);
    expect(await fit(6)).toEqual(fitted);
    expect(gpu.devices).toHaveLength(6);
    expect(gpu.counts.liveBytes).toBe(0);
  });
});
