/** What calibration saw of one linear matrix's inputs: rows x, f32 [K]. */
export interface InputStatistics {
  /** Rows seen. */
  rows: number;
  /** f32 [K]: max |x_k|. */
  absmax: Float32Array;
  /** f32 [K]: mean |x_k|. */
  meanAbs: Float32Array;
  /** u32 [MAGNITUDE_BINS]: how many values of all rows and columns have their magnitude in each bin. */
  histogram: Uint32Array;
  /** f32 [K, K], symmetric: mean x_j · x_k over the rows; null where it was not asked for. GPTQ's Hessian is twice it. */
  gram: Float32Array | null;
}

/** Bins of one octave: a bin's edges differ by 1.1 to 1.6 %. */
const BINS_PER_OCTAVE = 64;
const LOWEST_EXPONENT = -20;
const HIGHEST_EXPONENT = 16;
/** Bins of magnitudes from 2^-20 to 2^16; what is smaller counts in the first, what is larger in the last. */
export const MAGNITUDE_BINS = (HIGHEST_EXPONENT - LOWEST_EXPONENT) * BINS_PER_OCTAVE;

const bits = new Uint32Array(1);
const float = new Float32Array(bits.buffer);
/** A bin is the exponent and the first six bits of the fraction, so that every backend counts alike: bit operations, no logarithm. */
export const MAGNITUDE_BIN_SHIFT = 17;
/** What the bits of 2^-20 give. */
export const FIRST_MAGNITUDE_BIN = (127 + LOWEST_EXPONENT) * BINS_PER_OCTAVE;

/** Bin of |x|, x: f32. */
export function magnitudeBin(x: number): number {
  float[0] = Math.abs(x);
  return Math.min(Math.max((bits[0]! >>> MAGNITUDE_BIN_SHIFT) - FIRST_MAGNITUDE_BIN, 0), MAGNITUDE_BINS - 1);
}

/** Lower edge of a bin; the upper one is the next bin's. */
export function binEdge(bin: number): number {
  bits[0] = (bin + FIRST_MAGNITUDE_BIN) << MAGNITUDE_BIN_SHIFT;
  return float[0]!;
}

/** Columns with a magnitude of at least the threshold, and the share of all values that have one: exact at the edges of bins, linear within one. */
export function outliersBeyond(threshold: number, { absmax, histogram }: Pick<InputStatistics, "absmax" | "histogram">): { columns: number[]; share: number } {
  const columns = [...absmax.keys()].filter((k) => absmax[k]! >= threshold);
  if (columns.length === 0) return { columns, share: 0 };
  let beyond = 0;
  let total = 0;
  for (let bin = 0; bin < MAGNITUDE_BINS; bin++) {
    const [lower, upper] = [binEdge(bin), binEdge(bin + 1)];
    beyond += histogram[bin]! * Math.min(1, Math.max(0, (upper - threshold) / (upper - lower)));
    total += histogram[bin]!;
  }
  return { columns, share: beyond / total };
}

/** Columns of a matrix that may keep f16 weights, one of so many: a matrix in int8 grows by about a quarter at most. */
const F16_SPACING = 8;

/** The columns whose weights LLM.int8() keeps in f16, ascending: those beyond the threshold; where they are too many, those with the largest inputs on average. */
export function f16ColumnsOf(threshold: number, { absmax, histogram, meanAbs }: Pick<InputStatistics, "absmax" | "histogram" | "meanAbs">): number[] {
  const { columns } = outliersBeyond(threshold, { absmax, histogram });
  const largest = columns.sort((a, b) => meanAbs[b]! - meanAbs[a]! || a - b).slice(0, Math.ceil(absmax.length / F16_SPACING));
  return largest.sort((a, b) => a - b);
}

/** Statistics without what is beyond the threshold: what LLM.int8() leaves to the codes. A bin that the threshold cuts stays whole. */
export function withoutOutliers(threshold: number, { absmax, histogram }: Pick<InputStatistics, "absmax" | "histogram">): Pick<InputStatistics, "absmax" | "histogram"> {
  return { absmax: absmax.map((value) => Math.min(value, threshold)), histogram: histogram.map((count, bin) => (binEdge(bin) < threshold ? count : 0)) };
}
