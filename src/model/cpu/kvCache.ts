import { roundHalfEven } from "../../quantize/rounding.ts";
import type { BackendOptions } from "../backend.ts";
import { type CpuKernels, LANES, roundUp, type Rows } from "./kernels.ts";

export interface KvShape {
  L: number;
  H: number;
  /** Positions it holds. */
  S: number;
  /** Values of one head at one position. */
  D: number;
}

/**
 * Keys or values of all layers, rounded as they are stored: everything that attention reads comes from here.
 * f16 is rounded to nearest even and saturates at ±65504; int8 has one f32 scale, max|x| / 127, per head and position.
 * A head's keys are laid out [S, D] and its values [D, S], so that attention's sums, over D and over S, both run along rows;
 * rows are padded to whole lanes, keys with zeros.
 */
export class KvCache {
  readonly bytes: number;
  private readonly kernels: CpuKernels;
  private readonly shape: KvShape;
  private readonly rowLength: number; // D or S, padded
  private readonly headLength: number; // from one head's first value to the next's
  private readonly positionStep: number; // from a value of a head to the same value at the next position
  private readonly valueStep: number; // from a value of a head to its next value
  private readonly floats: Float32Array | null; // f32 [L, H, S, D padded] or [L, H, D, S padded]
  private readonly halves: Uint16Array | null; // f16 bits, as floats
  private readonly rounded: Uint16Array | null; // f16 bits [H, D], of the position that is being stored
  private readonly codes: Int8Array | null; // as floats
  private readonly scales: Float32Array | null; // f32 [L, H, S], of codes

  constructor(kernels: CpuKernels, shape: KvShape, format: BackendOptions["kvCache"], holds: "keys" | "values") {
    const { L, H, S, D } = shape;
    const isKeys = holds === "keys";
    this.kernels = kernels;
    this.shape = shape;
    this.rowLength = roundUp(isKeys ? D : S, LANES);
    this.headLength = (isKeys ? S : D) * this.rowLength;
    this.positionStep = isKeys ? this.rowLength : 1;
    this.valueStep = isKeys ? 1 : this.rowLength;
    const length = L * H * this.headLength;
    this.floats = format === "f32" ? kernels.allocate(Float32Array, length) : null;
    this.halves = format === "f16" ? kernels.allocate(Uint16Array, length) : null;
    this.rounded = format === "f16" ? kernels.allocate(Uint16Array, roundUp(H * D, 8)) : null;
    this.codes = format === "int8" ? kernels.allocate(Int8Array, length) : null;
    this.scales = format === "int8" ? kernels.allocate(Float32Array, L * H * S) : null;
    this.bytes = [this.floats, this.halves, this.rounded, this.codes, this.scales].reduce((sum, array) => sum + (array?.byteLength ?? 0), 0);
  }

  /** Stores what all heads of a layer have at one position; x: f32, [H, D] from start. */
  store(layer: number, position: number, x: Float32Array, start: number): void {
    const { H, S, D } = this.shape;
    const { floats, halves, codes, rounded, positionStep, valueStep } = this;
    if (rounded) this.kernels.roundHalves(x, start, H * D, rounded);
    for (let head = 0; head < H; head++) {
      const scale = codes ? this.storeScale(x, start + head * D, (layer * H + head) * S + position) : 0;
      let at = (layer * H + head) * this.headLength + position * positionStep;
      for (let i = head * D; i < (head + 1) * D; i++, at += valueStep) {
        if (halves) halves[at] = rounded![i]!;
        else if (floats) floats[at] = x[start + i]!;
        else codes![at] = scale === 0 ? 0 : roundHalfEven(x[start + i]! / scale);
      }
    }
  }

  private storeScale(x: Float32Array, start: number, at: number): number {
    let largest = 0;
    for (let i = start; i < start + this.shape.D; i++) largest = Math.max(largest, Math.abs(x[i]!));
    const scale = Math.fround(largest / 127);
    this.scales![at] = scale;
    return scale;
  }

  /**
   * Positions 0 … count − 1 of one head as f32: keys as `count` rows of D, values as D rows of `count`, padded to whole lanes.
   * Where they are not stored as f32 they are restored into `scratch`, f32 [S padded, D padded], which the result then refers to.
   */
  read(layer: number, head: number, count: number, scratch: Float32Array): Rows {
    const { H, S, D } = this.shape;
    const { floats, halves, codes, scales, kernels, rowLength } = this;
    const isKeys = this.valueStep === 1;
    const start = (layer * H + head) * this.headLength;
    const rows = isKeys ? count : D;
    const columns = isKeys ? rowLength : roundUp(count, LANES);
    if (floats) return { values: floats, start, stride: rowLength, count: rows };
    if (halves) kernels.restoreHalves(halves, start, rowLength, rows, columns, scratch);
    const scaleStart = (layer * H + head) * S;
    for (let row = 0, at = 0; codes && row < rows; row++) {
      const first = start + row * rowLength;
      for (let i = 0; i < columns; i++) scratch[at++] = codes[first + i]! * scales![scaleStart + (isKeys ? row : Math.min(i, count - 1))]!;
    }
    return { values: scratch, start: 0, stride: columns, count: rows };
  }
}
