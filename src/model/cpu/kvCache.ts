import { toHalfBits } from "../../quantize/half.ts";
import { roundHalfEven } from "../../quantize/rounding.ts";
import type { BackendOptions } from "../backend.ts";
import { halfValues } from "./halfValues.ts";
import type { Rows } from "./rows.ts";

const LARGEST_HALF = 65504;

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
 * A head's keys are laid out [S, D] and its values [D, S], so that attention's sums, over D and over S, both run along rows.
 */
export class KvCache {
  readonly bytes: number;
  private readonly shape: KvShape;
  private readonly positionStep: number; // from a value of a head to the same value at the next position
  private readonly valueStep: number; // from a value of a head to its next value
  private readonly floats: Float32Array | null; // f32 [L, H, S, D] or [L, H, D, S]
  private readonly halves: Uint16Array | null; // f16 bits, as floats
  private readonly codes: Int8Array | null; // as floats
  private readonly scales: Float32Array | null; // f32 [L, H, S], of codes
  private readonly table = halfValues();

  constructor(shape: KvShape, format: BackendOptions["kvCache"], holds: "keys" | "values") {
    const { L, H, S, D } = shape;
    const length = L * H * S * D;
    this.shape = shape;
    this.positionStep = holds === "keys" ? D : 1;
    this.valueStep = holds === "keys" ? 1 : S;
    this.floats = format === "f32" ? new Float32Array(length) : null;
    this.halves = format === "f16" ? new Uint16Array(length) : null;
    this.codes = format === "int8" ? new Int8Array(length) : null;
    this.scales = format === "int8" ? new Float32Array(L * H * S) : null;
    this.bytes = [this.floats, this.halves, this.codes, this.scales].reduce((sum, array) => sum + (array?.byteLength ?? 0), 0);
  }

  /** Stores what all heads of a layer have at one position; x: f32 [H, D]. */
  store(layer: number, position: number, x: Float32Array): void {
    const { H, S, D } = this.shape;
    const { floats, halves, codes, positionStep, valueStep } = this;
    const bits = halves && toHalfBits(x.map((value) => Math.max(-LARGEST_HALF, Math.min(LARGEST_HALF, value)))).bits;
    for (let head = 0; head < H; head++) {
      const scale = codes ? this.storeScale(x, head, (layer * H + head) * S + position) : 0;
      let at = (layer * H + head) * S * D + position * positionStep;
      for (let i = head * D; i < (head + 1) * D; i++, at += valueStep) {
        if (floats) floats[at] = x[i]!;
        else if (halves) halves[at] = bits![i]!;
        else codes![at] = scale === 0 ? 0 : roundHalfEven(x[i]! / scale);
      }
    }
  }

  private storeScale(x: Float32Array, head: number, at: number): number {
    const { D } = this.shape;
    let largest = 0;
    for (let i = head * D; i < (head + 1) * D; i++) largest = Math.max(largest, Math.abs(x[i]!));
    const scale = Math.fround(largest / 127);
    this.scales![at] = scale;
    return scale;
  }

  /**
   * Positions 0 … count − 1 of one head as f32: keys as `count` rows of D, values as D rows of `count`.
   * Where they are not stored as f32 they are restored into `scratch`, f32 [S, D], which the result then refers to.
   */
  read(layer: number, head: number, count: number, scratch: Float32Array): Rows {
    const { H, S, D } = this.shape;
    const { floats, halves, codes, table } = this;
    const isKeys = this.valueStep === 1;
    const start = (layer * H + head) * S * D;
    const rows = isKeys ? count : D;
    const columns = isKeys ? D : count;
    const stride = isKeys ? D : S;
    if (floats) return { values: floats, start, stride, count: rows };
    const scaleStart = (layer * H + head) * S;
    for (let row = 0, at = 0; row < rows; row++) {
      const first = start + row * stride;
      if (halves) for (let i = 0; i < columns; i++) scratch[at++] = table[halves[first + i]!]!;
      else for (let i = 0; i < columns; i++) scratch[at++] = codes![first + i]! * this.scales![scaleStart + (isKeys ? row : i)]!;
    }
    return { values: scratch, start: 0, stride: columns, count: rows };
  }
}
