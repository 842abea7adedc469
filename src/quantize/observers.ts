import type { QuantizationRecipe } from "../types.ts";
import { binEdge, type InputStatistics, MAGNITUDE_BINS } from "./inputStatistics.ts";

/** The percentile observer clips one value of so many. */
const VALUES_PER_CLIPPED = 10_000;
const LARGEST_CODE = 127;

/** Values counted alike: those of one bin of the histogram that is not empty. */
interface Bin {
  upper: number;
  middle: number;
  count: number;
}

/**
 * The static range of one matrix's inputs: int8 activations are round(x / scale) within ±127, scale = range / 127.
 * minmax: the largest magnitude; percentile: the upper edge of the bin in which the 99.99th percentile of all magnitudes lies;
 * mse: of the upper edges of all bins the one with the least Σ squared error, x − range beyond the range, x where it rounds to 0, else step² / 12.
 * Never above the largest magnitude; 0 where calibration saw only zeros.
 */
export function staticRange({ absmax, histogram }: Pick<InputStatistics, "absmax" | "histogram">, observer: NonNullable<QuantizationRecipe["observer"]>): number {
  const largest = absmax.reduce((max, value) => Math.max(max, value), 0);
  if (observer === "minmax" || largest === 0) return largest;
  const bins = filledBins(histogram, largest);
  return observer === "percentile" ? percentile(bins, largest) : leastSquares(bins, largest);
}

function filledBins(histogram: Uint32Array, largest: number): Bin[] {
  const bins: Bin[] = [];
  for (let bin = 0; bin < MAGNITUDE_BINS; bin++) {
    const count = histogram[bin]!;
    if (count === 0) continue;
    const lower = bin === 0 ? 0 : Math.min(binEdge(bin), largest);
    const upper = bin === MAGNITUDE_BINS - 1 ? largest : Math.min(binEdge(bin + 1), largest);
    bins.push({ upper, middle: (lower + upper) / 2, count });
  }
  return bins;
}

function percentile(bins: readonly Bin[], largest: number): number {
  let clipped = bins.reduce((sum, { count }) => sum + count, 0) / VALUES_PER_CLIPPED;
  return bins.findLast(({ count }) => (clipped -= count) < 0)?.upper ?? largest;
}

function leastSquares(bins: readonly Bin[], largest: number): number {
  let best = largest;
  let leastError = Infinity;
  for (let edge = 1; edge <= MAGNITUDE_BINS; edge++) {
    const range = edge === MAGNITUDE_BINS ? largest : Math.min(binEdge(edge), largest); // also where bins are empty: below a lone large value
    const step = range / LARGEST_CODE;
    let error = 0;
    for (const { middle, count } of bins) error += count * (middle > range ? (middle - range) ** 2 : middle < step / 2 ? middle ** 2 : step ** 2 / 12);
    if (error < leastError) {
      leastError = error;
      best = range;
    }
    if (range === largest) break;
  }
  return best;
}
