import { describe, expect, test } from "vitest";
import { type InputStatistics, MAGNITUDE_BINS, magnitudeBin } from "../../src/quantize/inputStatistics.ts";
import { staticRange } from "../../src/quantize/observers.ts";
import { gaussian } from "../fixtures/seededCheckpoint.ts";
import { roundHalfToEven } from "../reference/gpt2.ts";
import { tolerances } from "../tolerances.ts";

/** What calibration sees of rows of K values. */
function observed(rows: readonly ArrayLike<number>[], K: number): Pick<InputStatistics, "absmax" | "histogram"> {
  const absmax = new Float32Array(K);
  const histogram = new Uint32Array(MAGNITUDE_BINS);
  for (const row of rows) {
    for (let k = 0; k < K; k++) {
      absmax[k] = Math.max(absmax[k]!, Math.abs(row[k]!));
      histogram[magnitudeBin(row[k]!)]!++;
    }
  }
  return { absmax, histogram };
}
const observers = ["minmax", "percentile", "mse"] as const;

/** Σ (x − x')² under int8 codes of the range, value by value. */
function squaredError(values: Float32Array, range: number): number {
  const scale = range / 127;
  return values.reduce((sum, x) => sum + (x - Math.max(-127, Math.min(127, roundHalfToEven(x / scale))) * scale) ** 2, 0);
}

/** 20,000 normal values of deviation 1 and, instead of one of them, 60. */
const heavyTailed = gaussian(20_000, 1, 0, 5).fill(60, 0, 1);

describe("staticRange", () => {
  test("minmax is the largest magnitude of any column", () => {
    expect(staticRange(observed([[1, -7, 2], [3, 4, -5]], 3), "minmax")).toBe(7);
  });

  test("percentile is, to a bin's width, the magnitude that 1 of 10,000 exceed", () => {
    const sorted = heavyTailed.map(Math.abs).sort();
    const exact = sorted[20_000 - 3]!; // two of 20,000 may lie above
    const range = staticRange(observed([heavyTailed], 20_000), "percentile");
    expect(range).toBeGreaterThanOrEqual(exact);
    expect(range).toBeLessThanOrEqual(exact * (1 + 1 / 64));
    expect(range).toBeLessThan(sorted.at(-1)!);
  });

  test.each([["heavy tails", heavyTailed], ["a normal distribution", gaussian(20_000, 0.3, 0, 6)], ["equal magnitudes", new Float32Array(20_000).fill(-2.5)]] as const)(
    "mse leaves an error close to the least that any range leaves, and never above minmax's: %s",
    (_, values) => {
      const statistics = observed([values], values.length);
      const error = squaredError(values, staticRange(statistics, "mse"));
      const largest = staticRange(statistics, "minmax");
      const least = Math.min(...Array.from({ length: 200 }, (_, i) => squaredError(values, (largest * (i + 1)) / 200)));
      expect(error).toBeLessThanOrEqual(Math.max(least * tolerances.rangeError, 1e-12 * values.length));
      expect(error).toBeLessThanOrEqual(squaredError(values, largest) * tolerances.rangeError);
    },
  );
  test("mse clips a lone large value, here to 60 / (1 + 20,000 / (12 · 127²)), and keeps light tails", () => {
    const clipped = observed([heavyTailed], 20_000);
    const best = 60 / (1 + 20_000 / (12 * 127 ** 2)); // where the derivative of (60 − r)² + 20,000 · (r / 127)² / 12 vanishes
    expect(Math.abs(staticRange(clipped, "mse") / best - 1)).toBeLessThan(1 / 64);
    expect(staticRange(clipped, "minmax")).toBe(60);
    const uniform = observed([Float32Array.from({ length: 5000 }, (_, i) => Math.sin(i))], 5000);
    expect(staticRange(uniform, "mse")).toBeGreaterThan(0.98);
  });

  test.each(observers)("%s of nothing but zeros is 0, as of no rows at all", (observer) => {
    expect(staticRange(observed([[0, -0, 0]], 3), observer)).toBe(0);
    expect(staticRange(observed([], 3), observer)).toBe(0);
  });
  test.each(observers)("%s of one row is a positive number up to its largest magnitude", (observer) => {
    const range = staticRange(observed([[0.5, -3, 1]], 3), observer);
    expect(range).toBeGreaterThan(2.9);
    expect(range).toBeLessThanOrEqual(3);
  });
  test.each(observers)("%s is the largest magnitude where all values lie in the last bin, or in the first", (observer) => {
    expect(staticRange(observed([[1e9, -1e9]], 2), observer)).toBe(1e9);
    expect(staticRange(observed([[2 ** -30, 2 ** -30]], 2), observer)).toBe(2 ** -30);
  });
});
