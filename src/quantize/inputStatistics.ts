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
/** Exponent and the first six bits of the fraction, so that every backend counts alike: bit operations, no logarithm. */
const FIRST_BIN = (127 + LOWEST_EXPONENT) * BINS_PER_OCTAVE;

/** Bin of |x|, x: f32. */
export function magnitudeBin(x: number): number {
  float[0] = Math.abs(x);
  return Math.min(Math.max((bits[0]! >>> 17) - FIRST_BIN, 0), MAGNITUDE_BINS - 1);
}

/** Lower edge of a bin; the upper one is the next bin's. */
export function binEdge(bin: number): number {
  bits[0] = (bin + FIRST_BIN) << 17;
  return float[0]!;
}

/** Share of the values that LLM.int8() keeps as they are: those of at least `threshold`, to the width of a bin. */
export function outlierShare({ histogram }: Pick<InputStatistics, "histogram">, threshold: number): number {
  const first = magnitudeBin(threshold);
  let [outliers, all] = [0, 0];
  histogram.forEach((count, bin) => {
    all += count;
    if (bin >= first) outliers += count;
  });
  return all === 0 ? 0 : outliers / all;
}
