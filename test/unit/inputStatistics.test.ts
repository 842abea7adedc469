import { describe, expect, test } from "vitest";
import { binEdge, MAGNITUDE_BINS, magnitudeBin, outlierShare } from "../../src/quantize/inputStatistics.ts";

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

describe("outlierShare", () => {
  test("counts the values of at least the threshold among all", () => {
    const histogram = new Uint32Array(MAGNITUDE_BINS);
    for (const x of [0.1, -5.9, 6, -6, 100, 0, 1, 2]) histogram[magnitudeBin(x)]!++;
    expect(outlierShare({ histogram }, 6)).toBe(3 / 8);
    expect(outlierShare({ histogram: new Uint32Array(MAGNITUDE_BINS) }, 6)).toBe(0);
  });
});
