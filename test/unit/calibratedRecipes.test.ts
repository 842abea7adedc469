import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compareQuantizations, loadModel, type ComparisonRow, type LoadOptions, type LoadProgress, type QuantizationRecipe } from "../../src/index.ts";
import { presets } from "../../src/quantize/recipes.ts";
import { type HubServer, startHubServer } from "../fixtures/hubServer.ts";
import { MapCache } from "../fixtures/mapCache.ts";
import { outlierCheckpoint, seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";
import { referenceLogits } from "../reference/gpt2.ts";
import { maxAbsError } from "../reference/metrics.ts";
import { dequantizedWeights, inputRoundingOf, referenceCheckpoint } from "../reference/weights.ts";
import { tolerances } from "../tolerances.ts";

const int8 = { type: "int8", mode: "absmax", granularity: "channel" } as const;
const staticInt8: QuantizationRecipe = { linear: int8, embedding: int8, activations: { type: "int8", ranges: "static" } };

describe("loadModel with calibration", () => {
  const files = seededCheckpoint(tinyCheckpoints.width100);
  const V = tinyCheckpoints.width100.vocabSize;
  const calibration = Array.from({ length: 130 }, (_, i) => (i * i * 29 + i * 11 + 3) % V);
  const tokens = Array.from({ length: 20 }, (_, i) => (i * 37 + 6) % V); // of which no input lies at the edge of two codes

  test.each(["minmax", "percentile", "mse"] as const)("codes inputs by the ranges that it reports, found by %s", async (observer) => {
    using model = await loadModel(files, { backend: "cpu", kvCache: "f32", quantization: { ...staticInt8, observer }, calibration });
    const { tensors, recipe } = model.quantization;
    const ranges: Record<string, number> = {};
    for (const { name, input } of tensors) {
      expect(input === undefined).toBe(name === "wte.weight"); // the head is a matrix of its own here
      if (!input) continue;
      expect(input).toEqual({ range: input.range, observer });
      ranges[name] = input.range!;
    }
    expect(Object.keys(ranges)).toHaveLength(13);
    const { config, weights } = referenceCheckpoint(files);
    const restored = dequantizedWeights(weights, recipe);
    const logits = await model.logits(tokens);
    const rounded = referenceLogits(config, restored, tokens, { rows: [19], inputRounding: inputRoundingOf(recipe, ranges) });
    expect(maxAbsError(logits, rounded)).toBeLessThan(tolerances.logitActivationsInt8);
    expect(maxAbsError(logits, rounded)).toBeLessThan(maxAbsError(logits, referenceLogits(config, restored, tokens, { rows: [19], inputRounding: inputRoundingOf(recipe) })) / 2); // not dynamic ranges
  });

  test.each<[what: string, recipe: QuantizationRecipe, field: string]>([
    ["static ranges", presets["int8-static"], 'quantization.activations.ranges "static"'],
    ["GPTQ", { linear: int8, rounding: "gptq" }, 'quantization.rounding "gptq"'],
    ["SmoothQuant", { ...staticInt8, equalization: "smoothquant" }, 'quantization.equalization "smoothquant"'],
    ["AWQ", { linear: int8, equalization: "awq" }, 'quantization.equalization "awq"'],
  ])("refuses %s without calibration by a TypeError that names both", async (_, quantization, field) => {
    const message = `calibration is missing; expected text or tokens, since ${field} is worked out from them.`;
    await expect(loadModel(files, { backend: "cpu", quantization })).rejects.toThrow(new TypeError(message));
    const rows = compareQuantizations(files, { backend: "cpu", text: calibration, recipes: [{ ...quantization, name: "x" }] });
    await expect(rows.next()).rejects.toThrow(new TypeError(message));
  });

  test.each<[what: string, calibration: unknown, error: RegExp]>([
    ["one token", [1], /^calibration has 1 tokens; expected at least 2/],
    ["an id outside the vocabulary", [1, V], /^calibration\[1\] is 1003/],
    ["a number", 7, /^calibration is 7/],
  ])("refuses %s as calibration", async (_, wrong, error) => {
    await expect(loadModel(files, { backend: "cpu", quantization: "int8-static", calibration: wrong as never })).rejects.toThrow(error);
  });

  test("leaves calibration alone where the recipe has no use for it", async () => {
    const stages = new Set<string>();
    using model = await loadModel(files, { backend: "cpu", quantization: "nf4", calibration, onProgress: ({ stage }) => stages.add(stage) });
    expect(stages).not.toContain("calibrate");
    expect(model.adapter.notices).toEqual([]);
  });

  test("keeps and reports the columns of LLM.int8()'s outliers where it is given text, from the cache too, and loads without", async () => {
    const outliers = seededCheckpoint(outlierCheckpoint);
    const text = calibration.map((token) => token % outlierCheckpoint.vocabSize);
    const options: LoadOptions = { backend: "cpu", cache: new MapCache(), quantization: { ...presets["llm-int8"], name: "mine" }, calibration: text };
    using model = await loadModel(outliers, options);
    for (const { name, input } of model.quantization.tensors) {
      if (/c_attn|c_fc/.test(name)) expect(input).toEqual({ outlierColumns: 2, outlierShare: expect.closeTo(2 / 64, 2) as number, f16Columns: 2 });
      else if (name.includes("c_proj")) expect(input).toEqual({ outlierColumns: 0, outlierShare: 0 });
      else expect(input).toBeUndefined();
    }
    expect(model.adapter.notices).toEqual(["Calibration ran the first 128 of 130 tokens, in windows of 64."]);
    using without = await loadModel(outliers, { backend: "cpu", quantization: "llm-int8" });
    expect(without.quantization.tensors.some(({ input }) => input)).toBe(false);
    const f16Bytes = 2 * 2 * (4 + 2 * 192 + 4 + 2 * 256); // two layers, two columns, [192, 64] and [256, 64]
    expect(model.quantization.bytes.total - without.quantization.bytes.total).toBe(f16Bytes);
    expect(model.memory.scales - without.memory.scales).toBe(f16Bytes);
    const logits = await model.logits(text.slice(0, 9));
    expect(await without.logits(text.slice(0, 9))).not.toEqual(logits);
    using cached = await loadModel(outliers, options);
    expect(cached.quantization).toEqual({ ...model.quantization, quantizeMs: 0 });
    expect(cached.memory).toEqual(model.memory);
    expect(await cached.logits(text.slice(0, 9))).toEqual(logits);
  });

  test.each<[string, QuantizationRecipe, alphas: RegExp]>([
    ["SmoothQuant's search", { ...staticInt8, equalization: "smoothquant", smoothing: "search" }, /^0\.[3-9]5?$/],
    ["AWQ", { linear: int8, embedding: int8, equalization: "awq" }, /^(0|1|0\.\d5?)$/],
  ])("reports the α that each matrix took under %s, and none of one that is left alone", async (_, recipe, alphas) => {
    using model = await loadModel(seededCheckpoint(outlierCheckpoint), { backend: "cpu", quantization: recipe, calibration: calibration.map((token) => token % outlierCheckpoint.vocabSize) });
    const found = new Map(model.quantization.tensors.flatMap(({ name, input }) => (input?.smoothing === undefined ? [] : [[name, input.smoothing] as const])));
    expect([...found.keys()].filter((name) => /c_attn|c_fc/.test(name))).toHaveLength(4);
    for (const [name, alpha] of found) expect(`${alpha}`, name).toMatch(alphas);
    expect([...found.keys()].some((name) => name.includes("mlp.c_proj"))).toBe(false);
  });

  test("takes range beyond the outlier threshold out of static ranges", async () => {
    const outliers = seededCheckpoint(outlierCheckpoint);
    const text = calibration.map((token) => token % outlierCheckpoint.vocabSize);
    using model = await loadModel(outliers, { backend: "cpu", quantization: { ...staticInt8, outlierThreshold: 6 }, calibration: text });
    for (const { input } of model.quantization.tensors.filter(({ name }) => name.startsWith("h."))) expect(input!.range).toBeLessThanOrEqual(6);
  });

  test("rejects with signal.reason when aborted at each stage, and reports progress that never falls and ends at 1", async () => {
    const recipe: QuantizationRecipe = { ...staticInt8, rounding: "gptq", equalization: "smoothquant", smoothing: "search" };
    const seen: LoadProgress[] = [];
    using _ = await loadModel(files, { backend: "cpu", quantization: recipe, calibration, onProgress: (each) => seen.push(each) });
    for (let i = 1; i < seen.length; i++) expect(seen[i]!.fraction).toBeGreaterThanOrEqual(seen[i - 1]!.fraction);
    expect(seen.at(-1)).toMatchObject({ stage: "compile", fraction: 1 });
    const runs = seen.filter(({ stage, loaded }) => stage === "calibrate" && loaded === 0).length;
    expect(runs).toBe(3); // grams of the checkpoint as it is; statistics, then grams of the equalized one
    for (let run = 1; run <= runs; run++) {
      let begun = 0;
      const controller = new AbortController();
      const onProgress = ({ stage, loaded }: LoadProgress): void => {
        if (stage === "calibrate" && loaded === 0 && ++begun === run) controller.abort(`run ${run}`);
      };
      await expect(loadModel(files, { backend: "cpu", quantization: recipe, calibration, signal: controller.signal, onProgress })).rejects.toBe(`run ${run}`);
    }
  });
});

describe("loadModel with calibration from the network", () => {
  let hub: HubServer;
  beforeAll(async () => {
    hub = await startHubServer({ repositories: { "someone/tiny": seededCheckpoint(tinyCheckpoints.oneLayer) } });
  });
  afterAll(() => hub.close());

  test("downloads nothing for a recipe that misses it, and else each byte once", async () => {
    const options = { backend: "cpu", quantization: { ...staticInt8, rounding: "gptq" }, hub: { endpoint: hub.endpoint } } as const;
    await expect(loadModel("someone/tiny", options)).rejects.toThrow(TypeError);
    expect(hub.requests).toEqual([]);
    using model = await loadModel("someone/tiny", { ...options, calibration: [1, 2, 3, 4] });
    expect(await model.logits([1, 2])).toHaveLength(97);
    expect(hub.requests.filter(({ server, path }) => server === "cdn" && path.includes("model.safetensors"))).toHaveLength(1);
  });
});

describe("int8 activations of a checkpoint with planted outlier channels", () => {
  const files = seededCheckpoint(outlierCheckpoint);
  const { vocabSize: V, nPositions } = outlierCheckpoint;

  /** What the model itself says after one token, window by window: text that it predicts well. */
  async function draw(firstSeed: number, windows: number): Promise<number[]> {
    using model = await loadModel(files, { backend: "cpu", quantization: "f32" });
    const tokens: number[] = [];
    for (let seed = firstSeed; seed < firstSeed + windows; seed++) tokens.push(seed % V, ...(await model.complete([seed % V], { maxTokens: nPositions - 1, seed })).tokens);
    return tokens;
  }

  test("collapse with static ranges, and are rescued by LLM.int8() and SmoothQuant; GPTQ and AWQ help the weights", async () => {
    const [text, calibration] = [await draw(1, 8), await draw(100, 8)];
    const embedding = { type: "f16" } as const;
    const recipes: QuantizationRecipe[] = [
      { name: "weights alone", linear: int8, embedding },
      { name: "static", linear: int8, embedding, activations: { type: "int8", ranges: "static" } },
      { ...presets["llm-int8"], embedding },
      { name: "smoothquant", linear: int8, embedding, activations: { type: "int8", ranges: "static" }, equalization: "smoothquant" },
      { name: "gptq", linear: int8, embedding, rounding: "gptq" },
      { name: "awq", linear: int8, embedding, equalization: "awq" },
    ];
    const rows = new Map<string, ComparisonRow>();
    for await (const row of compareQuantizations(files, { backend: "cpu", text, calibration, protocol: "disjoint", recipes })) rows.set(row.name, row);
    const [weights, collapsed, llmInt8, smoothed, gptq, awq] = recipes.map(({ name }) => rows.get(name!)!) as [ComparisonRow, ComparisonRow, ComparisonRow, ComparisonRow, ComparisonRow, ComparisonRow];
    expect(rows.get("f32")!.perplexity).toBeLessThan(10);
    expect(collapsed.ratio).toBeGreaterThan(3);
    expect(collapsed.klDivergence.mean).toBeGreaterThan(1);
    expect(llmInt8.ratio).toBeLessThan(1.01);
    expect(llmInt8.klDivergence.mean).toBeLessThan(weights.klDivergence.mean / 50); // the weights that matter are not rounded to int8
    expect(smoothed.ratio).toBeLessThan(1.02);
    expect(smoothed.klDivergence.mean).toBeLessThan(collapsed.klDivergence.mean / 300);
    expect(smoothed.klDivergence.mean).toBeLessThan(weights.klDivergence.mean / 10); // equal columns are easier to round, too
    expect(gptq.klDivergence.mean).toBeLessThan(weights.klDivergence.mean);
    expect(awq.klDivergence.mean).toBeLessThan(weights.klDivergence.mean / 10);
    expect(smoothed.tensors.filter(({ input }) => input?.smoothing === 0.5).map(({ name }) => name).sort()).toEqual(["h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight", "h.1.attn.c_attn.weight", "h.1.mlp.c_fc.weight"]);
    expect(llmInt8.tensors.find(({ name }) => name === "h.1.mlp.c_fc.weight")!.input).toEqual({ outlierColumns: 2, outlierShare: expect.closeTo(2 / 64, 2) as number, f16Columns: 2 });
  });
});
