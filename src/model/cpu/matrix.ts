import { DYNAMIC_MAP_SIGNED, FP4_CODES, groupLayout, NESTED_BLOCK, NF4_CODES, type ScaledFormat } from "../../quantize/formats.ts";
import { type PackedRows, unpackRows } from "../../quantize/packRows.ts";
import type { QuantizedTensor, TensorFormat } from "../../types.ts";
import { halfValues } from "./halfValues.ts";
import type { Input } from "./input.ts";
import { BLOCK_ROWS, type CpuMatrix, type InputCoding, roundUp, type Rows, type Scratch } from "./kernels.ts";
import { type ColumnSource, F16Weights } from "./outliers.ts";
import { multiplyRows } from "./rows.ts";

/** Copies packed weights into the layout of the loops below. */
export function createPlainMatrix(packed: PackedRows, coding: InputCoding | null): CpuMatrix {
  const { format } = packed;
  switch (format.type) {
    case "f32":
      return new F32Matrix(packed);
    case "f16":
      return new F16Matrix(packed);
    case "int8":
      return new Int8Matrix(packed, new RowScales(packed, format), coding);
    case "int4":
    case "nf4":
    case "fp4":
      return new NibbleMatrix(packed, format.type, new RowScales(packed, format));
  }
}

/** What packed weights hold beside format and shape. */
type Parts = Omit<PackedRows, "layout" | "format" | "shape">;

/** One token reads the stored weights; more share rows that were restored once. */
abstract class PlainMatrix implements CpuMatrix {
  readonly O: number;
  readonly K: number;
  abstract readonly codeBytes: number;
  abstract readonly scaleBytes: number;
  readonly coding: InputCoding | null;
  private readonly format: TensorFormat;

  constructor({ shape: [O, K], format }: PackedRows, coding: InputCoding | null = null) {
    this.O = O;
    this.K = K;
    this.coding = coding;
    this.format = format;
  }

  toTensor(): QuantizedTensor {
    return unpackRows({ layout: "rows", format: this.format, shape: [this.O, this.K], ...this.read() });
  }

  /** Copies of what is stored. */
  protected abstract read(): Parts;

  multiply(x: Input, y: Rows, from: number, to: number, scratch: Scratch): void {
    if (x.T === 1) return this.multiplyVector(x, y.values, y.start - from, from, to);
    for (let o = from; o < to; o += BLOCK_ROWS) {
      this.multiplyBlock(x, { ...y, start: y.start + o - from }, o, Math.min(o + BLOCK_ROWS, to), scratch);
    }
  }

  protected multiplyBlock(x: Input, y: Rows, from: number, to: number, { block }: Scratch): void {
    this.restoreRows(from, to, block, this.K);
    multiplyRows(inputRows(x), { values: block, start: 0, stride: this.K, count: to - from }, this.K, y);
  }

  /** y[yStart + o] = Σ_k w[o, k] · x[k] for from ≤ o < to, summed in f64. */
  protected abstract multiplyVector(x: Input, y: Float32Array, yStart: number, from: number, to: number): void;
  abstract restoreRows(from: number, to: number, restored: Float32Array, stride: number): void;
}

function inputRows({ values, stride, T }: Input): Rows {
  return { values, start: 0, stride, count: T };
}

class F32Matrix extends PlainMatrix {
  readonly codeBytes: number;
  readonly scaleBytes = 0;
  private readonly values: Float32Array; // f32 [O, K]

  constructor(packed: PackedRows) {
    super(packed);
    this.values = Float32Array.from(packed.codes);
    this.codeBytes = this.values.byteLength;
  }

  protected override multiplyBlock(x: Input, y: Rows, from: number, to: number): void {
    multiplyRows(inputRows(x), { values: this.values, start: from * this.K, stride: this.K, count: to - from }, this.K, y);
  }

  protected multiplyVector(x: Input, y: Float32Array, yStart: number, from: number, to: number): void {
    this.multiplyBlock(x, { values: y, start: yStart + from, stride: 0, count: 1 }, from, to);
  }

  protected read(): Parts {
    return { codes: this.values.slice(), scales: new Float32Array(0) };
  }

  restoreRows(from: number, to: number, restored: Float32Array, stride: number): void {
    for (let o = from; o < to; o++) restored.set(this.values.subarray(o * this.K, (o + 1) * this.K), (o - from) * stride);
  }
}

class F16Matrix extends PlainMatrix {
  readonly codeBytes: number;
  readonly scaleBytes = 0;
  private readonly codes: Uint16Array; // f16 bits [O, stride]
  private readonly stride: number;
  private readonly table = halfValues();

  constructor(packed: PackedRows) {
    super(packed);
    const { codes, shape: [O, K] } = packed;
    this.stride = K + (K & 1);
    this.codes = new Uint16Array(O * this.stride);
    for (let o = 0; o < O; o++) this.codes.set(codes.subarray(o * K, (o + 1) * K), o * this.stride);
    this.codeBytes = this.codes.byteLength;
  }

  protected multiplyVector({ values: x }: Input, y: Float32Array, yStart: number, from: number, to: number): void {
    const { codes, stride, table } = this;
    const last = to - 1;
    for (let o = from; o < to; o += 4) {
      const o1 = Math.min(o + 1, last);
      const o2 = Math.min(o + 2, last);
      const o3 = Math.min(o + 3, last);
      let i0 = o * stride;
      let i1 = o1 * stride;
      let i2 = o2 * stride;
      let i3 = o3 * stride;
      let sum0 = 0;
      let sum1 = 0;
      let sum2 = 0;
      let sum3 = 0;
      for (let k = 0; k < stride; k += 2) {
        const a = x[k]!;
        const b = x[k + 1]!;
        sum0 += table[codes[i0]!]! * a;
        sum1 += table[codes[i1]!]! * a;
        sum2 += table[codes[i2]!]! * a;
        sum3 += table[codes[i3]!]! * a;
        sum0 += table[codes[i0 + 1]!]! * b;
        sum1 += table[codes[i1 + 1]!]! * b;
        sum2 += table[codes[i2 + 1]!]! * b;
        sum3 += table[codes[i3 + 1]!]! * b;
        i0 += 2;
        i1 += 2;
        i2 += 2;
        i3 += 2;
      }
      y[yStart + o] = sum0;
      y[yStart + o1] = sum1;
      y[yStart + o2] = sum2;
      y[yStart + o3] = sum3;
    }
  }

  protected read(): Parts {
    const codes = new Uint16Array(this.O * this.K);
    for (let o = 0; o < this.O; o++) codes.set(this.codes.subarray(o * this.stride, o * this.stride + this.K), o * this.K);
    return { codes, scales: new Float32Array(0) };
  }

  restoreRows(from: number, to: number, restored: Float32Array, restoredStride: number): void {
    const { codes, stride, table, K } = this;
    for (let o = from; o < to; o++) {
      for (let i = o * stride, end = i + K, at = (o - from) * restoredStride; i < end; i++) restored[at++] = table[codes[i]!]!;
    }
  }
}

class Int8Matrix extends PlainMatrix implements ColumnSource {
  readonly codeBytes: number;
  readonly scaleBytes: number;
  private readonly codes: Int8Array; // [O, stride], zero from K on
  private readonly words: Int32Array; // the same bytes: one load for four codes (measured: 2.4 G products/s against 1.7)
  private readonly stride: number;
  private readonly scales: RowScales;
  readonly f16Weights: F16Weights | null;

  constructor(packed: PackedRows, scales: RowScales, coding: InputCoding | null) {
    super(packed, coding);
    const { codes, shape: [O, K], f16Columns } = packed;
    this.scales = scales;
    this.f16Weights = f16Columns ? new F16Weights(f16Columns) : null;
    this.stride = roundUp(K, 4);
    this.codes = new Int8Array(O * this.stride);
    for (let o = 0; o < O; o++) this.codes.set(codes.subarray(o * K, (o + 1) * K), o * this.stride);
    this.words = new Int32Array(this.codes.buffer);
    this.codeBytes = this.codes.byteLength;
    this.scaleBytes = scales.bytes + (this.f16Weights?.bytes ?? 0);
  }

  override multiply(x: Input, y: Rows, from: number, to: number, scratch: Scratch): void {
    super.multiply(x, y, from, to, scratch);
    if (this.coding) x.outliers.addProducts(this, y, from, to, scratch.block);
  }

  /** Per group: scale · (Σ code · x − zeroPoint · Σ x). With codes for x the sums are integers, and `scaled` rounds as Input says. */
  protected multiplyVector({ values: x, scales: xScales }: Input, y: Float32Array, yStart: number, from: number, to: number): void {
    const { words, scales } = this;
    const xScale = this.coding ? xScales[0]! : null;
    const { groupsPerRow: groups } = scales;
    const { scale, zeroPoint, inputSums } = slots;
    const wordsPerRow = this.stride / 4;
    const wordsPerGroup = Math.ceil(Math.min(scales.groupLength, this.K) / 4);
    scales.sumInputs(x);
    const last = to - 1;
    for (let o = from; o < to; o += 4) {
      const o1 = Math.min(o + 1, last);
      const o2 = Math.min(o + 2, last);
      const o3 = Math.min(o + 3, last);
      scales.load(o, 0);
      scales.load(o1, 1);
      scales.load(o2, 2);
      scales.load(o3, 3);
      let y0 = 0;
      let y1 = 0;
      let y2 = 0;
      let y3 = 0;
      for (let g = 0; g < groups; g++) {
        const begin = g * wordsPerGroup;
        const end = Math.min(begin + wordsPerGroup, wordsPerRow);
        let i0 = o * wordsPerRow + begin;
        let i1 = o1 * wordsPerRow + begin;
        let i2 = o2 * wordsPerRow + begin;
        let i3 = o3 * wordsPerRow + begin;
        let sum0 = 0;
        let sum1 = 0;
        let sum2 = 0;
        let sum3 = 0;
        for (let k = 4 * begin; k < 4 * end; k += 4) {
          const a = x[k]!;
          const b = x[k + 1]!;
          const c = x[k + 2]!;
          const d = x[k + 3]!;
          let word = words[i0++]!;
          sum0 += ((word << 24) >> 24) * a;
          sum0 += ((word << 16) >> 24) * b;
          sum0 += ((word << 8) >> 24) * c;
          sum0 += (word >> 24) * d;
          word = words[i1++]!;
          sum1 += ((word << 24) >> 24) * a;
          sum1 += ((word << 16) >> 24) * b;
          sum1 += ((word << 8) >> 24) * c;
          sum1 += (word >> 24) * d;
          word = words[i2++]!;
          sum2 += ((word << 24) >> 24) * a;
          sum2 += ((word << 16) >> 24) * b;
          sum2 += ((word << 8) >> 24) * c;
          sum2 += (word >> 24) * d;
          word = words[i3++]!;
          sum3 += ((word << 24) >> 24) * a;
          sum3 += ((word << 16) >> 24) * b;
          sum3 += ((word << 8) >> 24) * c;
          sum3 += (word >> 24) * d;
        }
        const inputs = inputSums[g]!;
        y0 = addScaled(y0, sum0 - zeroPoint[g]! * inputs, xScale, scale[g]!);
        y1 = addScaled(y1, sum1 - zeroPoint[groups + g]! * inputs, xScale, scale[groups + g]!);
        y2 = addScaled(y2, sum2 - zeroPoint[2 * groups + g]! * inputs, xScale, scale[2 * groups + g]!);
        y3 = addScaled(y3, sum3 - zeroPoint[3 * groups + g]! * inputs, xScale, scale[3 * groups + g]!);
      }
      y[yStart + o] = y0;
      y[yStart + o1] = y1;
      y[yStart + o2] = y2;
      y[yStart + o3] = y3;
    }
  }

  protected read(): Parts {
    const codes = new Int8Array(this.O * this.K);
    for (let o = 0; o < this.O; o++) codes.set(this.codes.subarray(o * this.stride, o * this.stride + this.K), o * this.K);
    return { codes, ...this.scales.read(), ...(this.f16Weights && { f16Columns: structuredClone(this.f16Weights.stored) }) };
  }

  restoreRows(from: number, to: number, restored: Float32Array, stride: number): void {
    this.restore(from, to, restored, stride, false);
  }

  restoreColumns(from: number, to: number, columns: readonly number[], restored: Float32Array): void {
    const { codes, stride, scales } = this;
    for (let o = from; o < to; o++) {
      scales.load(o, 0);
      for (let i = 0, at = o - from; i < columns.length; i++, at += BLOCK_ROWS) {
        const g = Math.floor(columns[i]! / scales.groupLength);
        restored[at] = (codes[o * stride + columns[i]!]! - slots.zeroPoint[g]!) * slots.scale[g]!;
      }
    }
  }

  /** Rows of code − zeroPoint, times the scale unless asCodes. */
  private restore(from: number, to: number, restored: Float32Array, restoredStride: number, asCodes: boolean): void {
    const { codes, stride, scales, K } = this;
    for (let o = from; o < to; o++) {
      scales.load(o, 0);
      let at = (o - from) * restoredStride;
      for (let g = 0, k = 0; k < K; g++) {
        const scale = asCodes ? 1 : slots.scale[g]!;
        const zeroPoint = slots.zeroPoint[g]!;
        for (const end = Math.min(k + scales.groupLength, K); k < end; k++) restored[at++] = (codes[o * stride + k]! - zeroPoint) * scale;
      }
    }
  }

  protected override multiplyBlock(x: Input, y: Rows, from: number, to: number, scratch: Scratch): void {
    if (!this.coding) return super.multiplyBlock(x, y, from, to, scratch);
    const { scales, K } = this;
    const { block, sums } = scratch;
    const rows = to - from;
    this.restore(from, to, block, K, true);
    for (let g = 0, k = 0; k < K; g++, k += scales.groupLength) {
      const columns = Math.min(scales.groupLength, K - k);
      multiplyRows({ ...inputRows(x), start: k }, { values: block, start: k, stride: K, count: rows }, columns, { values: sums, start: 0, stride: rows, count: x.T });
      for (let o = 0; o < rows; o++) {
        scales.load(from + o, 0);
        const scale = slots.scale[g]!;
        for (let t = 0, at = y.start + o; t < x.T; t++, at += y.stride) {
          y.values[at] = addScaled(g === 0 ? 0 : y.values[at]!, sums[t * rows + o]!, x.scales[t]!, scale);
        }
      }
    }
  }
}

/** total + sum · scale in f64, or, where xScale is given, total + sum · xScale · scale with each operation rounded to f32. */
function addScaled(total: number, sum: number, xScale: number | null, scale: number): number {
  if (xScale === null) return total + scale * sum;
  return Math.fround(total + Math.fround(Math.fround(Math.fround(sum) * xScale) * scale));
}

interface NibbleValues {
  low: Float64Array; // f64 [256]: the value of a byte's lower half; f64 saves a conversion per weight
  high: Float64Array; // f64 [256]: of its upper half
}

/** @param values [16], by code */
function valuesByByte(values: Float32Array): NibbleValues {
  return { low: Float64Array.from({ length: 256 }, (_, byte) => values[byte & 15]!), high: Float64Array.from({ length: 256 }, (_, byte) => values[byte >> 4]!) };
}

/** What the 4 bits of each format stand for, f32 [16]. */
export const nibbleCodes = {
  int4: Float32Array.of(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1),
  nf4: NF4_CODES,
  fp4: FP4_CODES,
} as const;

const nibbleValues: Readonly<Record<keyof typeof nibbleCodes, NibbleValues>> = {
  int4: valuesByByte(nibbleCodes.int4),
  nf4: valuesByByte(nibbleCodes.nf4),
  fp4: valuesByByte(nibbleCodes.fp4),
};

/** int4, NF4 and FP4: 16 values by code, two codes a byte, the lower half first. */
class NibbleMatrix extends PlainMatrix {
  readonly codeBytes: number;
  readonly scaleBytes: number;
  private readonly codes: Uint8Array; // [O, stride]
  private readonly stride: number;
  private readonly values: NibbleValues;
  private readonly scales: RowScales;

  constructor(packed: PackedRows, type: keyof typeof nibbleCodes, scales: RowScales) {
    super(packed);
    this.scales = scales;
    this.stride = Math.ceil(this.K / 2);
    this.codes = Uint8Array.from(packed.codes);
    this.values = nibbleValues[type];
    this.codeBytes = this.codes.byteLength;
    this.scaleBytes = scales.bytes;
  }

  /** Per group: scale · (Σ value of code · x − zeroPoint · Σ x). */
  protected multiplyVector({ values: x }: Input, y: Float32Array, yStart: number, from: number, to: number): void {
    const { codes, stride, scales } = this;
    const { low, high } = this.values;
    const { groupsPerRow: groups } = scales;
    const { scale, zeroPoint, inputSums } = slots;
    const bytesPerGroup = Math.ceil(Math.min(scales.groupLength, this.K) / 2);
    scales.sumInputs(x);
    const last = to - 1;
    for (let o = from; o < to; o += 4) {
      const o1 = Math.min(o + 1, last);
      const o2 = Math.min(o + 2, last);
      const o3 = Math.min(o + 3, last);
      scales.load(o, 0);
      scales.load(o1, 1);
      scales.load(o2, 2);
      scales.load(o3, 3);
      let y0 = 0;
      let y1 = 0;
      let y2 = 0;
      let y3 = 0;
      for (let g = 0; g < groups; g++) {
        const begin = g * bytesPerGroup;
        const end = Math.min(begin + bytesPerGroup, stride);
        let i0 = o * stride + begin;
        let i1 = o1 * stride + begin;
        let i2 = o2 * stride + begin;
        let i3 = o3 * stride + begin;
        let sum0 = 0;
        let sum1 = 0;
        let sum2 = 0;
        let sum3 = 0;
        for (let k = 2 * begin; k < 2 * end; k += 2) {
          const a = x[k]!;
          const b = x[k + 1]!;
          const byte0 = codes[i0++]!;
          const byte1 = codes[i1++]!;
          const byte2 = codes[i2++]!;
          const byte3 = codes[i3++]!;
          sum0 += low[byte0]! * a;
          sum1 += low[byte1]! * a;
          sum2 += low[byte2]! * a;
          sum3 += low[byte3]! * a;
          sum0 += high[byte0]! * b;
          sum1 += high[byte1]! * b;
          sum2 += high[byte2]! * b;
          sum3 += high[byte3]! * b;
        }
        const inputs = inputSums[g]!;
        y0 += scale[g]! * (sum0 - zeroPoint[g]! * inputs);
        y1 += scale[groups + g]! * (sum1 - zeroPoint[groups + g]! * inputs);
        y2 += scale[2 * groups + g]! * (sum2 - zeroPoint[2 * groups + g]! * inputs);
        y3 += scale[3 * groups + g]! * (sum3 - zeroPoint[3 * groups + g]! * inputs);
      }
      y[yStart + o] = y0;
      y[yStart + o1] = y1;
      y[yStart + o2] = y2;
      y[yStart + o3] = y3;
    }
  }

  protected read(): Parts {
    return { codes: this.codes, ...this.scales.read() };
  }

  restoreRows(from: number, to: number, restored: Float32Array, restoredStride: number): void {
    const { codes, stride, scales, K } = this;
    const { low, high } = this.values;
    for (let o = from; o < to; o++) {
      scales.load(o, 0);
      let at = (o - from) * restoredStride;
      for (let g = 0, k = 0; k < K; g++) {
        const scale = slots.scale[g]!;
        const zeroPoint = slots.zeroPoint[g]!;
        for (const end = Math.min(k + scales.groupLength, K); k < end; k++) {
          const byte = codes[o * stride + (k >> 1)]!;
          restored[at++] = ((k & 1 ? high : low)[byte]! - zeroPoint) * scale;
        }
      }
    }
  }
}

/** What the loops are reading: four rows' scales and zero points, and the sums of x, by group. A few KiB shared by all matrices, since no loop is interrupted. */
interface Slots {
  groups: number;
  scale: Float32Array; // f32 [4 · groups]
  zeroPoint: Float64Array; // f64 [4 · groups]; an int32 does not fit f32
  inputSums: Float64Array; // f64 [groups]
}

let slots = createSlots(64);

function createSlots(groups: number): Slots {
  return { groups, scale: new Float32Array(4 * groups), zeroPoint: new Float64Array(4 * groups), inputSums: new Float64Array(groups) };
}

/** The scales and zero points of a matrix, kept as stored and read a row at a time into `slots`. */
class RowScales {
  /** Values of a row that share a scale; the last group of a row may be shorter. */
  readonly groupLength: number;
  readonly groupsPerRow: number;
  readonly bytes: number;
  private readonly K: number;
  private readonly rowStep: number; // from one row's first scale to the next's; 0: all rows share the one scale
  private readonly scales: Float32Array | null; // f32 [O · groupsPerRow] or [1]; null with double quantization
  private readonly zeroPoints: Int8Array | Int32Array | null; // as scales; null in absmax mode
  private readonly nested: QuantizedTensor["doubleQuantization"] | null;

  constructor(packed: PackedRows, format: ScaledFormat) {
    const K = packed.shape[1];
    const onePerTensor = "granularity" in format && format.granularity === "tensor";
    this.K = K;
    this.groupLength = onePerTensor ? K : groupLayout(format, packed.shape).groupLength;
    this.groupsPerRow = Math.ceil(K / this.groupLength);
    this.rowStep = onePerTensor ? 0 : this.groupsPerRow;
    if (slots.groups < this.groupsPerRow) slots = createSlots(this.groupsPerRow);

    const { zeroPoints = null, doubleQuantization: nested = null } = packed;
    this.nested = nested && structuredClone(nested);
    this.scales = nested ? null : packed.scales.slice();
    this.zeroPoints = zeroPoints?.slice() ?? null;
    const scaleBytes = this.nested ? this.nested.codes.byteLength + this.nested.absmax.byteLength + 4 : this.scales!.byteLength;
    this.bytes = scaleBytes + (this.zeroPoints?.byteLength ?? 0);
  }

  /** Copies of scales and zero points as they were packed. */
  read(): Omit<Parts, "codes"> {
    if (this.nested) return { scales: new Float32Array(0), doubleQuantization: structuredClone(this.nested) };
    return { scales: this.scales!.slice(), ...(this.zeroPoints && { zeroPoints: this.zeroPoints.slice() }) };
  }

  /** Puts one row's scales and zero points into slot 0, 1, 2 or 3, `groupsPerRow` values apart. */
  load(row: number, slot: number): void {
    const { scales, zeroPoints, nested, groupsPerRow } = this;
    const { scale, zeroPoint } = slots;
    const map = nested?.map ?? DYNAMIC_MAP_SIGNED;
    for (let g = 0, from = row * this.rowStep, to = slot * groupsPerRow; g < groupsPerRow; g++, from++, to++) {
      scale[to] = nested ? Math.fround(map[nested.codes[from]!]! * nested.absmax[Math.floor(from / NESTED_BLOCK)]!) + nested.offset : scales![from]!;
      zeroPoint[to] = zeroPoints ? zeroPoints[from]! : 0;
    }
  }

  /** inputSums[g] = Σ x[k] over the columns k of group g, where there are zero points; x: f32 [≥ K]. */
  sumInputs(x: Float32Array): void {
    if (!this.zeroPoints) return void slots.inputSums.fill(0);
    for (let g = 0, k = 0; k < this.K; g++) {
      let sum = 0;
      for (const end = Math.min(k + this.groupLength, this.K); k < end; k++) sum += x[k]!;
      slots.inputSums[g] = sum;
    }
  }
}
