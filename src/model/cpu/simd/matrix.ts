import { DYNAMIC_MAP_SIGNED, groupLayout, type ScaledFormat } from "../../../quantize/formats.ts";
import { type PackedRows, unpackRows } from "../../../quantize/packRows.ts";
import type { QuantizedTensor, TensorFormat } from "../../../types.ts";
import type { Input } from "../input.ts";
import { BLOCK_ROWS, type CpuMatrix, type InputCoding, LANES, type Rows, roundUp, type Scratch } from "../kernels.ts";
import { nibbleCodes } from "../matrix.ts";
import { type ColumnSource, F16Weights } from "../outliers.ts";
import type { Loops } from "./loops.ts";
import type { Memory } from "./memory.ts";

/** What the matrices of one memory share: constants that they look up there. */
export interface Constants {
  /** Address of f32 [256], bitsandbytes' map of scales. */
  dynamicMap: number;
  /** Addresses of f32 [16] as four planes of bytes, least significant first. */
  nibbles: Readonly<Record<keyof typeof nibbleCodes, number>>;
}

/** Bytes of each. */
export const CONSTANT_BYTES: readonly number[] = [DYNAMIC_MAP_SIGNED.byteLength, 64, 64, 64];

export function copyConstants(memory: Memory): Constants {
  const planes = (values: Float32Array): number => {
    const bytes = new Uint8Array(values.slice().buffer);
    return memory.copy(Uint8Array.from({ length: 64 }, (_, i) => bytes[4 * (i % 16) + (i >> 4)]!));
  };
  return { dynamicMap: memory.copy(DYNAMIC_MAP_SIGNED), nibbles: { int4: planes(nibbleCodes.int4), nf4: planes(nibbleCodes.nf4), fp4: planes(nibbleCodes.fp4) } };
}

/** Copies packed weights, whose zero points fit int8, into the memory; `copy` does not fail. */
export function createSimdMatrix(packed: PackedRows, coding: InputCoding | null, loops: Loops, memory: Memory, constants: Constants): CpuMatrix {
  const { format } = packed;
  switch (format.type) {
    case "f32":
      return new F32Matrix(packed, loops, memory, memory.copy(packed.codes));
    case "f16":
      return new F16Matrix(packed, loops, memory, memory.copy(packed.codes));
    case "int8": {
      const scales = new Scales(packed, format, loops, memory, constants);
      const address = memory.copy(packed.codes);
      return coding ? new Int8CodesMatrix(packed, loops, memory, address, scales, coding) : new Int8Matrix(packed, loops, memory, address, scales);
    }
    default: {
      return new NibbleMatrix(packed, loops, memory, memory.copy(packed.codes), new Scales(packed, format, loops, memory, constants), constants.nibbles[format.type]);
    }
  }
}

abstract class SimdMatrix implements CpuMatrix {
  readonly O: number;
  readonly K: number;
  readonly codeBytes: number;
  readonly scaleBytes: number;
  readonly coding: InputCoding | null = null;
  private readonly format: TensorFormat;
  private readonly storedScales: Scales | undefined;
  readonly f16Weights: F16Weights | null;
  private readonly rowsPerVector: number;
  protected readonly loops: Loops;
  protected readonly memory: Memory;
  private readonly address: number;
  /** Bytes from row to row. Rows are not padded: what a loop reads behind a row's end meets the zeros that pad x. */
  protected readonly rowBytes: number;

  constructor({ shape: [O, K], format, f16Columns }: PackedRows, loops: Loops, memory: Memory, address: number, bitsPerCode: number, scales?: Scales) {
    this.format = format;
    this.storedScales = scales;
    this.f16Weights = f16Columns ? new F16Weights(f16Columns) : null;
    this.O = O;
    this.K = K;
    this.loops = loops;
    this.memory = memory;
    this.address = address;
    this.rowBytes = Math.ceil((K * bitsPerCode) / 8);
    this.codeBytes = O * this.rowBytes;
    this.scaleBytes = (scales?.bytes ?? 0) + (this.f16Weights?.bytes ?? 0);
    this.rowsPerVector = scales?.rowsPerCall ?? O;
  }

  /** One token reads the stored weights; more share rows that were restored once. */
  multiply(x: Input, y: Rows, from: number, to: number, scratch: Scratch): void {
    const rowsPerCall = x.T === 1 ? this.rowsPerVector : BLOCK_ROWS;
    const yAddress = this.memory.addressOf(y.values, y.start);
    for (let o = from; o < to; o += rowsPerCall) {
      const rows = Math.min(rowsPerCall, to - o);
      if (x.T === 1) this.multiplyOne(x, yAddress + 4 * (o - from), o, rows);
      else this.multiplyMany(x, yAddress + 4 * (o - from), 4 * y.stride, o, rows, scratch);
    }
  }

  protected multiplyMany(x: Input, y: number, yStride: number, o: number, rows: number, { block }: Scratch): void {
    this.restoreRows(o, o + rows, block, x.stride);
    this.loops.multiplyFloats(this.memory.addressOf(x.values), 4 * x.stride, x.T, this.memory.addressOf(block), 4 * x.stride, rows, roundUp(this.K, LANES), y, yStride);
  }

  toTensor(): QuantizedTensor {
    const f16Columns = this.f16Weights ? structuredClone(this.f16Weights.stored) : undefined;
    return unpackRows({ layout: "rows", format: this.format, shape: [this.O, this.K], codes: this.readCodes(), scales: new Float32Array(0), ...this.storedScales?.read(), f16Columns });
  }

  private readCodes(): PackedRows["codes"] {
    const bytes = this.memory.bytesAt(this.address, this.codeBytes);
    switch (this.format.type) {
      case "f32":
        return new Float32Array(bytes);
      case "f16":
        return new Uint16Array(bytes);
      case "int8":
        return new Int8Array(bytes);
      default:
        return new Uint8Array(bytes);
    }
  }

  protected rowAddress(o: number): number {
    return this.address + o * this.rowBytes;
  }

  protected abstract multiplyOne(x: Input, y: number, o: number, rows: number): void;
  abstract restoreRows(from: number, to: number, restored: Float32Array, stride: number): void;
}

class F32Matrix extends SimdMatrix {
  constructor(packed: PackedRows, loops: Loops, memory: Memory, address: number) {
    super(packed, loops, memory, address, 32);
  }

  protected override multiplyMany(x: Input, y: number, yStride: number, o: number, rows: number): void {
    this.loops.multiplyFloats(this.memory.addressOf(x.values), 4 * x.stride, x.T, this.rowAddress(o), this.rowBytes, rows, roundUp(this.K, LANES), y, yStride);
  }

  protected multiplyOne(x: Input, y: number, o: number, rows: number): void {
    this.multiplyMany(x, y, 0, o, rows);
  }

  restoreRows(from: number, to: number, restored: Float32Array, stride: number): void {
    const values = new Float32Array(restored.buffer, this.rowAddress(from), (to - from) * this.K);
    for (let row = 0; row < to - from; row++) restored.set(values.subarray(row * this.K, (row + 1) * this.K), row * stride);
  }
}

class F16Matrix extends SimdMatrix {
  constructor(packed: PackedRows, loops: Loops, memory: Memory, address: number) {
    super(packed, loops, memory, address, 16);
  }

  protected multiplyOne(x: Input, y: number, o: number, rows: number): void {
    this.loops.multiplyHalves(this.memory.addressOf(x.values), this.rowAddress(o), this.rowBytes, rows, this.K, y);
  }

  restoreRows(from: number, to: number, restored: Float32Array, stride: number): void {
    this.loops.restoreHalves(this.rowAddress(from), this.rowBytes, to - from, this.K, this.memory.addressOf(restored), 4 * stride);
  }
}

class Int8Matrix extends SimdMatrix {
  protected readonly scales: Scales;

  constructor(packed: PackedRows, loops: Loops, memory: Memory, address: number, scales: Scales) {
    super(packed, loops, memory, address, 8, scales);
    this.scales = scales;
  }

  protected multiplyOne(x: Input, y: number, o: number, rows: number): void {
    this.loops.multiplyInt8(this.memory.addressOf(x.values), this.rowAddress(o), this.rowBytes, rows, this.K, ...this.scales.of(o, rows), y);
  }

  restoreRows(from: number, to: number, restored: Float32Array, stride: number): void {
    this.loops.restoreInt8(this.rowAddress(from), this.rowBytes, to - from, this.K, ...this.scales.of(from, to - from), this.memory.addressOf(restored), 4 * stride);
  }
}

/** For int8 activations: codes times codes. */
class Int8CodesMatrix extends Int8Matrix implements ColumnSource {
  override readonly coding: InputCoding;

  constructor(packed: PackedRows, loops: Loops, memory: Memory, address: number, scales: Scales, coding: InputCoding) {
    super(packed, loops, memory, address, scales);
    this.coding = coding;
  }

  override multiply(x: Input, y: Rows, from: number, to: number, scratch: Scratch): void {
    super.multiply(x, y, from, to, scratch);
    x.outliers.addProducts(this, y, from, to, scratch.block);
  }

  restoreColumns(from: number, to: number, columns: readonly number[], restored: Float32Array): void {
    const [groupLength, scales, scaleStep, zeroPoints, zeroPointStep] = this.scales.of(from, to - from);
    const bytes = new Int8Array(this.memory.wasm.buffer);
    const floats = new Float32Array(this.memory.wasm.buffer);
    for (let i = 0; i < columns.length; i++) {
      const g = Math.floor(columns[i]! / groupLength);
      let code = this.rowAddress(from) + columns[i]!;
      let scale = scales / 4 + g;
      for (let row = 0; row < to - from; row++, code += this.rowBytes, scale += scaleStep / 4) {
        const zeroPoint = zeroPoints && bytes[zeroPoints + row * zeroPointStep + g]!;
        restored[i * BLOCK_ROWS + row] = (bytes[code]! - zeroPoint) * floats[scale]!;
      }
    }
  }

  protected override multiplyOne(x: Input, y: number, o: number, rows: number): void {
    this.loops.multiplyInt8Codes(this.memory.addressOf(x.codes), x.scales[0]!, this.rowAddress(o), this.rowBytes, rows, this.K, ...this.scales.of(o, rows), y);
  }

  protected override multiplyMany(x: Input, y: number, yStride: number, o: number, rows: number, { block }: Scratch): void {
    const { loops, memory, K } = this;
    const [groupLength, scales, scaleStep, zeroPoints, zeroPointStep] = this.scales.of(o, rows);
    const stride = 2 * x.stride; // of int16 on both sides
    const input = [memory.addressOf(x.codes), stride, memory.addressOf(x.scales), x.T] as const;
    const output = [rows, K, groupLength, scales, scaleStep, y, yStride] as const;
    if (zeroPoints === 0) return void loops.multiplyStoredCodes(...input, this.rowAddress(o), this.rowBytes, ...output);
    const widened = memory.addressOf(block);
    loops.widenInt8(this.rowAddress(o), this.rowBytes, rows, K, groupLength, zeroPoints, zeroPointStep, widened, stride);
    loops.multiplyCodes(...input, widened, stride, ...output);
  }
}

/** int4, NF4 and FP4. */
class NibbleMatrix extends SimdMatrix {
  private readonly scales: Scales;
  private readonly table: number;

  constructor(packed: PackedRows, loops: Loops, memory: Memory, address: number, scales: Scales, table: number) {
    super(packed, loops, memory, address, 4, scales);
    this.scales = scales;
    this.table = table;
  }

  protected multiplyOne(x: Input, y: number, o: number, rows: number): void {
    this.loops.multiplyNibbles(this.memory.addressOf(x.values), this.rowAddress(o), this.rowBytes, rows, this.K, this.table, ...this.scales.of(o, rows), y);
  }

  restoreRows(from: number, to: number, restored: Float32Array, stride: number): void {
    this.loops.restoreNibbles(this.rowAddress(from), this.rowBytes, to - from, this.K, this.table, ...this.scales.of(from, to - from), this.memory.addressOf(restored), 4 * stride);
  }
}

/** As the loops take them; steps in bytes from row to row. */
type ScaleParameters = [groupLength: number, scales: number, scaleStep: number, zeroPoints: number, zeroPointStep: number];

/** The scales and zero points of a matrix, as stored; with double quantization, the scales of a block of rows are restored when asked for. */
class Scales {
  readonly bytes: number;
  /** The most rows that `of` is asked for. */
  readonly rowsPerCall: number;
  private readonly groupLength: number;
  private readonly groupsPerRow: number; // 0: one scale for all rows
  private readonly scales: number;
  private readonly zeroPoints: number;
  private readonly restore: ((first: number, count: number) => void) | null;
  /** Copies of what the tensor had. */
  readonly read: () => Partial<PackedRows>;

  constructor({ shape, scales, zeroPoints, doubleQuantization: nested }: PackedRows, format: ScaledFormat, loops: Loops, memory: Memory, { dynamicMap }: Constants) {
    const onePerTensor = "granularity" in format && format.granularity === "tensor";
    this.groupLength = onePerTensor ? shape[1] : groupLayout(format, shape).groupLength;
    this.groupsPerRow = onePerTensor ? 0 : Math.ceil(shape[1] / this.groupLength);
    this.rowsPerCall = nested ? BLOCK_ROWS : shape[0];
    this.zeroPoints = zeroPoints ? memory.copy(zeroPoints as Int8Array) : 0;
    const zeroPointCount = zeroPoints?.length ?? 0;
    if (nested) {
      const { offset, map } = nested;
      const [blocks, absmaxBytes] = [nested.codes.length, nested.absmax.byteLength];
      const block = memory.allocate(4 * BLOCK_ROWS * this.groupsPerRow);
      const codes = memory.copy(nested.codes);
      const absmax = memory.copy(nested.absmax);
      const mapAddress = map ? memory.copy(map) : dynamicMap;
      this.restore = (first, count) => loops.restoreScales(codes, absmax, offset, mapAddress, first, count, block);
      this.read = () => ({ doubleQuantization: { codes: new Uint8Array(memory.bytesAt(codes, blocks)), absmax: new Float32Array(memory.bytesAt(absmax, absmaxBytes)), offset, ...(map && { map }) } });
      this.scales = block;
      this.bytes = blocks + absmaxBytes + 4;
    } else {
      const scaleBytes = scales.byteLength;
      this.restore = null;
      this.scales = memory.copy(scales);
      this.read = () => ({
        scales: new Float32Array(memory.bytesAt(this.scales, scaleBytes)),
        ...(this.zeroPoints && { zeroPoints: new Int8Array(memory.bytesAt(this.zeroPoints, zeroPointCount)) }),
      });
      this.bytes = scaleBytes + zeroPointCount;
    }
  }

  /** Of rows o … o + rows − 1, valid until the next call. */
  of(o: number, rows: number): ScaleParameters {
    const first = o * this.groupsPerRow;
    this.restore?.(first, rows * this.groupsPerRow);
    const scales = this.restore ? this.scales : this.scales + 4 * first;
    return [this.groupLength, scales, 4 * this.groupsPerRow, this.zeroPoints && this.zeroPoints + first, this.zeroPoints && this.groupsPerRow];
  }
}
