import { describe, expect, test } from "vitest";
import { quantizationError } from "../../src/quantize/error.ts";
import { weightHistogram } from "../../src/quantize/histogram.ts";

describe("quantizationError", () => {
  test("computes mse, largest error, signal-to-noise ratio and cosine", () => {
    const { mse, maxAbs, sqnrDb, cosine } = quantizationError(Float32Array.of(3, -4), Float32Array.of(3, -3));
    expect(mse).toBe(0.5);
    expect(maxAbs).toBe(1);
    expect(sqnrDb).toBeCloseTo(10 * Math.log10(25), 12);
    expect(cosine).toBeCloseTo(21 / (5 * Math.sqrt(18)), 12);
  });

  test("gives Infinity decibels where nothing was lost", () => {
    expect(quantizationError(Float32Array.of(1, -2), Float32Array.of(1, -2))).toEqual({ mse: 0, maxAbs: 0, sqnrDb: Infinity, cosine: 1 });
    expect(quantizationError(Float32Array.of(0, 0), Float32Array.of(0, -0))).toEqual({ mse: 0, maxAbs: 0, sqnrDb: Infinity, cosine: 1 });
  });

  test("gives cosine 0 where one side is all zero", () => {
    expect(quantizationError(Float32Array.of(2, 0), Float32Array.of(0, 0))).toEqual({ mse: 2, maxAbs: 2, sqnrDb: 0, cosine: 0 });
    expect(quantizationError(Float32Array.of(0, 0), Float32Array.of(0, 2))).toEqual({ mse: 2, maxAbs: 2, sqnrDb: -Infinity, cosine: 0 });
  });

  test("sums in f64: a million small errors beside a large weight are not lost", () => {
    const original = new Float32Array(1_000_001).fill(1e-4, 1);
    original[0] = 1e6;
    const restored = new Float32Array(1_000_001);
    restored[0] = 1e6;
    expect(quantizationError(original, restored).mse / 1e-8).toBeCloseTo(1, 5);
  });

  test("lets NaN show in every measure", () => {
    expect(quantizationError(Float32Array.of(1, NaN, 2), Float32Array.of(1, 1, 1))).toEqual({ mse: NaN, maxAbs: NaN, sqnrDb: NaN, cosine: NaN });
  });

  test("rejects different lengths and no values, having accepted equal ones", () => {
    quantizationError(Float32Array.of(1), Float32Array.of(1)); // control case
    expect(() => quantizationError(Float32Array.of(1, 2), Float32Array.of(1))).toThrow(new RangeError("restored has 1 values; expected 2 as original has."));
    expect(() => quantizationError(new Float32Array(0), new Float32Array(0))).toThrow(RangeError);
    expect(() => quantizationError(Float32Array.of(1), [1] as unknown as Float32Array)).toThrow(new TypeError("restored is [1]; expected a Float32Array."));
  });
});

describe("weightHistogram", () => {
  test("counts values in half-open bins, the last one closed", () => {
    const { edges, counts } = weightHistogram(Float32Array.of(0, 0.5, 1, 1.5, 2, 3, 4), { bins: 4 });
    expect([...edges]).toEqual([0, 1, 2, 3, 4]);
    expect([...counts]).toEqual([2, 2, 1, 2]);
  });

  test("takes 100 bins over [min, max] unless told otherwise, and counts every value", () => {
    const values = Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i));
    const { edges, counts } = weightHistogram(values);
    expect([edges.length, counts.length]).toEqual([101, 100]);
    expect([edges[0], edges[100]]).toEqual([Math.min(...values), Math.max(...values)]);
    expect(counts.reduce((sum, count) => sum + count)).toBe(1000);
  });

  test("leaves values outside the range uncounted", () => {
    expect([...weightHistogram(Float32Array.of(-2, -1, 0, 1, 2), { bins: 2, range: [-1, 1] }).counts]).toEqual([1, 2]);
  });

  test.each([3, 7, 49, 100, 1000])("puts a value that equals an edge into the bin it opens: %i bins", (bins) => {
    const { edges } = weightHistogram(Float32Array.of(-0.3, 0.7), { bins });
    const range: [number, number] = [edges[0]!, edges[bins]!];
    const values = Float32Array.from(edges);
    const expected = new Uint32Array(bins);
    for (const value of values) {
      if (value < range[0] || value > range[1]) continue;
      const bin = edges.findLastIndex((edge) => edge <= value);
      expected[Math.min(bin, bins - 1)]!++;
    }
    expect(weightHistogram(values, { bins, range }).counts).toEqual(expected);
  });

  test("widens the range where all values are equal", () => {
    expect([...weightHistogram(Float32Array.of(-4, -4), { bins: 2 }).edges]).toEqual([-6, -4, -2]);
    expect([...weightHistogram(Float32Array.of(0), { bins: 2 }).edges]).toEqual([-0.5, 0, 0.5]);
  });

  test("rejects NaN and Infinity with their place, having accepted the same values without", () => {
    const values = Float32Array.of(1, 2, 3);
    weightHistogram(values); // control case
    for (const value of [NaN, -Infinity]) {
      values[1] = value;
      expect(() => weightHistogram(values)).toThrow(expect.objectContaining({ code: "quantize", details: { index: 1, value } }));
      expect(() => weightHistogram(values, { range: [0, 4] })).toThrow(expect.objectContaining({ code: "quantize" }));
    }
  });

  test.each<[{ bins?: number; range?: [number, number] }, string]>([
    [{ bins: 0 }, "bins is 0"],
    [{ bins: 2.5 }, "bins is 2.5"],
    [{ bins: 65_537 }, "bins is 65537"],
    [{ range: [1, 1] }, "range is [1, 1]"],
    [{ range: [2, 1] }, "range is [2, 1]"],
    [{ range: [NaN, 1] }, "range is [NaN, 1]"],
    [{ range: [0, Infinity] }, "range is [0, Infinity]"],
  ])("rejects %j by name", (options, message) => {
    const values = Float32Array.of(0, 1);
    weightHistogram(values, { bins: 65_536, range: [0, 1] }); // control case
    expect(() => weightHistogram(values, options)).toThrow(RangeError);
    expect(() => weightHistogram(values, options)).toThrow(message);
  });

  test("rejects what is no array of weights and no range as TypeError", () => {
    weightHistogram(Float32Array.of(0, 1), { range: [0, 1] }); // control case
    expect(() => weightHistogram([0, 1] as unknown as Float32Array)).toThrow(new TypeError("values is [0, 1]; expected a Float32Array."));
    expect(() => weightHistogram(Float32Array.of(0, 1), { bins: "9" as unknown as number })).toThrow(new TypeError('bins is "9"; expected an integer from 1 to 65536.'));
    expect(() => weightHistogram(Float32Array.of(0, 1), { range: 5 as unknown as [number, number] })).toThrow(new TypeError("range is 5; expected two finite numbers, the smaller first."));
  });

  test("rejects no values", () => {
    expect(() => weightHistogram(new Float32Array(0))).toThrow(RangeError);
  });
});
