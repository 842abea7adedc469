import { describe, expect, test } from "vitest";
import { compareQuantizations, EngineError, loadModel, presets, type CompareProgress, type ComparisonRow, type Model, type PresetName, type QuantizationRecipe } from "../../src/index.ts";
import { seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";
import { referenceLogits } from "../reference/gpt2.ts";
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

// What it shares with loadModelInWorker() is in test/conformance/modelCases.ts.
describe("loadModel", () => {
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
