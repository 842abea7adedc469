import { describe, expect, test } from "vitest";
import * as statistics from "../../src/evaluate/statistics.ts";
import golden from "../fixtures/golden/window-nll.json" with { type: "json" };

/** f64 [n] from a closed formula: n values around 3, one of them far out. */
const sample = (n: number, phase = 0): Float64Array => Float64Array.from({ length: n }, (_, i) => 3 + 2 * Math.sin(i * 1.3 + phase) + Number(i === 5) * 4);
const plainMean = (values: Iterable<number>): number => {
  const list = [...values];
  return list.reduce((sum, value) => sum + value, 0) / list.length;
};

describe("Sum", () => {
  test.each([
    [[1, 1e16, 1, -1e16], 2],
    [new Array<number>(1000).fill(0.1), 100],
  ])("keeps what a plain sum loses (case %#)", (values, expected) => {
    const sum = new statistics.Sum();
    for (const value of values) sum.add(value);
    expect(sum.value).toBe(expected);
    expect(values.reduce((a, b) => a + b)).not.toBe(expected); // control case
  });
});

describe("mean, variance, standardError, rootMeanSquare", () => {
  test("agree with their definitions", () => {
    const values = sample(50);
    const mean = plainMean(values);
    const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / 49;
    expect(statistics.mean(values)).toBeCloseTo(mean, 13);
    expect(statistics.variance(values)).toBeCloseTo(variance, 12);
    expect(statistics.standardError(values)).toBeCloseTo(Math.sqrt(variance / 50), 13);
    expect(statistics.rootMeanSquare(values)).toBeCloseTo(Math.sqrt(plainMean(values.map((value) => value ** 2))), 13);
  });

  test("of one value: no variance is known", () => {
    const one = Float64Array.of(4);
    expect([statistics.mean(one), statistics.rootMeanSquare(one)]).toEqual([4, 4]);
    expect([statistics.variance(one), statistics.standardError(one)]).toEqual([NaN, NaN]);
    expect(statistics.variance(Float64Array.of(4, 6))).toBe(2); // control case
  });
});

describe("percentile", () => {
  test.each([
    [0, 1],
    [0.25, 2],
    [0.5, 4],
    [0.625, 6],
    [0.99, 15.68],
    [1, 16],
  ])("at %d of 1, 2, 4, 8, 16 is %d", (fraction, expected) => {
    expect(statistics.percentile(Float64Array.of(1, 2, 4, 8, 16), fraction)).toBeCloseTo(expected, 12);
  });

  test("of one value is that value; the median of an even count is the mean of the middle two", () => {
    expect([0, 0.3, 1].map((fraction) => statistics.percentile(Float64Array.of(7), fraction))).toEqual([7, 7, 7]);
    expect(statistics.percentile(Float64Array.of(1, 2, 5, 9), 0.5)).toBe(3.5);
  });
});

describe("perplexityOf", () => {
  test("is exp(mean) with llama.cpp's error: perplexity · √((E[x²] − E[x]²) / (n − 1))", () => {
    const nlls = sample(200);
    const mean = plainMean(nlls);
    const squares = plainMean(nlls.map((nll) => nll * nll));
    const result = statistics.perplexityOf(nlls);
    expect(result.nll).toBeCloseTo(mean, 13);
    expect(result.perplexity).toBeCloseTo(Math.exp(mean), 10);
    expect(result.standardError).toBeCloseTo(Math.exp(mean) * Math.sqrt((squares - mean * mean) / 199), 10);
  });

  test("gives the golden window's mean negative log-likelihood", () => {
    expect(statistics.perplexityOf(Float64Array.from(golden.nll)).nll).toBeCloseTo(golden.meanNll, 12);
  });

  test("is the vocabulary's size, without error, for a uniform model", () => {
    const { perplexity, standardError } = statistics.perplexityOf(new Float64Array(10).fill(Math.log(50257)));
    expect(perplexity).toBeCloseTo(50257, 6);
    expect(standardError).toBeCloseTo(0, 6);
  });
});

describe("perplexityRatio", () => {
  test("is the ratio of the perplexities, with the error of the paired differences", () => {
    const baseline = sample(80);
    const own = baseline.map((nll, i) => nll + 0.1 + 0.01 * Math.sin(i));
    const { ratio, ratioError } = statistics.perplexityRatio(own, baseline);
    expect(ratio).toBeCloseTo(Math.exp(plainMean(own)) / Math.exp(plainMean(baseline)), 12);
    const differences = own.map((nll, i) => nll - baseline[i]!);
    expect(ratioError).toBeCloseTo(ratio * statistics.standardError(differences), 13);
  });

  test("has llama.cpp's error, from variances and covariance of the two", () => {
    const [a, b] = [sample(80), sample(80, 0.4)];
    const covariance = (plainMean(a.map((x, i) => x * b[i]!)) - plainMean(a) * plainMean(b)) / 79;
    const variance = (x: Float64Array): number => statistics.standardError(x) ** 2;
    const { ratio, ratioError } = statistics.perplexityRatio(a, b);
    expect(ratioError).toBeCloseTo(ratio * Math.sqrt(variance(a) + variance(b) - 2 * covariance), 10);
  });

  test("of equal losses is 1 ± 0", () => {
    expect(statistics.perplexityRatio(sample(9), sample(9))).toEqual({ ratio: 1, ratioError: 0 });
  });
});

describe("perplexityDifference", () => {
  test("has llama.cpp's error, from the perplexities' variances and their covariance", () => {
    const [a, b] = [sample(80), sample(80, 0.4)];
    const [p, q] = [Math.exp(plainMean(a)), Math.exp(plainMean(b))];
    const covariance = (plainMean(a.map((x, i) => x * b[i]!)) - plainMean(a) * plainMean(b)) / 79;
    const { difference, differenceError } = statistics.perplexityDifference(a, b);
    expect(difference).toBeCloseTo(p - q, 12);
    expect(differenceError).toBeCloseTo(Math.sqrt((p * statistics.standardError(a)) ** 2 + (q * statistics.standardError(b)) ** 2 - 2 * p * q * covariance), 9);
  });

  test("of equal losses is 0 ± 0", () => {
    expect(statistics.perplexityDifference(sample(9), sample(9))).toEqual({ difference: 0, differenceError: 0 });
  });
});

describe("proportion", () => {
  test("is p ± √(p (1 − p) / (n − 1))", () => {
    expect(statistics.proportion(Uint8Array.of(1, 0, 1, 1, 0))).toEqual({ fraction: 0.6, error: Math.sqrt((0.6 * 0.4) / 4) });
    expect(statistics.proportion(Uint8Array.of(1, 1))).toEqual({ fraction: 1, error: 0 });
    expect(statistics.proportion(Uint8Array.of(1))).toEqual({ fraction: 1, error: NaN });
  });
});

describe("summarizeKlDivergence, summarizeDeltaP", () => {
  const values = Float64Array.from({ length: 1001 }, (_, i) => (i * 389) % 1001); // 0…1000, shuffled: the percentiles are known
  const squares = (1000 * 2001) / 6; // mean of i²: Σ is m (m + 1) (2m + 1) / 6
  const fourths = (1000 * 2001 * (3 * 1000 ** 2 + 3 * 1000 - 1)) / 30; // mean of i⁴: Σ is m (m + 1) (2m + 1) (3m² + 3m − 1) / 30
  const error = Math.sqrt((1001 * 1002) / 12 / 1001); // variance of 0…n − 1 with n − 1: n (n + 1) / 12

  test("take mean, error and percentiles of unsorted values", () => {
    expect(statistics.summarizeKlDivergence(values)).toEqual({ mean: 500, error: expect.closeTo(error, 10) as number, median: 500, p90: 900, p95: 950, p99: 990, p999: 999, max: 1000 });
    expect(statistics.summarizeDeltaP(values)).toEqual({
      mean: 500,
      error: expect.closeTo(error, 10) as number,
      rms: expect.closeTo(Math.sqrt(squares), 10) as number,
      rmsError: expect.closeTo(Math.sqrt((fourths - squares ** 2) / 1000) / (2 * Math.sqrt(squares)), 10) as number,
      min: 0,
      p1: 10,
      p5: 50,
      p10: 100,
      p25: 250,
      median: 500,
      p75: 750,
      p90: 900,
      p95: 950,
      p99: 990,
      max: 1000,
    });
  });

  test("leave the values in their order", () => {
    expect([...values.subarray(0, 3)]).toEqual([0, 389, 778]);
  });
});
