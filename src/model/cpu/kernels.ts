import type { PackedRows } from "../../quantize/packRows.ts";
import type { Activation, QuantizedTensor } from "../../types.ts";
import type { Input } from "./input.ts";

/** Rows of a matrix that are restored together: few enough that they stay in a core's cache while all tokens pass over them. */
export const BLOCK_ROWS = 24;

/** Rows of an `Input` are padded with zeros to a multiple of it, so that no loop over columns needs a tail. */
export const COLUMN_STEP = 32;

/** Rows that attention multiplies have a multiple of so many columns. */
export const LANES = 4;

export function roundUp(count: number, multiple: number): number {
  return Math.ceil(count / multiple) * multiple;
}

/** Rows of a row-major matrix, f32, that lie `stride` values apart. */
export interface Rows {
  values: Float32Array;
  /** Index of the first row's first value. */
  start: number;
  stride: number;
  count: number;
}

/** What a multiplication may overwrite; from `CpuKernels.allocate`. */
export interface Scratch {
  block: Float32Array; // f32 [BLOCK_ROWS, longest row padded to COLUMN_STEP]
  sums: Float32Array; // f32 [tokens, BLOCK_ROWS]
}

export function createScratch(kernels: Pick<CpuKernels, "allocate">, tokens: number, longestRow: number): Scratch {
  return {
    block: kernels.allocate(Float32Array, BLOCK_ROWS * roundUp(longestRow, COLUMN_STEP)),
    sums: kernels.allocate(Float32Array, tokens * BLOCK_ROWS),
  };
}

/** How rows of activations become int8 codes; the arithmetic is in input.ts. */
export interface InputCoding {
  /** The largest magnitude that a code stands for, f32; 0: each row's own. */
  range: number;
  /** f32; what is at least as large stays f32. Infinity: nothing does. */
  outlierThreshold: number;
}

/** A matrix [O, K] in its stored form. Weights are restored inside the loops; there is never an f32 copy of a quantized matrix. */
export interface CpuMatrix {
  readonly O: number;
  readonly K: number;
  readonly codeBytes: number;
  /** Scales, zero points, double-quantization state, f16 columns. */
  readonly scaleBytes: number;
  /** How multiply() wants its Input loaded; null: as f32. */
  readonly coding: InputCoding | null;
  /** y[t, o − from] = Σ_k w[o, k] · x[t, k] for the rows t of x and from ≤ o < to. */
  multiply(x: Input, y: Rows, from: number, to: number, scratch: Scratch): void;
  /** restored[o − from, k] = the values that `dequantizeTensor` gives, for from ≤ o < to, at most BLOCK_ROWS rows; may write up to a multiple of COLUMN_STEP behind each. */
  restoreRows(from: number, to: number, restored: Float32Array, stride: number): void;
  /** The tensor whose packed weights it was made of. */
  toTensor(): QuantizedTensor;
}

type Arrays = Float32Array | Int16Array | Uint16Array | Int8Array;
export interface ArrayType<A extends Arrays> {
  readonly BYTES_PER_ELEMENT: number;
  new (length: number): A;
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): A;
}

/** The loops of the CPU backend and the memory that they reach: in plain TypeScript, or in WebAssembly SIMD where the page allows it. */
export interface CpuKernels {
  readonly name: "plain TypeScript" | "WASM SIMD";
  /**
   * An array of zeros; the loops below take no others. Valid until the memory grows for another: see allocateTogether().
   * @throws EngineError `outOfMemory`
   */
  allocate<A extends Arrays>(type: ArrayType<A>, length: number): A;
  /** Grows the memory for arrays of these lengths. @throws EngineError `outOfMemory` */
  reserve(arrayBytes: readonly number[]): void;
  /** What its memory takes beside the bytes of the arrays and matrices in it: gaps, tables, the rest of the last page. */
  readonly overheadBytes: number;
  /** Copies packed weights; coding: where the format is int8, multiply int8 codes by int8 codes. */
  createMatrix(packed: PackedRows, coding: InputCoding | null): CpuMatrix;
  /** y[t, o] = Σ_k x[t, k] · w[o, k] for k < K, a multiple of LANES. The order of the sums does not depend on the number of rows. */
  multiplyRows(x: Rows, w: Rows, K: number, y: Rows): void;
  /** max |x[i]| for start ≤ i < start + count; x: f32, count a multiple of COLUMN_STEP. */
  largestMagnitude(x: Float32Array, start: number, count: number): number;
  /** x[i] = codes[i] = clamp(round(x[i] · inverse), −127, 127), half to even, products rounded to f32; count a multiple of COLUMN_STEP. */
  quantize(x: Float32Array, start: number, count: number, inverse: number, codes: Int16Array): void;
  /** restored = halves, f16 as f32: `rows` rows of `columns` values, a multiple of LANES; `restored` has no gaps between its rows. */
  restoreHalves(halves: Uint16Array, start: number, stride: number, rows: number, columns: number, restored: Float32Array): void;
  /** halves[i] = x[start + i] as f16, to nearest even, saturated at ±65504, for i < count; both arrays have room for a multiple of 8. */
  roundHalves(x: Float32Array, start: number, count: number, halves: Uint16Array): void;
  /** y = (x − mean) / √(variance + epsilon) · weight + bias over each of T rows; x, y: f32 [T, C], may be one array; affine: f32 [2, C], weight and bias. */
  layerNorm(x: Float32Array, y: Float32Array, T: number, C: number, affine: Float32Array, epsilon: number): void;
  /** y[t, o] += bias[o] for o < O; y: f32 [T, O]. */
  addBias(y: Float32Array, T: number, O: number, bias: Float32Array): void;
  /** x[i] = activation(x[i]) for i < count; f32. */
  activate(activation: Activation, x: Float32Array, count: number): void;
  /** x = softmax(scale · x) over count values from start; f32. */
  softmax(x: Float32Array, start: number, count: number, scale: number): void;
  /**
   * sum: Σ exp(logits[i] − max); excess: Σ exp(logits[i] − max) · (logits[i] − other[i]), 0 without `other`; over count values from start. f32 arrays.
   * The object is overwritten by the next call.
   */
  sumExp(logits: Float32Array, start: number, count: number, max: number, other?: Float32Array): { sum: number; excess: number };
}

/** Bytes of each array that `create` would allocate, none of which is made. */
export function countArrays(kernels: CpuKernels, create: (kernels: CpuKernels) => unknown): number[] {
  const arrayBytes: number[] = [];
  const counting = Object.create(kernels) as CpuKernels;
  counting.allocate = (type, length) => {
    arrayBytes.push(length * type.BYTES_PER_ELEMENT);
    return new type(0);
  };
  create(counting);
  return arrayBytes;
}

/**
 * What `create` makes with arrays that are valid together: a WebAssembly memory that grows takes the arrays on it away, so `create` runs twice,
 * first only to count. No matrix may be created after it.
 */
export function allocateTogether<T>(kernels: CpuKernels, create: (kernels: CpuKernels) => T): T {
  kernels.reserve(countArrays(kernels, create));
  return create(kernels);
}
