import type { QuantizedTensor, TensorFormat } from "../types.ts";
import { findNearest16, type NearestCode, nearestCode } from "./codebook.ts";
import { FP4_CODES, NF4_CODES, type ScaledFormat } from "./formats.ts";
import { roundHalfEven } from "./rounding.ts";

type IntegerFormat = Extract<TensorFormat, { mode: unknown }>;
type CodebookFormat = Extract<TensorFormat, { block: unknown }>;

/** Smallest normal f32: GPUs may flush what is smaller to zero. */
export const MIN_NORMAL = 2 ** -126;
/** Keeps zero points, and codes minus zero points, within the integers that an f32 holds exactly. */
const MIN_SCALE_RATIO = 2 ** -23;

/** The codes of one group of values after the other, and what they stand for. */
export interface Grid {
  /** f32; 0: every code stands for 0. */
  readonly scale: number;
  /** An integer; 0 outside of zero-point mode. */
  readonly zeroPoint: number;
  /** Suits values[start … end), finite f32, by the formulas of quantizeTensor. False: one of its codes restores no finite f32. */
  fit(values: Float32Array, start: number, end: number): boolean;
  /** Takes the scale and zero point of a stored group. */
  set(scale: number, zeroPoint: number): void;
  /** The code nearest to x, for any finite x. */
  code(x: number): number;
  /** What a code restores, an f32. */
  value(code: number): number;
  /** codes[i] = code(values[i]) for start ≤ i < end, of the values that it was fitted to. */
  encode(values: Float32Array, codes: Int8Array | Uint8Array, start: number, end: number): void;
  /** values[i] = value(codes[i]) for start ≤ i < end. */
  restore(codes: QuantizedTensor["codes"], values: Float32Array, start: number, end: number): void;
}

/** A grid whose scale is 0 until it is fitted or set. */
export function gridOf(format: ScaledFormat): Grid {
  return "block" in format ? new CodebookGrid(format) : new IntegerGrid(format);
}

export function absMax(values: Float32Array, start: number, end: number): number {
  let largest = 0;
  for (let i = start; i < end; i++) {
    const magnitude = Math.abs(values[i]!);
    if (magnitude > largest) largest = magnitude;
  }
  return largest;
}

class IntegerGrid implements Grid {
  scale = 0;
  zeroPoint = 0;
  private divisor = Infinity;
  private readonly isAbsmax: boolean;
  private readonly lowest: number;
  private readonly highest: number;

  constructor({ type, mode }: IntegerFormat) {
    this.isAbsmax = mode === "absmax";
    this.highest = type === "int8" ? 127 : 7;
    this.lowest = this.isAbsmax ? -this.highest : -this.highest - 1;
  }

  fit(values: Float32Array, start: number, end: number): boolean {
    return this.isAbsmax ? this.fitAbsmax(values, start, end) : this.fitZeroPoint(values, start, end);
  }

  private fitAbsmax(values: Float32Array, start: number, end: number): boolean {
    const scale = Math.fround(absMax(values, start, end) / this.highest); // the very f32 that kernels multiply by
    this.set(scale < MIN_NORMAL ? 0 : scale, 0);
    return Number.isFinite(this.value(this.highest));
  }

  private fitZeroPoint(values: Float32Array, start: number, end: number): boolean {
    let min = values[start]!;
    let max = min;
    for (let i = start + 1; i < end; i++) {
      const value = values[i]!;
      if (value < min) min = value;
      if (value > max) max = value;
    }
    if (min === max) {
      this.set(Math.abs(min), 0);
      return true; // of its codes quantizeTensor uses −1, 0 or 1
    }
    const scale = Math.fround(Math.max((max - min) / (this.highest - this.lowest), MIN_NORMAL, Math.max(-min, max) * MIN_SCALE_RATIO));
    this.set(scale, roundHalfEven(-min / scale) + this.lowest);
    return Number.isFinite(this.value(this.lowest)) && Number.isFinite(this.value(this.highest));
  }

  set(scale: number, zeroPoint: number): void {
    this.scale = scale;
    this.zeroPoint = zeroPoint;
    this.divisor = scale || Infinity;
  }

  code(x: number): number {
    const code = this.nearest(x);
    return code < this.lowest ? this.lowest : code > this.highest ? this.highest : code;
  }

  /** The integer nearest to x, a code or beyond. */
  private nearest(x: number): number {
    return roundHalfEven(x / this.divisor) + this.zeroPoint;
  }

  value(code: number): number {
    return Math.fround(Math.fround(code - this.zeroPoint) * this.scale);
  }

  encode(values: Float32Array, codes: Int8Array | Uint8Array, start: number, end: number): void {
    if (this.isAbsmax) for (let i = start; i < end; i++) codes[i] = this.nearest(values[i]!); // of the values it was fitted to: the scale is off by 2^-24 at most
    else for (let i = start; i < end; i++) codes[i] = this.code(values[i]!);
  }

  restore(codes: QuantizedTensor["codes"], values: Float32Array, start: number, end: number): void {
    for (let i = start; i < end; i++) values[i] = this.value(codes[i]!);
  }
}

interface Codebook {
  values: Float32Array;
  nearest: NearestCode;
}
const nf4: Codebook = { values: NF4_CODES, nearest: nearestCode(NF4_CODES) };
const fp4: Codebook = { values: FP4_CODES, nearest: nearestCode(FP4_CODES) };

class CodebookGrid implements Grid {
  scale = 0;
  readonly zeroPoint = 0;
  private inverse = 0;
  private readonly codebook: Codebook;

  constructor({ type }: CodebookFormat) {
    this.codebook = type === "nf4" ? nf4 : fp4;
  }

  fit(values: Float32Array, start: number, end: number): boolean {
    const scale = absMax(values, start, end);
    this.set(scale < MIN_NORMAL ? 0 : scale);
    return true; // the codebook's values are at most 1
  }

  set(scale: number): void {
    this.scale = scale;
    this.inverse = scale === 0 ? 0 : Math.fround(1 / scale);
  }

  /** Beyond ±1 the outermost code is the nearest. */
  code(x: number): number {
    return findNearest16(this.codebook.nearest, Math.fround(x * this.inverse));
  }

  value(code: number): number {
    return Math.fround(this.codebook.values[code]! * this.scale);
  }

  encode(values: Float32Array, codes: Int8Array | Uint8Array, start: number, end: number): void {
    for (let i = start; i < end; i++) codes[i] = this.code(values[i]!);
  }

  restore(codes: QuantizedTensor["codes"], values: Float32Array, start: number, end: number): void {
    for (let i = start; i < end; i++) values[i] = this.value(codes[i]!);
  }
}
