/** GPTQ in float64 as the paper (arXiv:2210.17323, algorithm 1) writes it, column by column and without blocks, with scales and codes by the formulas of api.md. */
import { FP4_CODES, groupLayout, NF4_CODES } from "../../src/quantize/formats.ts";
import { dequantizeTensor, quantizeTensor } from "../../src/quantize/nearest.ts";
import type { TensorFormat } from "../../src/types.ts";
import { roundHalfToEven } from "./gpt2.ts";

type ScaledFormat = Exclude<TensorFormat, { type: "f32" | "f16" }>;

/** A group's scale and zero point, and, under double quantization, the scale that codes are multiplied by. */
interface Parameters {
  scale: number;
  zeroPoint: number;
  restoredScale: number;
}

export interface ReferenceGptq {
  /** [rows · K] */
  codes: number[];
  /** One per group, in the order of the groups. */
  scales: number[];
  zeroPoints: number[];
}

/** What the inputs tell GPTQ: the columns in the order of rounding, and U with H⁻¹ = Uᵀ U, upper triangular, in that order. */
export interface ReferenceHessian {
  order: number[];
  activationOrder: boolean;
  u: number[][];
}

/** H = 2 · gram + 1 % of its mean diagonal; columns in their order, or of falling diagonal. */
export function referenceHessian(gram: ArrayLike<number>, K: number, activationOrder: boolean): ReferenceHessian {
  const order = Array.from({ length: K }, (_, k) => k);
  if (activationOrder) order.sort((i, j) => gram[j * K + j]! - gram[i * K + i]!);
  const meanDiagonal = order.reduce((sum, k) => sum + gram[k * K + k]!, 0) / K;
  const h = order.map((i) => order.map((j) => 2 * gram[i * K + j]! + (i === j ? 0.01 * 2 * meanDiagonal : 0)));
  return { order, activationOrder, u: choleskyUpper(inverse(h)) };
}

/** values: f32 [rows, K]. With activation order groups are fitted to the original weights. */
export function referenceGptq(values: Float32Array, [rows, K]: readonly [number, number], format: ScaledFormat, { order, activationOrder, u }: ReferenceHessian): ReferenceGptq {
  const { lineLength, groupLength, groupsPerLine } = groupLayout(format, [rows, K]);
  const groupOf = (index: number): number => Math.floor(index / lineLength) * groupsPerLine + Math.floor((index % lineLength) / groupLength);

  const isNested = "block" in format && format.doubleQuantization === true;
  const isStatic = activationOrder || isNested || groupLength > 256 || ("mode" in format && typeof format.granularity === "string");
  const groups: Parameters[] = [];
  if (isStatic) {
    const members: number[][] = [];
    values.forEach((_, index) => (members[groupOf(index)] ??= []).push(index));
    members.forEach((indices, group) => (groups[group] = fit(indices.map((index) => values[index]!), format)));
    if (isNested) quantizeTensor(values, [rows, K], format).scales.forEach((scale, group) => (groups[group]!.restoredScale = scale));
  }

  const codes = new Array<number>(rows * K);
  for (let row = 0; row < rows; row++) {
    const w = order.map((k) => values[row * K + k]!); // in the order of rounding, updated as it goes
    for (let j = 0; j < K; j++) {
      const index = row * K + order[j]!;
      const group = groupOf(index);
      groups[group] ??= fit(w.slice(j, j + groupLength).map(Math.fround), format);
      codes[index] = nearest(w[j]!, format, groups[group]);
      const error = (w[j]! - restored(codes[index], format, groups[group])) / u[j]![j]!;
      for (let k = j; k < K; k++) w[k]! -= error * u[j]![k]!;
    }
  }
  return { codes, scales: groups.map(({ restoredScale }) => restoredScale), zeroPoints: groups.map(({ zeroPoint }) => zeroPoint) };
}

/** Σ over rows of Δw · gram · Δwᵀ, in f64: the mean squared error of the outputs, summed over them. */
export function outputError(values: Float32Array, restoredValues: Float32Array, gram: ArrayLike<number>, K: number): number {
  let sum = 0;
  for (let start = 0; start < values.length; start += K) {
    for (let i = 0; i < K; i++) {
      const error = values[start + i]! - restoredValues[start + i]!;
      for (let j = 0; j < K; j++) sum += error * gram[i * K + j]! * (values[start + j]! - restoredValues[start + j]!);
    }
  }
  return sum;
}

/** The output error of rounding to nearest. */
export function nearestOutputError(values: Float32Array, shape: readonly [number, number], format: TensorFormat, gram: ArrayLike<number>): number {
  return outputError(values, dequantizeTensor(quantizeTensor(values, shape, format)), gram, shape[1]);
}

const tableOf = (format: ScaledFormat): Float32Array => (format.type === "nf4" ? NF4_CODES : FP4_CODES);
const highestOf = (format: ScaledFormat): number => (format.type === "int8" ? 127 : 7);

function fit(values: readonly number[], format: ScaledFormat): Parameters {
  const max = Math.max(...values);
  const min = Math.min(...values);
  const absmax = Math.max(-min, max);
  const parameters = (scale: number, zeroPoint = 0): Parameters => ({ scale: Math.fround(scale), zeroPoint, restoredScale: Math.fround(scale) });
  if ("block" in format) return parameters(absmax);
  const highest = highestOf(format);
  if (format.mode === "absmax") return parameters(absmax / highest);
  const { scale } = parameters((max - min) / (2 * highest + 1));
  return parameters(scale, roundHalfToEven(-min / scale) - highest - 1);
}

function nearest(x: number, format: ScaledFormat, { scale, zeroPoint }: Parameters): number {
  if ("block" in format) {
    const distances = Array.from(tableOf(format), (code) => Math.abs(x / scale - code));
    return distances.indexOf(Math.min(...distances));
  }
  const highest = highestOf(format);
  return Math.max(format.mode === "absmax" ? -highest : -highest - 1, Math.min(highest, roundHalfToEven(x / scale) + zeroPoint));
}

function restored(code: number, format: ScaledFormat, { restoredScale, zeroPoint }: Parameters): number {
  return Math.fround("block" in format ? tableOf(format)[code]! * restoredScale : (code - zeroPoint) * restoredScale);
}

/** By Gauss and Jordan, without pivoting: the matrix is positive definite. */
function inverse(matrix: readonly (readonly number[])[]): number[][] {
  const n = matrix.length;
  const rows = matrix.map((row, i) => [...row, ...Array.from({ length: n }, (_, j) => (i === j ? 1 : 0))]);
  for (let i = 0; i < n; i++) {
    const pivot = rows[i]![i]!;
    rows[i] = rows[i]!.map((value) => value / pivot);
    for (let j = 0; j < n; j++) {
      if (j === i) continue;
      const factor = rows[j]![i]!;
      rows[j] = rows[j]!.map((value, k) => value - factor * rows[i]![k]!);
    }
  }
  return rows.map((row) => row.slice(n));
}

/** A = Uᵀ U, U upper triangular. */
function choleskyUpper(a: readonly (readonly number[])[]): number[][] {
  const n = a.length;
  const u = a.map(() => new Array<number>(n).fill(0));
  for (let i = 0; i < n; i++) {
    for (let j = i; j < n; j++) {
      let sum = a[i]![j]!;
      for (let k = 0; k < i; k++) sum -= u[k]![i]! * u[k]![j]!;
      u[i]![j] = i === j ? Math.sqrt(sum) : sum / u[i]![i]!;
    }
  }
  return u;
}
