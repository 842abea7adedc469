import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";
import {
  activate,
  erf,
  headLogits,
  klDivergence,
  kvRoundings,
  logSoftmax,
  logSumExp,
  referenceGreedy,
  referenceHidden,
  referenceLogits,
  referencePerplexity,
  referenceWindows,
  roundToF16,
} from "../reference/gpt2.ts";
import { maxAbsError, nmse } from "../reference/metrics.ts";
import { type ReferenceCheckpoint, referenceCheckpoint } from "../reference/weights.ts";
import { tolerances } from "../tolerances.ts";

interface GoldenPrompt {
  tokens: number[];
  top20: [id: number, logit: number][];
  logSumExp: number;
  greedy: number[];
}
interface GoldenWindow {
  tokens: number[];
  nll: number[]; // of tokens[i + 1]
}

const file = (path: string): Uint8Array => readFileSync(new URL(`../../${path}`, import.meta.url));
const golden = <T>(name: string): T => JSON.parse(new TextDecoder().decode(file(`test/fixtures/golden/${name}.json`))) as T;

describe("the oracle on the embedded model", () => {
  let stories: ReferenceCheckpoint;
  beforeAll(() => {
    const folder = "models/stories-12m";
    stories = referenceCheckpoint({ "config.json": file(`${folder}/config.json`), "model.safetensors": file(`${folder}/model.safetensors`) });
  });

  test.each(["prompt-1", "prompt-7", "prompt-64", "prompt-232", "prompt-256"])("gives the logits of %s.json", (name) => {
    const { tokens, top20, logSumExp: expected } = golden<GoldenPrompt>(name);
    const logits = referenceLogits(stories.config, stories.weights, tokens, { rows: [tokens.length - 1] });
    const values = top20.map(([id]) => logits[id]!);
    expect(maxAbsError(values, top20.map(([, logit]) => logit))).toBeLessThan(tolerances.oracleLogit);
    expect(Math.abs(logSumExp(logits) - expected)).toBeLessThan(tolerances.oracleLogit);
    expect(logits.filter((logit) => logit > values[19]!)).toHaveLength(19); // nothing else belongs among the first twenty
  });

  test.each(["prompt-1", "prompt-7"])("continues %s.json greedily, token for token", (name) => {
    const { tokens, greedy } = golden<GoldenPrompt>(name);
    expect(referenceGreedy(stories.config, stories.weights, tokens, 12)).toEqual(greedy.slice(0, 12));
  });

  test("gives the negative log-likelihoods of window-nll.json at the first, the last and every 16th row", () => {
    const { tokens, nll } = golden<GoldenWindow>("window-nll");
    const { nEmbd: C } = stories.config;
    const hidden = referenceHidden(stories.config, stories.weights, tokens);
    const rows = [...nll.keys()].filter((row) => row % 16 === 0 || row === nll.length - 1);
    const found = rows.map((row) => -logSoftmax(headLogits(stories.config, stories.weights, hidden.subarray(row * C, (row + 1) * C)))[tokens[row + 1]!]!);
    expect(maxAbsError(found, rows.map((row) => nll[row]!))).toBeLessThan(tolerances.oracleLogit);
  });
});

describe("referenceCheckpoint", () => {
  const options = { ...tinyCheckpoints.oneLayer, tied: false };

  test("reads the same weights with and without the prefix and mask buffers", () => {
    const plain = referenceCheckpoint(seededCheckpoint(options));
    const prefixed = referenceCheckpoint(seededCheckpoint({ ...options, prefix: true, maskBuffers: true }));
    expect(prefixed.weights).toEqual(plain.weights);
    expect(prefixed.config).toEqual(plain.config);
  });

  test("gives linear weights as [outputs, inputs] and embeddings as stored", () => {
    const { weights } = referenceCheckpoint(seededCheckpoint(options));
    expect(weights.get("h.0.attn.c_attn.weight")!.shape).toEqual([36, 12]);
    expect(weights.get("h.0.mlp.c_proj.weight")!.shape).toEqual([12, 48]);
    expect(weights.get("wte.weight")!.shape).toEqual([97, 12]);
  });

  test.each([
    ["F16", 2 ** -11],
    ["BF16", 2 ** -8],
  ] as const)("reads %s within half a step of the F32 checkpoint", (dtype, relative) => {
    const exact = referenceCheckpoint(seededCheckpoint(options)).weights.get("wte.weight")!.values;
    const rounded = referenceCheckpoint(seededCheckpoint({ ...options, dtype })).weights.get("wte.weight")!.values;
    expect(rounded).not.toEqual(exact);
    exact.forEach((value, i) => expect(Math.abs(rounded[i]! - value)).toBeLessThanOrEqual(Math.abs(value) * relative + 2 ** -25));
  });
});

describe("referencePerplexity", () => {
  test("cuts windows as the protocols say", () => {
    expect(referenceWindows(10, "strided", 4, 3)).toEqual([
      { start: 0, end: 4, firstTarget: 1 },
      { start: 3, end: 7, firstTarget: 4 },
      { start: 6, end: 10, firstTarget: 7 },
    ]);
    expect(referenceWindows(9, "strided", 4, 4)).toEqual([
      { start: 0, end: 4, firstTarget: 1 },
      { start: 4, end: 8, firstTarget: 5 }, // and token 8, alone in its window, is not scored
    ]);
    expect(referenceWindows(10, "disjoint", 4, 2)).toEqual([
      { start: 0, end: 4, firstTarget: 1 },
      { start: 4, end: 8, firstTarget: 5 },
    ]);
    expect(referenceWindows(10, "llama.cpp", 4, 2)).toEqual([
      { start: 0, end: 4, firstTarget: 3 },
      { start: 4, end: 8, firstTarget: 7 },
    ]);
  });

  test.each([
    ["disjoint", 33, 8415],
    ["strided", 67, 8593],
  ] as const)("counts the windows and tokens of stories-eval.json, %s", (protocol, windowCount, scored) => {
    const windows = referenceWindows(8594, protocol, 256, 128);
    expect(windows).toHaveLength(windowCount);
    expect(windows.reduce((sum, { end, firstTarget }) => sum + end - firstTarget, 0)).toBe(scored);
  });

  test("of one disjoint window is exp of the mean of −ln p", () => {
    const { config, weights } = referenceCheckpoint(seededCheckpoint(tinyCheckpoints.oneLayer));
    const tokens = [5, 17, 3, 96, 0, 41];
    const logits = referenceLogits(config, weights, tokens);
    const nlls = tokens.slice(1).map((target, t) => -logSoftmax(logits.subarray(t * 97, (t + 1) * 97))[target]!);
    const mean = nlls.reduce((sum, nll) => sum + nll, 0) / 5;
    const deviation = Math.sqrt(nlls.reduce((sum, nll) => sum + (nll - mean) ** 2, 0) / 5);
    const report = referencePerplexity(config, weights, tokens, { protocol: "disjoint", windowTokens: 6 });
    expect(report.perplexity).toBeCloseTo(Math.exp(mean), 10);
    expect(report.standardError).toBeCloseTo((Math.exp(mean) * deviation) / 2, 10);
  });
});

describe("the oracle's functions", () => {
  // mpmath.erf at 20 digits.
  test.each([
    [0, 0],
    [1e-5, 1.1283791670579e-5],
    [0.5, 0.52049987781304653768],
    [1, 0.84270079294971486934],
    [2, 0.99532226501895273416],
    [3.5, 0.99999925690162765859],
    [7, 1],
  ])("erf(%d) is %d, and odd", (x, expected) => {
    expect(Math.abs(erf(x) - expected)).toBeLessThan(2e-14);
    expect(erf(-x)).toBe(-erf(x));
  });

  test("erf is smooth where its two series meet", () => {
    const step = 1e-6;
    const slope = (2 / Math.sqrt(Math.PI)) * Math.exp(-4);
    expect(Math.abs((erf(2 + step) - erf(2 - step)) / (2 * step) - slope)).toBeLessThan(1e-8);
  });

  test("activations agree with their definitions at hand-computed points", () => {
    expect(activate("relu", -3)).toBe(0);
    expect(activate("relu", 3)).toBe(3);
    expect(activate("gelu", 1)).toBeCloseTo(0.8413447460685429, 14); // Φ(1)
    expect(activate("gelu_new", 1)).toBeCloseTo(0.8411919906082768, 14);
    expect(activate("gelu_pytorch_tanh", -40)).toBeCloseTo(0, 14);
  });

  test("roundToF16 rounds half to even, through subnormals, and saturates", () => {
    expect([1 + 2 ** -11, 1 + 3 * 2 ** -11, -(2 ** -25), 3 * 2 ** -25, 65519, 1e6].map(roundToF16)).toEqual([1, 1 + 2 ** -9, -0, 2 ** -23, 65504, 65504]);
  });

  test("int8 rounding of a KV row keeps its largest value and moves none by more than half a step", () => {
    const row = Float64Array.from({ length: 64 }, (_, d) => 3 * Math.sin(d));
    const rounded = row.slice();
    kvRoundings.int8(rounded);
    const step = Math.max(...row.map(Math.abs)) / 127;
    expect(maxAbsError(rounded, row)).toBeLessThanOrEqual(step * 0.500001);
    expect(maxAbsError(rounded, row)).toBeGreaterThan(step / 4);
  });

  test("klDivergence is zero for equal rows, whatever is added to one, and Σ p ln(p/q) otherwise", () => {
    expect(klDivergence([1, 2, 3], [11, 12, 13])).toBeCloseTo(0, 14);
    expect(klDivergence([Math.log(0.75), Math.log(0.25)], [0, 0])).toBeCloseTo(0.75 * Math.log(1.5) + 0.25 * Math.log(0.5), 14);
  });

  test("nmse and maxAbsError measure a known difference and refuse unequal lengths", () => {
    expect(nmse([1, 2], [1, 4])).toBeCloseTo(4 / 17, 14);
    expect(nmse([0, 0], [0, 0])).toBe(0);
    expect(maxAbsError([1, 2], [1, 4])).toBe(2);
    expect(() => maxAbsError([1], [1, 2])).toThrow(RangeError);
  });
});
