import { type CpuKernels, COLUMN_STEP, type InputCoding, LANES, roundUp } from "./kernels.ts";
import { Outliers } from "./outliers.ts";

/** Below it 127 / absmax is no longer an f32. */
const SMALLEST_ABSMAX = 2 ** -120;

/**
 * Rows of activations [T, K] as matrices take them: padded with zeros, and for int8 activations quantized row by row.
 *
 * The arithmetic of int8 activations, the same on every backend. For one row x of f32, each operation rounded once to f32:
 * absmax = max |x_k|, or the static range of the matrix; scaleX = absmax / 127; inverse = 127 / absmax;
 * code_k = clamp(round(x_k · inverse), −127, 127), half to even. Where absmax < 2⁻¹²⁰, as in a row of zeros, scaleX = 1 and all codes are 0.
 * An output is y = Σ_g (f32(Σ_k code_k · (w_k − zeroPoint_g)) · scaleX) · scaleW_g + bias: the inner sum over the columns of a group in exact
 * integers, then f32 from left to right, groups in their order. Formats other than int8 take the f32 rows as they are.
 * With an outlier threshold (LLM.int8(), Dettmers et al., arXiv:2208.07339, which takes out whole columns where this takes out single values), each
 * |x_k| ≥ threshold is an outlier: it counts for absmax as 0, has code 0, and before the bias y = f32(y + f32(x_k · f32((w_k − zeroPoint_g) · scaleW_g))),
 * in the order of columns; in a column that keeps f16 weights, y = f32(y + f32(x_k · w16_k)). The integers are the same everywhere; the GPU may add the
 * f32 products in another order.
 */
export class Input {
  T = 0;
  /** Values from one row to the next. */
  stride = 0;
  readonly values: Float32Array; // f32 [T, stride], zero from column K on; loaded as codes: the codes
  readonly codes: Int16Array; // int16 [T, stride]: the codes again, for loops that multiply int16
  readonly scales: Float32Array; // f32 [T]: scaleX
  /** What the codes leave out. */
  readonly outliers = new Outliers();
  private readonly kernels: CpuKernels;

  constructor(kernels: CpuKernels, tokens: number, longestRow: number) {
    this.kernels = kernels;
    const length = roundUp(tokens, LANES) * roundUp(longestRow, COLUMN_STEP); // InputTally fills it with columns of tokens
    this.values = kernels.allocate(Float32Array, length);
    this.codes = kernels.allocate(Int16Array, length);
    this.scales = kernels.allocate(Float32Array, tokens);
  }

  get bytes(): number {
    return this.values.byteLength + this.codes.byteLength + this.scales.byteLength;
  }

  /** @param x f32 [T, K] */
  load(x: Float32Array, T: number, K: number, coding: InputCoding | null): void {
    const { kernels, values, codes, scales, outliers } = this;
    const stride = roundUp(K, COLUMN_STEP);
    this.T = T;
    this.stride = stride;
    if (K === stride) values.set(x.subarray(0, T * K));
    for (let t = 0; K < stride && t < T; t++) {
      values.set(x.subarray(t * K, (t + 1) * K), t * stride);
      values.fill(0, t * stride + K, (t + 1) * stride);
    }
    outliers.clear();
    for (let t = 0, at = 0; coding && t < T; t++, at += stride) {
      let absmax = kernels.largestMagnitude(values, at, stride);
      if (absmax >= coding.outlierThreshold) {
        outliers.take(values, at, K, coding.outlierThreshold);
        absmax = kernels.largestMagnitude(values, at, stride);
      }
      outliers.endRow();
      if (coding.range > 0) absmax = coding.range;
      const isZero = absmax < SMALLEST_ABSMAX;
      scales[t] = isZero ? 1 : absmax / 127;
      kernels.quantize(values, at, stride, isZero ? 0 : Math.fround(127 / absmax), codes);
    }
  }
}
