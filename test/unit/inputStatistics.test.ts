import { describe, expect, test } from "vitest";
import { binEdge, f16ColumnsOf, MAGNITUDE_BINS, magnitudeBin, outliersBeyond, withoutOutliers } from "../../src/quantize/inputStatistics.ts";

describe("magnitudeBin", () => {
  test("gives each edge its own bin and what lies just below it the one before", () => {
    for (let bin = 1; bin < MAGNITUDE_BINS; bin++) {
      const edge = binEdge(bin);
      expect(magnitudeBin(edge)).toBe(bin);
      expect(magnitudeBin(-edge)).toBe(bin);
      expect(magnitudeBin(edge * (1 - 2 ** -24))).toBe(bin - 1);
    }
  });
  test("has edges from 2^-20 to 2^16, 64 to an octave", () => {
    expect([binEdge(0), binEdge(64), binEdge(MAGNITUDE_BINS)]).toEqual([2 ** -20, 2 ** -19, 2 ** 16]);
  });
  test("counts what is smaller in the first bin and what is larger in the last", () => {
    expect([0, -0, 2 ** -30, 2 ** -149].map(magnitudeBin)).toEqual([0, 0, 0, 0]);
    expect([2 ** 16, -1e30].map(magnitudeBin)).toEqual([MAGNITUDE_BINS - 1, MAGNITUDE_BINS - 1]);
  });
});

describe("outliersBeyond", () => {
  const histogram = new Uint32Array(MAGNITUDE_BINS);
  for (const value of [0, 1, 5.9, 6, 6.1, 70]) histogram[magnitudeBin(value)]!++;

  test("finds columns that reach the threshold, and the share of values, exact at a bin's edge", () => {
    expect(outliersBeyond(6, { absmax: Float32Array.of(1, 6, 6.1, 70), histogram })).toEqual({ columns: [1, 2, 3], share: 3 / 6 });
  });
  test("shares a bin that the threshold cuts", () => {
    const bin = magnitudeBin(70);
    const threshold = (binEdge(bin) + binEdge(bin + 1)) / 2;
    expect(outliersBeyond(threshold, { absmax: Float32Array.of(binEdge(bin + 1)), histogram }).share).toBeCloseTo(0.5 / 6, 12);
  });
  test("finds none beyond the largest value", () => {
    expect(outliersBeyond(70.1, { absmax: Float32Array.of(70), histogram })).toEqual({ columns: [], share: 0 });
  });
});

describe("f16ColumnsOf", () => {
  const histogram = new Uint32Array(MAGNITUDE_BINS);

  test("gives the columns with outliers, of which an eighth of all columns at most, rounded up: those with the largest inputs on average", () => {
    const absmax = new Float32Array(17);
    absmax.set([7, 1, 6, 5.9, 70, 9]);
    const meanAbs = Float32Array.from(absmax, (_, k) => (k === 4 ? 0.1 : 1 / (1 + k)));
    expect(f16ColumnsOf(6, { absmax, meanAbs, histogram })).toEqual([0, 2, 5]);
    expect(f16ColumnsOf(9, { absmax, meanAbs, histogram })).toEqual([4, 5]);
    expect(f16ColumnsOf(71, { absmax, meanAbs, histogram })).toEqual([]);
  });
});

describe("withoutOutliers", () => {
  test("clips the maxima and empties the bins from the threshold on", () => {
    const histogram = new Uint32Array(MAGNITUDE_BINS).fill(1);
    const found = withoutOutliers(6, { absmax: Float32Array.of(1, 6, 70), histogram });
    expect([...found.absmax]).toEqual([1, 6, 6]);
    expect(found.histogram.lastIndexOf(1)).toBe(magnitudeBin(6) - 1);
    expect(found.histogram.indexOf(0)).toBe(magnitudeBin(6));
  });
});
