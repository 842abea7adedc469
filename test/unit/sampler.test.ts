import { describe, expect, test } from "vitest";
import { resolveGenerateOptions } from "../../src/generate/options.ts";
import { CounterRandom, gumbel, GUMBEL_MAX, philox4x32, uniform } from "../../src/generate/random.ts";
import { Sampler } from "../../src/generate/sampler.ts";
import type { GenerateOptions } from "../../src/types.ts";

describe("philox4x32", () => {
  // Known answers published with Random123 (kat_vectors, philox4x32 10).
  test.each([
    [[0, 0, 0, 0], [0, 0], "6627e8d5 e169c58d bc57ac4c 9b00dbd8"],
    [[0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff], [0xffffffff, 0xffffffff], "408f276d 41c83b0e a20bc7c6 6d5451fd"],
    [[0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0], "d16cfe09 94fdcceb 5001e420 24126ea1"],
  ] as [[number, number, number, number], [number, number], string][])("gives the known answer for counter %j and key %j", (counter, key, expected) => {
    const out = new Uint32Array(4);
    philox4x32(counter, key, out);
    expect([...out].map((word) => word.toString(16).padStart(8, "0")).join(" ")).toBe(expected);
  });
});

describe("uniform", () => {
  test("takes word lane & 3 of the block lane >> 2", () => {
    const words = ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"].map((word) => (parseInt(word, 16) + 0.5) / 2 ** 32);
    expect([0, 1, 2, 3].map((lane) => uniform(0, 0, lane))).toEqual(words);
    expect(words).not.toContain(uniform(0, 0, 4));
  });

  test("differs between seeds that differ in the upper or the lower 32 bits, or in sign", () => {
    const seeds = [0, 1, -1, 2 ** 32, 2 ** 32 + 1, -(2 ** 32), Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER];
    expect(new Set(seeds.map((seed) => uniform(seed, 3, 5))).size).toBe(seeds.length);
  });

  test("does not depend on the order of asking", () => {
    const random = new CounterRandom(7);
    const places = Array.from({ length: 64 }, (_, i) => [i % 5, (i * 37) % 19] as const);
    for (const [counter, lane] of places) expect(random.uniform(counter, lane)).toBe(uniform(7, counter, lane));
  });

  test("spreads evenly over (0, 1)", () => {
    const random = new CounterRandom(1);
    const draws = Array.from({ length: 20000 }, (_, i) => random.uniform(i >> 6, i & 63));
    expect(Math.min(...draws)).toBeGreaterThan(0);
    expect(Math.max(...draws)).toBeLessThan(1);
    const bins = countBy(draws.map((u) => Math.floor(u * 16)), 16);
    expect(chiSquare(bins, new Array<number>(16).fill(1 / 16))).toBeLessThan(37.7); // 99.9 % of χ² with 15 degrees of freedom
  });
});

describe("gumbel", () => {
  test("is −ln(−ln(1 − u)), largest at the smallest uniform", () => {
    for (const u of [1e-6, 0.25, 0.5, 0.999]) expect(gumbel(u)).toBeCloseTo(-Math.log(-Math.log(1 - u)), 9);
    expect(gumbel(0.5 / 2 ** 32)).toBe(GUMBEL_MAX);
    expect(Number.isFinite(gumbel(1 - 0.5 / 2 ** 32))).toBe(true);
  });
});

/** Logits with many exact ties: multiples of ¼ between −4 and 4. f32 [V]. */
const tiedLogits = (V: number, step: number): Float32Array => Float32Array.from({ length: V }, (_, id) => Math.round(16 * Math.sin(id * 1.7 + step)) / 4);

const sampler = (V: number, options: GenerateOptions, prompt: readonly number[] = []): Sampler => new Sampler(V, resolveGenerateOptions({ seed: 1, ...options }, V), prompt);

/** The definition, by a full sort. scores: adjusted logits [V]. */
function drawDirectly(scores: readonly number[], seed: number, step: number, { temperature = 1, topK = Infinity, topP = 1, minP = 0 }: GenerateOptions): number {
  const ranked = scores.map((score, id) => ({ id, score: score / temperature })).sort((a, b) => b.score - a.score || a.id - b.id);
  let kept = ranked.slice(0, topK);
  const weight = ({ score }: { score: number }): number => Math.exp(score - ranked[0]!.score);
  const total = kept.reduce((sum, token) => sum + weight(token), 0);
  if (topP < 1) {
    let reached = 0;
    kept = kept.filter((token) => {
      const keep = reached < topP * total;
      reached += weight(token);
      return keep;
    });
  }
  kept = kept.filter((token) => weight(token) >= minP);
  const noisy = kept.map(({ id, score }) => ({ id, score: score + gumbel(uniform(seed, step, id)) }));
  return noisy.sort((a, b) => b.score - a.score || a.id - b.id)[0]!.id;
}

describe("Sampler", () => {
  test.each<GenerateOptions>([
    {},
    { temperature: 0.5 },
    { temperature: 3 },
    { topK: 1 },
    { topK: 2 },
    { topK: 40 },
    { topK: 1000 },
    { topP: 0.05 },
    { topP: 0.5 },
    { topP: 0.9 },
    { topP: 1 },
    { minP: 0.1 },
    { minP: 1 },
    { temperature: 2, topK: 60, topP: 0.7 },
    { temperature: 1.5, topK: 30, topP: 0.95, minP: 0.2 },
  ])("keeps and draws what a full sort keeps and draws: %j", (options) => {
    const V = 131;
    const subject = sampler(V, { ...options, seed: 99 });
    for (let step = 0; step < 60; step++) {
      const logits = tiedLogits(V, step);
      expect(subject.sample(logits).id).toBe(drawDirectly([...logits], 99, step, options));
    }
  });

  test.each([1, 2])("draws the same as a full sort from a vocabulary of 50,257 (step %i)", (step) => {
    const logits = Float32Array.from({ length: 50257 }, (_, id) => 9 * Math.sin(id * id * 0.37 + step));
    const options = { temperature: 0.8, topK: 5000, topP: 0.9 };
    expect(sampler(50257, { ...options, seed: step }).sample(logits).id).toBe(drawDirectly([...logits], step, 0, options));
  });

  test("keeps the lowest ids where equal logits stand at the k boundary", () => {
    const logits = Float32Array.of(1, 2, 1, 1, 2, 1);
    const drawn = (topK: number): number[] => {
      const subject = sampler(6, { topK, temperature: 5 });
      return [...new Set(Array.from({ length: 200 }, () => subject.sample(logits).id))].sort();
    };
    expect(drawn(3)).toEqual([0, 1, 4]);
    expect(drawn(4)).toEqual([0, 1, 2, 4]);
  });

  test("keeps with topP the smallest set that reaches p", () => {
    const logits = Float32Array.from([0.5, 0.3, 0.2], Math.log);
    const drawn = (topP: number): number[] => {
      const subject = sampler(3, { topP });
      return [...new Set(Array.from({ length: 200 }, () => subject.sample(logits).id))].sort();
    };
    expect(drawn(0.49)).toEqual([0]);
    expect(drawn(0.51)).toEqual([0, 1]);
    expect(drawn(0.79)).toEqual([0, 1]);
    expect(drawn(0.81)).toEqual([0, 1, 2]);
  });

  test.each([0.7, 1, 2])("draws with the probabilities of softmax(logits / %d)", (temperature) => {
    const logits = Float32Array.of(0, 1, 2, -1, 0.5, 1.5, -0.5, 0.25);
    const subject = sampler(8, { temperature, seed: 2024 });
    const drawn = countBy(Array.from({ length: 8000 }, () => subject.sample(logits).id), 8);
    const weights = [...logits].map((logit) => Math.exp(logit / temperature));
    const total = weights.reduce((a, b) => a + b);
    expect(chiSquare(drawn, weights.map((weight) => weight / total))).toBeLessThan(24.3); // 99.9 % of χ² with 7 degrees of freedom
  });

  test("draws the same tokens from the same seed and others from another", () => {
    const draw = (seed: number): number[] => {
      const subject = sampler(500, { seed });
      return Array.from({ length: 30 }, (_, step) => subject.sample(tiedLogits(500, step)).id);
    };
    expect(draw(5)).toEqual(draw(5));
    expect(draw(5)).not.toEqual(draw(6));
  });

  test("takes the largest logit at temperature 0, the lowest id in a tie, whatever the filters", () => {
    const logits = Float32Array.of(1, 3, 2, 3);
    expect(sampler(4, { temperature: 0 }).sample(logits).id).toBe(1);
    expect(sampler(4, { temperature: 0, topK: 1, topP: 0.1, minP: 1 }).sample(logits).id).toBe(1);
  });

  test("takes the likeliest token at the smallest positive temperature", () => {
    expect(sampler(4, { temperature: Number.MIN_VALUE }).sample(Float32Array.of(-80, 90, 89.99, 0)).id).toBe(1);
  });

  test("divides positive and multiplies negative logits of prompt and output tokens by repetitionPenalty", () => {
    const greedy = (logits: number[], prompt: number[]): number => sampler(3, { temperature: 0, repetitionPenalty: 2 }, prompt).sample(Float32Array.from(logits)).id;
    expect(greedy([4, 2.1, 0], [])).toBe(0); // control case
    expect(greedy([4, 2.1, 0], [0])).toBe(1); // 4 → 2
    expect(greedy([4, 1.9, 0], [0, 0, 0])).toBe(0); // once, however often it occurs
    expect(greedy([-1, -1.9, -9], [0])).toBe(1); // −1 → −2
    const subject = sampler(3, { temperature: 0, repetitionPenalty: 2 });
    expect([1, 2, 3].map(() => subject.sample(Float32Array.of(4, 3, 1.6)).id)).toEqual([0, 1, 0]);
  });

  test("subtracts frequencyPenalty per occurrence and presencePenalty once, over the output only", () => {
    const run = (options: GenerateOptions, steps: number): number[] => {
      const subject = sampler(2, { temperature: 0, ...options }, [0, 0, 0, 0]);
      return Array.from({ length: steps }, () => subject.sample(Float32Array.of(2.5, 0)).id);
    };
    expect(run({}, 4)).toEqual([0, 0, 0, 0]); // control case
    expect(run({ frequencyPenalty: 1 }, 5)).toEqual([0, 0, 0, 1, 0]); // 2.5, 1.5, 0.5, −0.5 < 0, then −0.5 > −1
    expect(run({ presencePenalty: 2 }, 4)).toEqual([0, 0, 0, 0]);
    expect(run({ presencePenalty: 3 }, 3)).toEqual([0, 1, 0]); // 2.5, −0.5 < 0, then −0.5 > −3
  });

  test("adds logitBias before the penalties; −∞ bans a token", () => {
    const greedy = (options: GenerateOptions): number => sampler(3, { temperature: 0, ...options }, [2]).sample(Float32Array.of(2, 1, 0)).id;
    expect(greedy({})).toBe(0); // control case
    expect(greedy({ logitBias: { 2: 3 } })).toBe(2);
    expect(greedy({ logitBias: { 2: 3 }, repetitionPenalty: 2 })).toBe(0); // (0 + 3) / 2 < 2
    expect(greedy({ logitBias: { 0: -Infinity } })).toBe(1);
    const subject = sampler(3, { logitBias: { 0: -Infinity } });
    expect(Array.from({ length: 100 }, () => subject.sample(Float32Array.of(9, 1, 0)).id)).not.toContain(0);
  });

  test("stays within the vocabulary where bias and penalties overflow", () => {
    const logitBias = { 0: Infinity, 1: 1e308, 2: -Infinity };
    expect(sampler(3, { logitBias, repetitionPenalty: 1e-300, topP: 0.9 }, [0, 1, 2]).sample(Float32Array.of(1, 2, 3)).id).toBeLessThan(2);
    expect(sampler(2, { logitBias: { 0: -Infinity, 1: -Infinity }, topP: 0.9 }).sample(Float32Array.of(1, 2)).id).toBeLessThan(2);
  });

  test("reports the model's own ln softmax, whatever bias, penalties, temperature and filters do", () => {
    const logits = Float32Array.of(0.5, 2, -1, 30, 1);
    const normalizer = Math.log([...logits].reduce((sum, logit) => sum + Math.exp(logit), 0));
    const { id, logProb } = sampler(5, { temperature: 0.1, topK: 2, logitBias: { 3: -100 }, frequencyPenalty: 1 }).sample(logits);
    expect(id).toBe(1);
    expect(logProb).toBeCloseTo(2 - normalizer, 12);
  });

  test("reports the likeliest alternatives in order, the lowest id first among equals", () => {
    const logits = Float32Array.of(1, 3, 2, 3, 2, 2);
    const top = (logProbs: number): number[] => sampler(6, { logProbs }).sample(logits).top.map(({ id }) => id);
    expect(top(0)).toEqual([]);
    expect(top(1)).toEqual([1]);
    expect(top(4)).toEqual([1, 3, 2, 4]);
    expect(top(20)).toEqual([1, 3, 2, 4, 5, 0]); // all there are
    const subject = sampler(131, { logProbs: 20 });
    const many = tiedLogits(131, 3);
    const sorted = [...many.keys()].sort((a, b) => many[b]! - many[a]! || a - b);
    expect(subject.sample(many).top.map(({ id }) => id)).toEqual(sorted.slice(0, 20));
  });

  test("does not change the logits it is given", () => {
    const logits = tiedLogits(50, 0);
    sampler(50, { logitBias: { 3: 9 }, repetitionPenalty: 2, topK: 5, topP: 0.5 }, [1, 2]).sample(logits);
    expect(logits).toEqual(tiedLogits(50, 0));
  });

  test.each([NaN, Infinity, -Infinity])("rejects a logit of %d, having accepted the same logits without it", (value) => {
    const logits = tiedLogits(50, 0);
    sampler(50, {}).sample(logits); // control case
    logits[17] = value;
    expect(() => sampler(50, {}).sample(logits)).toThrow(
      expect.objectContaining({ code: "shader", message: `Logits hold ${value} at id 17; expected finite numbers.`, details: { id: 17, value } }),
    );
  });
});

describe("resolveGenerateOptions", () => {
  test("fills in the defaults, undefined included", () => {
    const { seed, ...rest } = resolveGenerateOptions({ maxTokens: undefined, temperature: undefined }, 50);
    expect(Number.isSafeInteger(seed)).toBe(true);
    expect(rest).toEqual({
      maxTokens: 128,
      temperature: 1,
      topK: 50,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
      frequencyPenalty: 0,
      presencePenalty: 0,
      logitBias: [],
      stop: [],
      logProbs: 0,
      signal: undefined,
    });
  });

  // accepted: control cases; then [value, error class]
  test.each<[keyof GenerateOptions, unknown[], [unknown, typeof TypeError | typeof RangeError][]]>([
    ["maxTokens", [0, 1, 1e6], [[-1, RangeError], [1.5, RangeError], [NaN, RangeError], ["5", TypeError], [5n, TypeError], [null, TypeError]]],
    ["temperature", [0, 0.7, 100], [[-0.1, RangeError], [NaN, RangeError], [Infinity, RangeError], ["1", TypeError]]],
    ["topK", [1, 1e9], [[0, RangeError], [2.5, RangeError], [NaN, RangeError], [true, TypeError]]],
    ["topP", [1e-9, 1], [[0, RangeError], [1.01, RangeError], [NaN, RangeError], ["1", TypeError]]],
    ["minP", [0, 1], [[-0.1, RangeError], [1.1, RangeError], [NaN, RangeError], [{}, TypeError]]],
    ["repetitionPenalty", [0.5, 1.3], [[0, RangeError], [-1, RangeError], [Infinity, RangeError], ["1", TypeError]]],
    ["frequencyPenalty", [-2, 2], [[NaN, RangeError], [Infinity, RangeError], ["1", TypeError]]],
    ["presencePenalty", [-2, 2], [[NaN, RangeError], [-Infinity, RangeError], ["1", TypeError]]],
    ["seed", [0, -5, Number.MAX_SAFE_INTEGER], [[0.5, RangeError], [2 ** 53, RangeError], [NaN, RangeError], ["1", TypeError]]],
    ["logProbs", [0, 20], [[-1, RangeError], [21, RangeError], [1.5, RangeError], [true, TypeError]]],
    ["stop", [[], ["a", "🙂"]], [["a", TypeError], [[1], TypeError], [[""], RangeError], [["x".repeat(1025)], RangeError], [new Array(65).fill("a"), RangeError], [["\uDE42"], RangeError]]],
    ["logitBias", [{}, { 0: 1, 49: -Infinity }], [[3, TypeError], [null, TypeError], [{ 50: 1 }, RangeError], [{ "-1": 1 }, RangeError], [{ a: 1 }, RangeError], [{ "1.5": 1 }, RangeError], [{ "01": 1 }, RangeError], [{ 1: NaN }, RangeError], [{ 1: "2" }, TypeError]]],
    ["signal", [new AbortController().signal], [[{}, TypeError], [null, TypeError], [() => undefined, TypeError]]],
  ])("rejects a wrong %s by name and accepts a right one", (name, accepted, rejected) => {
    for (const value of accepted) resolveGenerateOptions({ [name]: value }, 50);
    for (const [value, errorClass] of rejected) {
      expect(() => resolveGenerateOptions({ [name]: value }, 50), String(value)).toThrow(errorClass);
      expect(() => resolveGenerateOptions({ [name]: value }, 50)).toThrow(name);
    }
  });

  test("names the option and the value", () => {
    expect(() => resolveGenerateOptions({ topP: 1.5 }, 50)).toThrow("topP is 1.5; expected a number above 0 and at most 1.");
  });
});

function countBy(values: readonly number[], size: number): number[] {
  const counts = new Array<number>(size).fill(0);
  for (const value of values) counts[value]!++;
  return counts;
}

/** Σ (observed − expected)² / expected. probabilities sum to 1. */
function chiSquare(counts: readonly number[], probabilities: readonly number[]): number {
  const total = counts.reduce((a, b) => a + b);
  return counts.reduce((sum, count, i) => sum + (count - total * probabilities[i]!) ** 2 / (total * probabilities[i]!), 0);
}
