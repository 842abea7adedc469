import { afterEach, describe, expect, test, vi } from "vitest";
import { version } from "../../package.json";
import { comparisonCsv, type CompareOptions, type Comparison, type ComparisonRow, type ComparisonRun, compareQuantizations, decodeComparison, encodeComparison, EngineError, mergeComparisons } from "../../src/index.ts";
import { presets, resolveRecipe } from "../../src/quantize/recipes.ts";
import { outlierCheckpoint, seededCheckpoint } from "../fixtures/seededCheckpoint.ts";
import { referenceMeasures, referenceSamples } from "../reference/comparison.ts";
import { dequantizedWeights, referenceCheckpoint } from "../reference/weights.ts";
import { tolerances } from "../tolerances.ts";

const V = 97;
const shape = { nLayer: 2, nHead: 2, nEmbd: 12, nPositions: 24, vocabSize: V, seed: 800 } as const;
const files = seededCheckpoint(shape);
/** With weights that f16 cannot hold. */
const hugeWeights = seededCheckpoint({ ...shape, outliers: { channels: [3], gain: 1e-6 } });
const text = Array.from({ length: 111 }, (_, i) => (i * i * 13 + 7) % V);
const protocols = [
  { protocol: "strided", windowTokens: 16, strideTokens: 7 },
  { protocol: "disjoint", windowTokens: 20, strideTokens: 20 },
  { protocol: "llama.cpp", windowTokens: 13, strideTokens: 13 },
] as const;

async function compare(options: Partial<CompareOptions> = {}, source = files): Promise<Comparison> {
  const comparing = compareQuantizations(source, { backend: "cpu", kvCache: "f32", text, recipes: ["int8", "nf4"], windowTokens: 16, ...options });
  for (;;) {
    const next = await comparing.next();
    if (next.done) return next.value;
  }
}

/** Times differ from run to run; the shard is what was asked for. */
const withoutTimes = ({ rows, ...rest }: Comparison): unknown => ({
  ...rest,
  rows: rows.map(({ quantizeMs: _quantize, prefillTokensPerSecond: _prefill, decodeTokensPerSecond: _decode, ...row }) => row),
});

const shardsOf = (count: number, options: Partial<CompareOptions> = {}): Promise<Comparison[]> => Promise.all(Array.from({ length: count }, (_, index) => compare({ ...options, shard: { index, count } })));

describe("compareQuantizations", () => {
  afterEach(() => vi.unstubAllGlobals());

  test.each(protocols)("reports every measure as the oracle's two models give it: %j", async (options) => {
    const { rows, scoredTokens } = await compare(options);
    const { config, weights } = referenceCheckpoint(files);
    for (const row of rows.slice(1)) {
      const samples = referenceSamples(config, dequantizedWeights(weights, resolveRecipe(row.recipe)), weights, text, options);
      expect(scoredTokens).toBe(samples.nlls.length);
      expect(distance(row, referenceMeasures(samples))).toBeLessThan(tolerances.measureRelative);
    }
  });

  test("gives the baseline 1 ± 0, 0 ± 0 and no divergence", async () => {
    expect((await compare()).rows[0]).toMatchObject({ ratio: 1, ratioError: 0, difference: 0, differenceError: 0, klDivergence: { mean: 0, error: 0, max: 0 }, sameTopToken: { fraction: 1, error: 0 }, deltaP: { rms: 0, rmsError: 0 } });
  });

  test("knows no error from one scored token, and no bits per byte of tokens", async () => {
    const { rows } = await compare({ text: text.slice(0, 2) });
    for (const row of rows) {
      expect(row.perplexity).toBeGreaterThan(1);
      expect([row.standardError, row.ratioError, row.differenceError, row.klDivergence.error, row.sameTopToken.error, row.deltaP.error]).toEqual(Array.from({ length: 6 }, () => NaN));
      expect(row.bitsPerByte).toBeNull();
      expect(row.klDivergence.median).toBe(row.klDivergence.max);
    }
    expect((await compare({ text: text.slice(0, 3) })).rows[1]!.standardError).toBeGreaterThan(0); // control case
  });

  test("measures the same in a context too short to time", async () => {
    const options = { windowTokens: 2, strideTokens: 1 };
    const expected = (await compare(options)).rows;
    for (const contextLength of [2, 4, 5, 6]) {
      const { rows } = await compare({ ...options, contextLength });
      expect(rows.map(({ perplexity, klDivergence, error }) => [perplexity, klDivergence, error])).toEqual(expected.map(({ perplexity, klDivergence, error }) => [perplexity, klDivergence, error]));
      expect(rows.every(({ prefillTokensPerSecond, decodeTokensPerSecond }) => prefillTokensPerSecond > 0 && decodeTokensPerSecond > 0)).toBe(contextLength === 6);
    }
  });

  test("gives bits per byte where there is text", async () => {
    const full = seededCheckpoint({ ...shape, vocabSize: 50257 });
    const { rows, scoredBytes } = await compare({ text: "One day a fox found a bell.", recipes: [] }, full);
    expect(scoredBytes).toBe("One day a fox found a bell.".length - "One".length); // the first token is never scored
    expect(rows[0]!.bitsPerByte).toBeCloseTo((Math.log2(rows[0]!.perplexity) * 7) / scoredBytes!, 9);
  });

  test("reports LLM.int8()'s outliers from the text where no calibration is given, and keeps f16 columns by calibration alone", async () => {
    const outliers = seededCheckpoint(outlierCheckpoint);
    const inputOf = ({ rows }: Comparison) => rows[1]!.tensors.find(({ name }) => name === "h.1.mlp.c_fc.weight")!.input;
    const given = await compare({ recipes: ["llm-int8"], calibration: text }, outliers);
    const without = await compare({ recipes: ["llm-int8"] }, outliers);
    expect(inputOf(without)).toEqual({ outlierColumns: 2, outlierShare: expect.closeTo(2 / 64, 2) as number });
    expect(inputOf(given)).toEqual({ ...inputOf(without), f16Columns: 2 });
    expect(without.calibration).toBeNull();
    const unseen = await compare({ recipes: ["llm-int8"], baseline: "int8" }, outliers); // no floats at hand
    expect(inputOf(unseen)).toBeUndefined();
    expect(unseen.rows[1]!.bytes).toEqual(without.rows[1]!.bytes);
  });

  test("says what was measured: the model, the text, the engine", async () => {
    const [one, other] = [await compare({ recipes: [], calibration: [1, 2] }), await compare({ recipes: [], kvCache: "int8" }, seededCheckpoint({ ...shape, seed: 801 }))];
    expect(one).toMatchObject({ engineVersion: version, model: { source: "2 files", config: { nEmbd: 12 } }, text: { tokens: 111 }, calibration: { tokens: 2 }, kvCache: "f32", shard: null });
    expect(one.model.sha256).toMatch(/^[0-9a-f]{64}$/);
    expect(other.model.sha256).not.toBe(one.model.sha256);
    expect([other.text, other.calibration, other.kvCache]).toEqual([one.text, null, "int8"]);
    const half = await compare({ recipes: [] }, seededCheckpoint({ ...shape, prefix: true, maskBuffers: true }));
    expect(half.model.sha256).toBe(one.model.sha256); // the same weights under other names
  });

  test("gives the same hashes in a page that is no secure context, which has no crypto.subtle", async () => {
    const { model, text } = await compare({ recipes: [] });
    vi.stubGlobal("crypto", {});
    expect(await compare({ recipes: [] })).toMatchObject({ model: { sha256: model.sha256 }, text });
  });

  test("waits before each window as long as it is told to, and measures the same", async () => {
    const scored: number[] = [];
    let seenTokens = 0;
    const beforeWindow = async (): Promise<void> => {
      scored.push(seenTokens);
      await Promise.resolve();
    };
    const paused = await compare({ recipes: ["int8"], protocol: "disjoint", beforeWindow, onProgress: ({ scoredTokens }) => (seenTokens = scoredTokens) });
    const starts = [0, 15, 30, 45, 60, 75]; // 111 tokens in six windows of 16, the first token of each not scored
    expect(scored).toEqual([...starts, ...starts]);
    expect(withoutTimes(paused)).toEqual(withoutTimes(await compare({ recipes: ["int8"], protocol: "disjoint" })));
  });

  test("ends at once when aborted while it waits, and with what the waiting fails of", async () => {
    const controller = new AbortController();
    const reason = { because: "enough" };
    const beforeWindow = (): Promise<void> => {
      queueMicrotask(() => controller.abort(reason));
      return new Promise(() => undefined);
    };
    await expect(compare({ beforeWindow, signal: controller.signal })).rejects.toBe(reason);
    await expect(compare({ beforeWindow: () => Promise.reject(new Error("no more")) })).rejects.toThrow("no more");
  });

  test("says what all rows share before the first is given, and how many there are to be", async () => {
    const given: unknown[] = [];
    const comparing = compareQuantizations(files, { backend: "cpu", kvCache: "f32", text, recipes: ["int8", "nf4"], windowTokens: 16, onStart: (run) => given.push(run) });
    const { value: row } = await comparing.next();
    const [run] = given as [ComparisonRun];
    await comparing.return(undefined as never);
    const { rows: _, ...whole } = await compare();
    expect(given).toEqual([{ ...whole, plannedRows: 3 }]);
    const unfinished = { ...run, rows: [row as ComparisonRow] };
    expect(decodeComparison(encodeComparison(unfinished))).toEqual(unfinished);
    expect(comparisonCsv(unfinished.rows, run).split("\r\n").slice(0, 2)).toEqual([expect.stringMatching(/,plannedRows$/), expect.stringMatching(/,3$/)]);
  });

  test.each<[what: string, options: Partial<CompareOptions>, message: string]>([
    ["a shard beyond the count", { shard: { index: 2, count: 2 } }, "shard.index is 2; expected an integer from 0 to 1."],
    ["no shards", { shard: { index: 0, count: 0 } }, "shard.count is 0"],
    ["half a shard", { shard: { index: 0.5, count: 2 } }, "shard.index is 0.5"],
    ["a recipe with a wrong field", { recipes: [{ name: "mine", linear: { type: "int3" } as never }] }, 'Recipe "mine": quantization.linear'],
  ])("refuses %s before it measures anything", async (_, options, message) => {
    await expect(compareQuantizations(files, { backend: "cpu", text, recipes: [], windowTokens: 16, ...options }).next()).rejects.toThrow(message);
  });
});

describe("mergeComparisons", () => {
  test.each(protocols)("joins shards to the very numbers of the whole: %j", async (options) => {
    const whole = await compare({ ...options, samples: true });
    for (const count of [1, 2, 3]) {
      const shards = await shardsOf(count, options);
      expect(shards.reduce((sum, { windows }) => sum + windows, 0)).toBe(whole.windows);
      expect(withoutTimes(mergeComparisons(shards.toReversed()))).toEqual(withoutTimes(whole));
    }
  });

  test("joins shards that have no window, whose measures are NaN", async () => {
    const options = { protocol: "disjoint", windowTokens: 24, recipes: ["int8"] } as const; // four windows
    const shards = await shardsOf(6, options);
    expect(shards[5]).toMatchObject({ windows: 0, scoredTokens: 0, rows: [{ perplexity: NaN, ratio: NaN }, { klDivergence: { mean: NaN, max: NaN } }] });
    expect(withoutTimes(mergeComparisons(shards))).toEqual(withoutTimes(await compare({ ...options, samples: true })));
  });

  test("adds bytes up, takes the median of times, and fails a row that failed in one shard", async () => {
    const shards = await shardsOf(3, { recipes: ["int8", "nf4"] });
    const timed = shards.map((shard, i): Comparison => ({
      ...shard,
      scoredBytes: 10 + i,
      rows: shard.rows.map((row, r): ComparisonRow => ({ ...row, quantizeMs: [5, 1, 9][i]!, decodeTokensPerSecond: [2, 30, 1][i]!, ...(i === 1 && r === 2 ? { error: new EngineError("outOfMemory", "Full.") } : {}) })),
    }));
    const { rows, scoredBytes } = mergeComparisons(timed);
    expect(scoredBytes).toBe(33);
    expect(rows[1]).toMatchObject({ quantizeMs: 5, decodeTokensPerSecond: 2 });
    expect(rows[2]).toMatchObject({ name: "nf4", perplexity: NaN, error: { code: "outOfMemory" } });
    expect(rows[1]!.bitsPerByte).toBeCloseTo((Math.log2(rows[1]!.perplexity) * 110) / 33, 9);
  });

  test("notices that shards ran on different devices", async () => {
    const [first, second] = (await shardsOf(2, { recipes: [] })) as [Comparison, Comparison];
    expect(mergeComparisons([first, second]).adapter).toEqual(first.adapter); // control case
    expect(mergeComparisons([first, { ...second, adapter: { ...second.adapter, vendor: "acme" } }]).adapter.notices.at(-1)).toContain("different devices");
  });

  describe("refuses", () => {
    const complete = shardsOf(3, { recipes: ["int8"] });
    const samplesCut = ({ rows, ...rest }: Comparison): Comparison => ({ ...rest, rows: rows.map((row) => ({ ...row, samples: { ...row.samples!, nll: row.samples!.nll.subarray(1) } })) });
    test.each<[what: string, change: (shards: Comparison[]) => Comparison[], message: string]>([
      ["a missing shard", ([a, , c]) => [c!, a!], "2 of 3 shards are given; shard 2/3 is missing."],
      ["a missing last shard", ([a, b]) => [a!, b!], "shard 3/3 is missing"],
      ["a shard given twice", ([a, b, c]) => [a!, b!, b!, c!], "Shard 2/3 is given twice"],
      ["a shard of another count", ([a, b, c]) => [a!, b!, { ...c!, shard: { index: 2, count: 4 } }], "Shard 3/4 has shard.count 4, but shard 1/3 has 3"],
      ["another text", ([a, b, c]) => [a!, { ...b!, text: { ...b!.text, sha256: "00" } }, c!], 'Shard 2/3 has text.sha256 "00"'],
      ["another model", ([a, b, c]) => [a!, b!, { ...c!, model: { ...c!.model, sha256: "00" } }], "Shard 3/3 has model.sha256"],
      ["another protocol", ([a, b, c]) => [a!, b!, { ...c!, protocol: "disjoint" }], 'has protocol "disjoint", but shard 1/3 has "strided"'],
      ["another window", ([a, b, c]) => [a!, b!, { ...c!, windowTokens: 12 }], "has windowTokens 12"],
      ["another calibration text", ([a, b, c]) => [a!, b!, { ...c!, calibration: c!.text }], "has calibration"],
      ["another engine", ([a, b, c]) => [a!, b!, { ...c!, engineVersion: "9.9.9" }], 'has engineVersion "9.9.9"'],
      ["rows of other names", ([a, b, c]) => [a!, b!, { ...c!, rows: c!.rows.slice(0, 1) }], 'has rows named ["f32"], but shard 1/3 has ["f32","int8"]'],
      ["another recipe of the same name", ([a, b, c]) => [a!, b!, { ...c!, rows: [c!.rows[0]!, { ...c!.rows[1]!, recipe: { name: "int8", linear: { type: "f16" } } }] }], 'has recipe "int8" {"name":"int8","linear":{"type":"f16"}}'],
      ["rows without samples", ([a, b, c]) => [a!, b!, { ...c!, rows: c!.rows.map(({ samples: _samples, ...row }) => row) }], 'Shard 3/3 has no samples in row "f32"'],
      ["samples that are cut off", ([a, b, c]) => [a!, b!, samplesCut(c!)], "samples of nll in row"],
      ["a number of windows that the text does not have", ([a, b, c]) => [a!, b!, { ...c!, windows: c!.windows + 1 }], "windows together"],
      ["a text too long to plan", (shards) => shards.map((shard) => ({ ...shard, text: { ...shard.text, tokens: 1e15 } })), "windows together"],
    ])("%s, having accepted the three", async (_, change, message) => {
      const shards = await complete;
      mergeComparisons(shards); // control case
      expect(() => mergeComparisons(change([...shards]))).toThrow(RangeError);
      expect(() => mergeComparisons(change([...shards]))).toThrow(message);
    });

    test("nothing at all", () => expect(() => mergeComparisons([])).toThrow(TypeError));
  });
});

/** What made an error stays behind. */
const withoutCauses = (comparison: Comparison): Comparison => ({ ...comparison, rows: comparison.rows.map((row) => (row.error ? { ...row, error: new EngineError(row.error.code, row.error.message, row.error.details) } : row)) });

describe("encodeComparison and decodeComparison", () => {
  const shard = compare({ shard: { index: 1, count: 2 }, recipes: ["int8", "f16", { name: "mine", linear: presets.int4.linear, overrides: { "h.0.*": { type: "nf4", block: 64 } } }] }, hugeWeights).then(withoutCauses);

  test("give back every bit, NaN, infinities and errors included", async () => {
    const comparison = await shard;
    const { error, ...decoded } = decodeComparison(encodeComparison(comparison)).rows[2]!;
    expect(error).toBeInstanceOf(EngineError);
    expect({ ...error }).toEqual({ ...comparison.rows[2]!.error! });
    expect({ ...decoded, error }).toEqual(comparison.rows[2]);
    expect(decodeComparison(encodeComparison(comparison))).toEqual(comparison);
    expect(comparison.rows[0]!.tensors[0]!.sqnrDb).toBe(Infinity);
  });

  test("write samples as base64 of little-endian f32", async () => {
    const comparison = await shard;
    const { rows } = JSON.parse(encodeComparison(comparison)) as { rows: { samples: { nll: string } }[] };
    const bytes = Buffer.from(rows[0]!.samples.nll, "base64");
    expect(bytes.readFloatLE(4)).toBe(comparison.rows[0]!.samples!.nll[1]);
  });

  test("merge as the shards themselves do", async () => {
    const shards = await shardsOf(2);
    expect(mergeComparisons(shards.map((each) => decodeComparison(encodeComparison(each))))).toEqual(mergeComparisons(shards));
  });

  test.each<[what: string, change: (text: string) => string, message: string]>([
    ["no JSON", (json) => json.slice(0, -1), "Not a comparison:"],
    ["another format", (json) => json.replace("nibble-comparison/1", "nibble-comparison/9"), 'format is "nibble-comparison/9"; expected "nibble-comparison/1"'],
    ["a list", () => "[]", "the whole is"],
    ["a word for a number", (json) => json.replace(/"p99": [^,]+/, '"p99": "big"'), 'rows[0].klDivergence.p99 is "big"; expected a number'],
    ["a missing field", (json) => json.replace(/"ratioError": [^,]+,/, ""), "rows[0].ratioError is undefined"],
    ["samples that are not base64", (json) => json.replace(/"nll": "/, '"nll": "*'), "rows[0].samples.nll is not base64"],
    ["samples that end inside a number", (json) => json.replace(/"baselineNll": "[^"]+"/, '"baselineNll": "AAAA"'), "rows[0].samples.baselineNll has 3 bytes; expected a multiple of 4"],
    ["a recipe that is none", (json) => json.replace('"type": "f32"', '"type": "f3"'), "quantization.linear"],
    ["a shard beyond the count", (json) => json.replace('"index": 1', '"index": 2'), "shard.index is 2; expected less than the count, 2"],
    ["a negative count", (json) => json.replace('"windows": ', '"windows": -'), "windows is -"],
    ["an error of no known code", (json) => json.replace('"code": "quantize"', '"code": "rude"'), 'rows[2].error.code is "rude"'],
  ])("refuse %s, having accepted the file without it", async (_, change, message) => {
    const json = encodeComparison(await shard);
    decodeComparison(json); // control case
    expect(() => decodeComparison(change(json))).toThrow(EngineError);
    expect(() => decodeComparison(change(json))).toThrow(expect.objectContaining({ code: "integrity", message: expect.stringContaining(message) as string }));
  });
});

describe("compareQuantizations, given an override that matches no matrix", () => {
  const overriding = (glob: string) => [{ name: "mine", linear: presets.int8.linear, overrides: { [glob]: { type: "f16" as const } } }];

  test("refuses it by the recipe's name before anything is measured", async () => {
    const measured = compareQuantizations(files, { backend: "cpu", text, windowTokens: 16, recipes: overriding("h.9.*") }).next();
    await expect(measured).rejects.toThrow(new RangeError('Recipe "mine": quantization.overrides has "h.9.*", which matches no matrix of this checkpoint; names look like "wte.weight".'));
  });
  test("takes one that matches", async () => {
    const { rows } = await compare({ recipes: overriding("h.1.*") });
    expect(rows[1]!.tensors.find(({ name }) => name === "h.1.mlp.c_fc.weight")!.format).toEqual({ type: "f16" }); // control case
  });
});

describe("comparisonCsv", () => {
  test("writes every number of every row in full, names in quotes where they need them", async () => {
    const { rows } = await compare({ recipes: ["f16", { name: 'mine, "best"', linear: presets.int4.linear }] }, hugeWeights);
    const lines = comparisonCsv(rows).split("\r\n");
    expect(lines).toHaveLength(5);
    const names = lines[0]!.split(",");
    expect(names).toEqual(expect.arrayContaining(["name", "bytesTotal", "perplexity", "bitsPerByte", "differenceError", "klDivergenceP999", "sameTopTokenFraction", "deltaPRmsError", "decodeTokensPerSecond", "error"]));
    const f32 = lines[1]!.split(",");
    expect(Number(f32[names.indexOf("perplexity")])).toBe(rows[0]!.perplexity);
    expect(f32[names.indexOf("bitsPerByte")]).toBe("");
    expect(lines[2]).toMatch(/^f16,,+".*at most ±65504.*"$/);
    expect(lines[3]!.startsWith('"mine, ""best""",')).toBe(true);
  });

  test("ends each line with what was measured, where and by which version, where the run is given", async () => {
    const { rows, ...run } = await compare({ recipes: ["int8"] });
    const [head, ...lines] = comparisonCsv(rows, run).trimEnd().split("\r\n");
    expect(head!.split(",").slice(-12)).toEqual(["error", "protocol", "windowTokens", "strideTokens", "scoredTokens", "textTokens", "textSha256", "model", "modelSha256", "backend", "adapter", "engineVersion"]);
    for (const line of lines) {
      expect(line).toContain(`,strided,16,8,110,111,${run.text.sha256},`);
      expect(line.endsWith(`,cpu,${run.adapter.description},${version}`)).toBe(true);
    }
    expect(comparisonCsv(rows).split("\r\n")[0]!.endsWith(",error")).toBe(true); // control case
  });
});

type Measures = ReturnType<typeof referenceMeasures>;

/** Largest distance of a measure from the expected one: of perplexities relative to the perplexity, of the values of a distribution to the largest of them. */
function distance(actual: Measures, expected: Measures): number {
  const far = (a: object, b: object, scale = Math.max(...Object.values<number>({ ...b }).map(Math.abs))): number => Math.max(...Object.entries<number>({ ...b }).map(([name, value]) => Math.abs((a as Record<string, number>)[name]! - value) / scale));
  const ratios = ({ ratio, ratioError }: Measures) => ({ ratio, ratioError });
  const perplexities = ({ perplexity, standardError, difference, differenceError }: Measures) => ({ perplexity, standardError, difference, differenceError });
  return Math.max(far(ratios(actual), ratios(expected)), far(perplexities(actual), perplexities(expected)), far(actual.klDivergence, expected.klDivergence), far(actual.sameTopToken, expected.sameTopToken), far(actual.deltaP, expected.deltaP));
}
