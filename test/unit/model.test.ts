import { describe, expect, test } from "vitest";
import { compareQuantizations, EngineError, loadModel, loadModelInWorker, presets, readTensor, type CompareProgress, type ComparisonRow, type LoadProgress, type Model, type ModelSource, type PresetName, type QuantizationRecipe, type WorkerLoadOptions } from "../../src/index.ts";
import { seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";
import { pairedWorker } from "../fixtures/workerPair.ts";
import { logSoftmax, referenceLogits, referencePerplexity } from "../reference/gpt2.ts";
import { maxAbsError } from "../reference/metrics.ts";
import { dequantizedWeights, referenceCheckpoint } from "../reference/weights.ts";
import { tolerances } from "../tolerances.ts";

const files = seededCheckpoint(tinyCheckpoints.width100);
const V = tinyCheckpoints.width100.vocabSize;
const tokens = Array.from({ length: 20 }, (_, i) => (i * 37 + 5) % V);
const load = (quantization: PresetName = "f32"): Promise<Model> => loadModel(files, { backend: "cpu", quantization });

async function collect(rows: AsyncGenerator<ComparisonRow, unknown>): Promise<ComparisonRow[]> {
  const all: ComparisonRow[] = [];
  for await (const row of rows) all.push(row);
  return all;
}

describe("loadModel", () => {
  test("gives the oracle's logits and log-probabilities", async () => {
    using model = await load("nf4");
    const { config, weights } = referenceCheckpoint(files);
    const logits = referenceLogits(config, dequantizedWeights(weights, model.quantization.recipe), tokens);
    const row = (t: number): Float64Array => logits.subarray(t * V, (t + 1) * V);
    using exact = await loadModel(files, { backend: "cpu", quantization: "nf4", kvCache: "f32" });
    expect(maxAbsError(await exact.logits(tokens), row(19))).toBeLessThan(tolerances.logit);
    const expected = tokens.slice(1).map((token, t) => logSoftmax(row(t))[token]!);
    expect(maxAbsError(await exact.tokenLogProbs(tokens), expected)).toBeLessThan(tolerances.logProb);
    expect(await exact.tokenLogProbs([3])).toEqual(new Float32Array(0));
  });

  test("runs llm-int8 by the threshold of the recipe: where all values are outliers, as with float activations", async () => {
    const { config, weights } = referenceCheckpoint(files);
    const expected = referenceLogits(config, dequantizedWeights(weights, presets["llm-int8"]), tokens, { rows: [19] });
    const errorOf = async (recipe: QuantizationRecipe): Promise<number> => {
      using model = await loadModel(files, { backend: "cpu", quantization: recipe, kvCache: "f32" });
      return maxAbsError(await model.logits(tokens), expected);
    };
    expect(await errorOf({ ...presets["llm-int8"], outlierThreshold: 1e-30 })).toBeLessThan(tolerances.logit);
    expect(await errorOf(presets["llm-int8"])).toBeGreaterThan(tolerances.logit); // control case
  });

  test("takes int8 where no quantization is named", async () => {
    using model = await loadModel(files, { backend: "cpu" });
    expect(model.quantization.recipe.name).toBe("int8");
  });

  test("says that there is no adapter, and runs on the CPU", async () => {
    using model = await loadModel(files, { gpu: { requestAdapter: async () => null } as unknown as GPU });
    expect(model.adapter).toMatchObject({ backend: "cpu", notices: ["No WebGPU adapter was found; running on the CPU."] });
  });

  test("rejects with `unsupported` where WebGPU was asked for and there is none", async () => {
    const refusals = [async () => null, () => Promise.reject(new Error("no driver"))];
    for (const requestAdapter of refusals) {
      await expect(loadModel(files, { backend: "webgpu", gpu: { requestAdapter } as unknown as GPU })).rejects.toMatchObject({ code: "unsupported" });
    }
  });

  test("reports progress whose fraction never falls and ends at 1", async () => {
    const seen: LoadProgress[] = [];
    using _ = await loadModel(files, { backend: "cpu", onProgress: (progress) => seen.push(progress) });
    expect(seen.map(({ stage }) => stage)).toEqual(expect.arrayContaining(["download", "quantize", "compile"]));
    for (let i = 1; i < seen.length; i++) expect(seen[i]!.fraction).toBeGreaterThanOrEqual(seen[i - 1]!.fraction);
    expect(seen.at(-1)!.fraction).toBe(1);
  });

  test("reports exact stored bytes and bits per weight", async () => {
    using model = await load("nf4");
    const { bytes, bitsPerWeight, tensors } = model.quantization;
    const C = 100;
    const inner = 300;
    const linears = [[3 * C, C], [C, C], [inner, C], [C, inner]] as const;
    const blocks = linears.reduce((sum, [rows, columns]) => sum + rows * Math.ceil(columns / 64), 0) * 3; // three layers
    const weights = linears.reduce((sum, [rows, columns]) => sum + rows * columns, 0) * 3;
    const vectors = 4 * (3 * (4 * C + 3 * C + C + inner + C) + 2 * C);
    expect(bytes).toEqual({
      weights: weights / 2,
      embedding: 2 * V * C + 4 * 64 * C,
      scales: 4 * blocks + 2 * 4 * V + vectors,
      total: weights / 2 + 2 * V * C + 4 * 64 * C + 4 * blocks + 2 * 4 * V + vectors,
    });
    expect(bitsPerWeight).toBeCloseTo((8 * (weights / 2 + 4 * blocks)) / weights, 12);
    expect(tensors).toHaveLength(14);
    for (const tensor of tensors) expect(tensor.sqnrDb).toBeGreaterThan(15);
  });

  test.each<[what: string, options: object, error: typeof TypeError | typeof RangeError]>([
    ["an unknown preset", { quantization: "int9" }, TypeError],
    ["a backend of another name", { backend: "gpu" }, TypeError],
    ["a context beyond the model's positions", { contextLength: 65 }, RangeError],
    ["a context of no tokens", { contextLength: 0 }, RangeError],
    ["a context that is text", { contextLength: "8" }, TypeError],
    ["a fetch that is no function", { fetch: "https://example.com" }, TypeError],
    ["a hub that is no object", { hub: "https://example.com" }, TypeError],
    ["a revision that is no text", { hub: { revision: 1 } }, TypeError],
    ["an override that matches nothing", { quantization: { linear: { type: "f16" }, overrides: { "h.9.*": { type: "f32" } } } }, RangeError],
  ])("rejects %s, having accepted none", async (_, options, error) => {
    await expect(loadModel(files, { backend: "cpu", ...options })).rejects.toThrow(error);
  });

  test.each<[what: string, source: unknown]>([
    ["an empty name", ""],
    ["a number", 7],
    ["nothing", undefined],
  ])("throws TypeError for %s as a source", async (_, source) => {
    await expect(loadModel(source as ModelSource, { backend: "cpu" })).rejects.toThrow(TypeError);
  });

  test("names the tensor and index of a weight that is not a number", async () => {
    const broken = { ...files, "model.safetensors": files["model.safetensors"].slice() };
    const header = new DataView(broken["model.safetensors"].buffer).getBigUint64(0, true);
    const entry = JSON.parse(new TextDecoder().decode(broken["model.safetensors"].subarray(8, 8 + Number(header)))) as Record<string, { data_offsets: [number, number] }>;
    const [begin] = entry["h.1.mlp.c_fc.weight"]!.data_offsets;
    broken["model.safetensors"].set([0xc0, 0x7f], 8 + Number(header) + begin + 6); // BF16 NaN, fourth value
    await expect(loadModel(broken, { backend: "cpu" })).rejects.toMatchObject({ code: "checkpoint", message: expect.stringMatching(/h\.1\.mlp\.c_fc\.weight.*NaN/) as string, details: { tensor: "h.1.mlp.c_fc.weight" } });
  });

  test("rejects with signal.reason, and not with an error of its own, when aborted before or during the load", async () => {
    const reason = new Error("enough");
    await expect(loadModel(files, { backend: "cpu", signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const controller = new AbortController();
    await expect(loadModel(files, { backend: "cpu", signal: controller.signal, onProgress: ({ fraction }) => fraction > 0.3 && controller.abort(reason) })).rejects.toBe(reason);
    using _ = await load(); // and the next one works
  });
});

/** The same model, in the page and behind a worker's messages. */
const ways: [where: string, load: typeof loadModel][] = [
  ["here", loadModel],
  ["in a worker", (source, options) => loadModelInWorker(source, { ...(options as WorkerLoadOptions), worker: pairedWorker() })],
];

describe.each(ways)("a model %s", (_, loadModel) => {
  const load = (quantization: PresetName = "f32"): Promise<Model> => loadModel(files, { backend: "cpu", quantization });

  test("computes the perplexity that the oracle computes, under each protocol", async () => {
    using model = await load();
    const { config, weights } = referenceCheckpoint(files);
    const text = Array.from({ length: 150 }, (_, i) => (i * i * 13 + 7) % V);
    for (const [protocol, windowTokens, strideTokens] of [["strided", 32, 16], ["disjoint", 64, 64], ["llama.cpp", 40, 40]] as const) {
      const report = await model.perplexity(text, { protocol, windowTokens, ...(protocol === "strided" ? { strideTokens } : {}) });
      const expected = referencePerplexity(config, weights, text, { protocol, windowTokens, strideTokens });
      expect(report).toMatchObject({ protocol, windowTokens, windows: expected.windows, scoredTokens: expected.nlls.length, bitsPerByte: null });
      expect(Math.abs(report.perplexity / expected.perplexity - 1)).toBeLessThan(1e-5);
      expect(Math.abs(report.standardError / expected.standardError - 1)).toBeLessThan(1e-4);
    }
  });

  test("ends a generation that fills its context with contextFull", async () => {
    using model = await loadModel(files, { backend: "cpu", contextLength: 24 });
    const completion = await model.complete(tokens, { temperature: 0, maxTokens: 100 });
    expect(completion).toMatchObject({ finishReason: "contextFull", promptTokens: 20, newTokens: 5 }); // the last is drawn from the last position
    await expect(model.complete([...tokens, ...tokens])).rejects.toMatchObject({ code: "promptTooLong", details: { promptTokens: 40, contextLength: 24 } });
    await expect(model.logits(tokens)).resolves.toHaveLength(V);
  });

  test.each<[what: string, call: (model: Model) => Promise<unknown>]>([
    ["no tokens", (model) => model.logits([])],
    ["more tokens than positions", (model) => model.logits(Array.from({ length: 65 }, () => 1))],
    ["a token beyond the vocabulary", (model) => model.logits([1, V])],
    ["a fraction as a token", (model) => model.tokenLogProbs([1, 2.5])],
    ["a window of one token", (model) => model.perplexity(tokens, { windowTokens: 1 })],
    ["a stride wider than the window", (model) => model.perplexity(tokens, { windowTokens: 8, strideTokens: 9 })],
  ])("throws RangeError for %s", async (_, call) => {
    using model = await load();
    await expect(call(model)).rejects.toThrow(RangeError);
  });

  test("works on the tokens it was given, whatever becomes of their array while a call waits", async () => {
    using model = await load();
    const expected = await model.logits(tokens);
    const mine = [...tokens];
    const generating = model.complete(tokens, { temperature: 0, maxTokens: 4 });
    const waiting = model.logits(mine);
    mine.fill(V + 1);
    await generating;
    expect(await waiting).toEqual(expected);
  });

  test.each<[option: string, options: object]>([
    ["onProgress", { onProgress: 5 }],
    ["signal", { signal: {} }],
  ])("throws TypeError for a wrong %s", async (option, options) => {
    using model = await loadModel(files, { backend: "cpu", onProgress: () => undefined, signal: new AbortController().signal }); // control case
    for (const call of [() => loadModel(files, { backend: "cpu", ...options }), () => model.perplexity(tokens, options), () => readTensor(files, "ln_f.bias", options)]) {
      await expect(call()).rejects.toThrow(expect.objectContaining({ name: "TypeError", message: expect.stringContaining(`${option} is `) as string }));
    }
    const signal = {} as AbortSignal;
    for (const call of [() => model.logits(tokens, { signal }), () => model.tokenLogProbs(tokens, { signal })]) await expect(call()).rejects.toThrow(new TypeError("signal is an object; expected an AbortSignal."));
  });

  test("rejects with `shader` where weights that are finite give no finite number", async () => {
    const huge = seededCheckpoint({ ...tinyCheckpoints.width100, outliers: { channels: [3], gain: 3e38 } });
    using model = await loadModel(huge, { backend: "cpu", quantization: "f32" });
    for (const call of [model.logits(tokens), model.tokenLogProbs(tokens), model.complete(tokens), model.perplexity(tokens)]) await expect(call).rejects.toMatchObject({ name: "EngineError", code: "shader" });
  });

  test("rejects with signal.reason where there is nothing to compute, too", async () => {
    using model = await load();
    const reason = new Error("enough");
    const signal = AbortSignal.abort(reason);
    for (const call of [model.tokenLogProbs([1], { signal }), model.tokenLogProbs(tokens, { signal }), model.logits(tokens, { signal }), model.complete(tokens, { maxTokens: 0, signal })]) await expect(call).rejects.toBe(reason);
  });

  test("lets calls made together take turns", async () => {
    using model = await load();
    const alone = await model.complete(tokens, { temperature: 0, maxTokens: 8 });
    const [first, logits, second] = await Promise.all([
      model.complete(tokens, { temperature: 0, maxTokens: 8 }),
      model.logits(tokens),
      model.complete(tokens, { temperature: 0, maxTokens: 8 }),
    ]);
    expect(first.tokens).toEqual(alone.tokens);
    expect(second.tokens).toEqual(alone.tokens);
    expect(logits).toEqual(await model.logits(tokens));
  });

  test("is free again after a loop is left early, by break and by an abort", async () => {
    using model = await load();
    const generation = model.generate(tokens, { temperature: 0, maxTokens: 20 });
    for await (const token of generation) {
      expect(token.id).toBeGreaterThanOrEqual(0);
      break;
    }
    expect(generation.summary).toMatchObject({ finishReason: "cancelled", newTokens: 1 });
    const controller = new AbortController();
    const aborted = model.generate(tokens, { temperature: 0, maxTokens: 20, signal: controller.signal });
    await expect(async () => {
      for await (const _ of aborted) controller.abort(new Error("stop"));
    }).rejects.toThrow("stop");
    expect(aborted.summary).toMatchObject({ finishReason: "cancelled" });
    expect((await model.complete(tokens, { maxTokens: 2 })).newTokens).toBe(2);
  });

  test("is free again after the abort of a loop that nobody goes on with", async () => {
    using model = await load();
    const controller = new AbortController();
    const reason = new Error("enough");
    const iterator = model.generate(tokens, { signal: controller.signal })[Symbol.asyncIterator]();
    await iterator.next();
    const waiting = model.logits(tokens);
    controller.abort(reason);
    await expect(waiting).resolves.toHaveLength(V);
    await expect(iterator.next().then(() => iterator.next())).rejects.toBe(reason);
  });

  test("rejects with `disposed` after dispose, which may be called twice", async () => {
    const model = await load();
    model.dispose();
    model.dispose();
    expect(model.memory.total).toBe(0);
    for (const call of [model.logits(tokens), model.tokenLogProbs(tokens), model.tokenLogProbs([1]), model.complete(tokens), model.complete(tokens, { maxTokens: 0 }), model.perplexity(tokens, { windowTokens: 8 })]) {
      await expect(call).rejects.toMatchObject({ name: "EngineError", code: "disposed" });
    }
  });
});

describe("compareQuantizations", () => {
  const text = Array.from({ length: 90 }, (_, i) => (i * i * 13 + 7) % V);

  test("measures the baseline first, then each recipe against it, on the same tokens", async () => {
    const progress: CompareProgress[] = [];
    const rows = await collect(compareQuantizations(files, { backend: "cpu", text, windowTokens: 32, recipes: ["f32", "int8", "nf4", "llm-int8"], onProgress: (p) => progress.push(p) }));
    expect(rows.map(({ name }) => name)).toEqual(["f32", "int8", "nf4", "llm-int8"]);
    const [f32, int8, nf4, llmInt8] = rows as [ComparisonRow, ComparisonRow, ComparisonRow, ComparisonRow];
    expect(f32).toMatchObject({ ratio: 1, ratioError: 0, klDivergence: { mean: 0 }, sameTopToken: { fraction: 1 }, bitsPerWeight: 32 });
    expect(nf4.klDivergence.mean).toBeGreaterThan(int8.klDivergence.mean);
    expect(int8.klDivergence.mean).toBeGreaterThan(0);
    for (const [name, row] of [["int8", int8], ["nf4", nf4], ["llm-int8", llmInt8]] as const) {
      using model = await load(name);
      const { perplexity, standardError } = await model.perplexity(text, { windowTokens: 32 });
      expect(row.perplexity).toBeCloseTo(perplexity, 6);
      expect(row.standardError).toBeCloseTo(standardError, 6);
      expect(row.ratio).toBeCloseTo(perplexity / f32.perplexity, 6);
      expect(row.bytes).toEqual(model.quantization.bytes);
      expect(row.prefillTokensPerSecond).toBeGreaterThan(0);
      expect(row.decodeTokensPerSecond).toBeGreaterThan(0);
    }
    expect(new Set(progress.map(({ row }) => row))).toEqual(new Set([0, 1, 2, 3]));
    expect(progress.at(-1)).toMatchObject({ name: "llm-int8", rows: 4, stage: "score", fraction: 1, scoredTokens: 89, totalTokens: 89 });
  });

  test("goes on after a recipe that cannot run, whose row says why", async () => {
    const huge = seededCheckpoint({ ...tinyCheckpoints.width100, outliers: { channels: [3], gain: 1e-6 } }); // weights that f16 cannot hold
    const rows = await collect(compareQuantizations(huge, { backend: "cpu", text, windowTokens: 32, recipes: ["f16", "int8"] }));
    expect(rows[1]).toMatchObject({ name: "f16", error: { code: "quantize", details: { tensor: "h.0.attn.c_attn.weight" } } });
    expect(rows[1]!.error).toBeInstanceOf(EngineError);
    expect(rows[2]!.name).toBe("int8");
    expect(rows[2]!.error).toBeUndefined();
    expect(rows[2]!.perplexity).toBeGreaterThan(1);
  });

  test.each<[what: string, recipes: unknown]>([
    ["an unknown preset", ["int3"]],
    ["a recipe without a name", [{ linear: { type: "f16" } }]],
    ["two recipes of one name", ["int8", { name: "int8", linear: { type: "f16" } }]],
    ["no list", "int8"],
    ["a list of holes", new Array(2 ** 32 - 1)],
  ])("throws TypeError for %s", async (_, recipes) => {
    await expect(collect(compareQuantizations(files, { backend: "cpu", text, recipes: recipes as never }))).rejects.toThrow(TypeError);
  });

  test("rejects with signal.reason when aborted, and ends quietly when left", async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    const options = { backend: "cpu", text, windowTokens: 32, recipes: ["int8", "nf4"] } as const;
    await expect(collect(compareQuantizations(files, { ...options, signal: controller.signal, onProgress: ({ row, stage }) => row === 1 && stage === "score" && controller.abort(reason) }))).rejects.toBe(reason);
    for await (const row of compareQuantizations(files, options)) {
      expect(row.name).toBe("f32");
      break;
    }
  });
});
