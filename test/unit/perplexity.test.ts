import { describe, expect, test } from "vitest";
import { emptyRow, measuresOf, type RowMeasures, sampleRow } from "../../src/evaluate/comparison.ts";
import { measurePerplexity, SCORE_BLOCK_ROWS, tokenByteLengths } from "../../src/evaluate/perplexity.ts";
import { planWindows, type WindowPlan } from "../../src/evaluate/protocols.ts";
import { EngineError } from "../../src/errors.ts";
import type { PerplexityOptions, PerplexityProgress } from "../../src/types.ts";
import { byteTokenizer } from "../fixtures/byteTokenizer.ts";
import { FormulaBackend, type LogitFormula } from "../fixtures/formulaBackend.ts";

const V = 11;
const base: LogitFormula = (context, id) => 2 * Math.sin(id * 0.7 + context.at(-1)! * 1.9 + context.length * 0.3);
const perturbed: LogitFormula = (context, id) => base(context, id) + 0.3 * Math.cos(id * 2.1 + context.length);
const text = (length: number): number[] => Array.from({ length }, (_, i) => (i * i + 3 * i) % V);

/** The definition: ln p of each scored token from the tokens of its window before it. */
function directly(backend: FormulaBackend, tokens: readonly number[], plan: WindowPlan): { rows: Float64Array[]; targets: number[]; nlls: number[] } {
  const rows: Float64Array[] = [];
  const targets: number[] = [];
  for (const { start, scoreFrom, scoreTo } of plan.windows) {
    for (let row = scoreFrom; row < scoreTo; row++) {
      rows.push(backend.logSoftmax(tokens.slice(start, start + row + 1)));
      targets.push(tokens[start + row + 1]!);
    }
  }
  return { rows, targets, nlls: rows.map((row, i) => -row[targets[i]!]!) };
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
const errorOfMean = (values: readonly number[]): number => Math.sqrt((mean(values.map((value) => value * value)) - mean(values) ** 2) / (values.length - 1));
/** Scores cross the backend's interface as f32. */
const F32_DIGITS = 5;

describe("measurePerplexity", () => {
  test.each<PerplexityOptions>([
    { protocol: "strided", windowTokens: 16, strideTokens: 5 },
    { protocol: "strided", windowTokens: 64 },
    { protocol: "disjoint", windowTokens: 16 },
    { protocol: "llama.cpp", windowTokens: 16 },
  ])("is exp of the mean over the scored tokens, with its error: %j", async (options) => {
    const tokens = text(70);
    const plan = planWindows(tokens.length, options, 64);
    const backend = new FormulaBackend(V, base);
    const { report, nlls } = await measurePerplexity(backend, tokens, plan, null);
    const expected = directly(backend, tokens, plan).nlls;
    expect(nlls).toHaveLength(expected.length);
    for (const [i, nll] of expected.entries()) expect(nlls[i]).toBeCloseTo(nll, F32_DIGITS);
    expect(report).toEqual({
      perplexity: expect.closeTo(Math.exp(mean(expected)), F32_DIGITS) as number,
      standardError: expect.closeTo(Math.exp(mean(expected)) * errorOfMean(expected), F32_DIGITS) as number,
      nll: expect.closeTo(mean(expected), F32_DIGITS) as number,
      bitsPerByte: null,
      scoredTokens: expected.length,
      windows: plan.windows.length,
      protocol: options.protocol,
      windowTokens: options.windowTokens,
      strideTokens: plan.strideTokens,
    });
  });

  test("encodes windows of one length together where the backend takes several, to the same scores", async () => {
    const plans = [planWindows(50, { windowTokens: 8 }, 64), planWindows(50, { protocol: "disjoint", windowTokens: 7 }, 64), planWindows(50, { windowTokens: 8, strideTokens: 3 }, 64)];
    for (const plan of plans) {
      const alone = new FormulaBackend(V, base);
      const together = Object.assign(new FormulaBackend(V, base), { windowsAtOnce: () => 3 });
      const expected = await measurePerplexity(alone, text(50), plan, null);
      expect((await measurePerplexity(together, text(50), plan, null)).nlls).toEqual(expected.nlls);
      const encoded = together.calls.filter((call) => call.startsWith("encodeWindow"));
      expect(encoded[0]).toBe(`encodeWindow ${3 * plan.windowTokens} by ${plan.windowTokens}`);
      expect(encoded.length).toBeLessThan(alone.calls.filter((call) => call.startsWith("encodeWindow")).length);
      const candidate = Object.assign(new FormulaBackend(V, perturbed), { windowsAtOnce: () => 2 });
      const compared = await measureRow(candidate, together, text(50), plan);
      expect(compared).toEqual(await measureRow(new FormulaBackend(V, perturbed), alone, text(50), plan));
    }
  });

  test("encodes each window once and scores it in blocks", async () => {
    const length = 2 * SCORE_BLOCK_ROWS + 2;
    const backend = new FormulaBackend(V, () => 0);
    await measurePerplexity(backend, text(length + 3), planWindows(length + 3, { windowTokens: length, strideTokens: 2 }, 1024), null);
    expect(backend.calls).toEqual([
      `encodeWindow ${length}`,
      `score 0 ${SCORE_BLOCK_ROWS}`,
      `score ${SCORE_BLOCK_ROWS} ${SCORE_BLOCK_ROWS}`,
      `score ${2 * SCORE_BLOCK_ROWS} 1`,
      `encodeWindow ${length}`,
      `score ${length - 3} 2`,
      `encodeWindow ${length - 1}`,
      `score ${length - 3} 1`,
    ]);
  });

  test("reports the running perplexity, the last time the final one", async () => {
    const tokens = text(40);
    const progress: PerplexityProgress[] = [];
    const { report, nlls } = await measurePerplexity(new FormulaBackend(V, base), tokens, planWindows(40, { protocol: "disjoint", windowTokens: 10 }, 64), null, {
      onProgress: (step) => progress.push(step),
    });
    expect(progress.map(({ scoredTokens, totalTokens }) => [scoredTokens, totalTokens])).toEqual([[9, 36], [18, 36], [27, 36], [36, 36]]);
    expect(progress[0]!.perplexity).toBeCloseTo(Math.exp(mean([...nlls.subarray(0, 9)])), 12);
    expect(progress.at(-1)!.perplexity).toBeCloseTo(report.perplexity, 12);
  });

  test("gives bits per byte over the bytes of the scored tokens", async () => {
    const tokens = byteTokenizer.encode("aé🙂b日本!");
    const backend = new FormulaBackend(256, (context, id) => Math.sin(id + context.length));
    const byteLengths = tokenByteLengths(tokens, byteTokenizer);
    for (const options of [{ windowTokens: 8, strideTokens: 4 }, { protocol: "disjoint", windowTokens: 7 }] as const) {
      const plan = planWindows(tokens.length, options, 64);
      const { report, nlls } = await measurePerplexity(backend, tokens, plan, byteLengths);
      const scored = plan.windows.flatMap(({ start, scoreFrom, scoreTo }) => [...byteLengths.subarray(start + scoreFrom + 1, start + scoreTo + 1)]);
      const bytes = scored.reduce((sum, length) => sum + length, 0);
      expect(report.bitsPerByte).toBeCloseTo([...nlls].reduce((sum, nll) => sum + nll / Math.LN2, 0) / bytes, 12);
    }
  });

  test("rejects with the reason, untouched, when aborted between blocks", async () => {
    const controller = new AbortController();
    const backend = new FormulaBackend(V, base);
    const plan = planWindows(40, { protocol: "disjoint", windowTokens: 10 }, 64);
    const measurement = measurePerplexity(backend, text(40), plan, null, {
      signal: controller.signal,
      onProgress: ({ scoredTokens }) => scoredTokens === 18 && controller.abort("enough"),
    });
    await expect(measurement).rejects.toBe("enough");
    expect(backend.calls).toHaveLength(4);
  });

  test.each([NaN, Infinity, -Infinity])("rejects a log-probability of %d, naming the token", async (value) => {
    const plan = planWindows(40, { protocol: "disjoint", windowTokens: 10 }, 64);
    const backend = new FormulaBackend(V, base);
    await measurePerplexity(backend, text(40), plan, null); // control case
    const score = backend.score.bind(backend);
    let call = 0;
    backend.score = async (...args) => {
      const logProbs = await score(...args);
      if (++call === 3) logProbs[4] = value;
      return logProbs;
    };
    await expect(measurePerplexity(backend, text(40), plan, null)).rejects.toMatchObject({
      code: "shader",
      message: `Log-probability of token 25 of the text is ${value}; expected a finite number.`,
      details: { token: 25, value },
    });
  });
});

describe("tokenByteLengths", () => {
  test("counts a character where it ends, and sums to the bytes of the text", () => {
    const tokens = byteTokenizer.encode("aé🙂b");
    expect([...tokenByteLengths(tokens, byteTokenizer)]).toEqual([1, 0, 2, 0, 0, 0, 4, 1]);
  });
});

/** What a row says of its samples. */
async function measureRow(...args: Parameters<typeof sampleRow>): Promise<RowMeasures> {
  return measuresOf(await sampleRow(...args), null);
}

describe("sampleRow and measuresOf", () => {
  const tokens = text(90);
  const plan = planWindows(tokens.length, { windowTokens: 32, strideTokens: 16 }, 64);

  test("agrees with every measure computed directly from the two models' distributions", async () => {
    const candidate = new FormulaBackend(V, perturbed);
    const baseline = new FormulaBackend(V, base);
    const row = await measureRow(candidate, baseline, tokens, plan);

    const own = directly(candidate, tokens, plan);
    const theirs = directly(baseline, tokens, plan);
    const differences = own.nlls.map((nll, i) => nll - theirs.nlls[i]!);
    const kl = own.rows.map((q, i) => theirs.rows[i]!.reduce((sum, logP, id) => sum + Math.exp(logP) * (logP - q[id]!), 0));
    const deltaP = own.nlls.map((nll, i) => Math.exp(-nll) - Math.exp(-theirs.nlls[i]!));
    const top = (row: Float64Array): number => row.indexOf(Math.max(...row));
    const same = own.rows.filter((q, i) => top(q) === top(theirs.rows[i]!)).length / own.rows.length;
    const at = (values: readonly number[], fraction: number): number => {
      const sorted = [...values].sort((a, b) => a - b);
      const position = fraction * (sorted.length - 1);
      const lower = sorted[Math.floor(position)]!;
      return lower + (sorted[Math.ceil(position)]! - lower) * (position % 1);
    };
    const n = own.nlls.length;
    const expected = {
      perplexity: Math.exp(mean(own.nlls)),
      standardError: Math.exp(mean(own.nlls)) * errorOfMean(own.nlls),
      ratio: Math.exp(mean(differences)),
      ratioError: Math.exp(mean(differences)) * errorOfMean(differences),
      difference: Math.exp(mean(own.nlls)) - Math.exp(mean(theirs.nlls)),
      differenceError: errorOfMean(own.nlls.map((nll, i) => Math.exp(mean(own.nlls)) * nll - Math.exp(mean(theirs.nlls)) * theirs.nlls[i]!)),
      klDivergence: { mean: mean(kl), error: errorOfMean(kl), median: at(kl, 0.5), p90: at(kl, 0.9), p95: at(kl, 0.95), p99: at(kl, 0.99), p999: at(kl, 0.999), max: Math.max(...kl) },
      sameTopToken: { fraction: same, error: Math.sqrt((same * (1 - same)) / (n - 1)) },
      deltaP: {
        mean: mean(deltaP),
        error: errorOfMean(deltaP),
        rms: Math.sqrt(mean(deltaP.map((d) => d * d))),
        rmsError: errorOfMean(deltaP.map((d) => d * d)) / (2 * Math.sqrt(mean(deltaP.map((d) => d * d)))),
        min: Math.min(...deltaP),
        max: Math.max(...deltaP),
        ...Object.fromEntries([1, 5, 10, 25, 75, 90, 95, 99].map((percent) => [`p${percent}`, at(deltaP, percent / 100)])),
        median: at(deltaP, 0.5),
      },
    };
    expect(same).toBeGreaterThan(0);
    expect(same).toBeLessThan(1);
    expect(row).toEqual({ ...closeTo(expected), bitsPerByte: null });
  });

  test("of equal models: no divergence, ratio 1, every top token the same", async () => {
    const row = await measureRow(new FormulaBackend(V, base), new FormulaBackend(V, base), tokens, plan);
    expect(row).toMatchObject({ ratio: 1, ratioError: 0, klDivergence: { mean: 0, max: 0 }, sameTopToken: { fraction: 1, error: 0 }, deltaP: { rms: 0 } });
  });

  test("without a baseline gives the perplexity, and the row of a model compared with itself", async () => {
    const backend = new FormulaBackend(V, base);
    const alone = await measureRow(backend, null, tokens, plan);
    expect(alone).toEqual(await measureRow(new FormulaBackend(V, base), new FormulaBackend(V, base), tokens, plan));
    expect(backend.calls.join()).not.toContain("compare");
  });

  test("has both models encode each window before it is compared", async () => {
    const candidate = new FormulaBackend(V, perturbed);
    const baseline = new FormulaBackend(V, base);
    await measureRow(candidate, baseline, tokens, planWindows(tokens.length, { protocol: "llama.cpp", windowTokens: 40 }, 64));
    expect(baseline.calls).toEqual(["encodeWindow 40", "encodeWindow 40"]);
    expect(candidate.calls).toEqual(["encodeWindow 40", "compare 20 19", "encodeWindow 40", "compare 20 19"]);
  });

  test("reports progress, and rejects with the reason when aborted", async () => {
    const controller = new AbortController();
    const progress: number[] = [];
    const onProgress = ({ scoredTokens }: PerplexityProgress): void => {
      progress.push(scoredTokens);
      if (scoredTokens > 40) controller.abort("enough");
    };
    await expect(measureRow(new FormulaBackend(V, perturbed), new FormulaBackend(V, base), tokens, plan, { onProgress, signal: controller.signal })).rejects.toBe("enough");
    expect(progress).toEqual([31, 47]);
  });

  test.each(["baseLogProbs", "logProbs", "klDivergence"] as const)("rejects NaN in %s, having accepted the same rows without it", async (field) => {
    const candidate = new FormulaBackend(V, perturbed);
    await measureRow(candidate, new FormulaBackend(V, base), tokens, plan); // control case
    const compare = candidate.compare.bind(candidate);
    candidate.compare = async (...args) => {
      const rows = await compare(...args);
      rows[field][2] = NaN;
      return rows;
    };
    await expect(measureRow(candidate, new FormulaBackend(V, base), tokens, plan)).rejects.toMatchObject({ code: "shader", details: { token: 3, value: NaN } });
  });
});

describe("emptyRow", () => {
  test("keeps name, recipe and error; every measure is NaN", () => {
    const recipe = { linear: { type: "f32" } } as const;
    const error = new EngineError("unsupported", "No.");
    const { name, recipe: kept, error: reason, tensors, bitsPerByte, ...measures } = emptyRow("mine", recipe, error);
    expect([name, kept, reason, tensors, bitsPerByte]).toEqual(["mine", recipe, error, [], null]);
    const numbers = Object.values<number | object>(measures).flatMap((value) => (typeof value === "number" ? [value] : Object.values<number>({ ...value })));
    expect(new Set(numbers)).toEqual(new Set([NaN]));
  });
});

/** The same tree with every number replaced by a matcher for it. */
function closeTo(tree: object): object {
  return Object.fromEntries(Object.entries(tree).map(([key, value]: [string, unknown]) => [key, typeof value === "number" ? (expect.closeTo(value, F32_DIGITS) as unknown) : closeTo(value as object)]));
}
