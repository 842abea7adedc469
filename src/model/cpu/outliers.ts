import type { F16Columns } from "../../types.ts";
import { halfValues } from "./halfValues.ts";
import { BLOCK_ROWS, type Rows } from "./kernels.ts";

/** A matrix some of whose columns can be had. */
export interface ColumnSource {
  /** restored[i · BLOCK_ROWS + o − from] = the value of row o in columns[i], for from ≤ o < to, at most BLOCK_ROWS rows. */
  restoreColumns(from: number, to: number, columns: readonly number[], restored: Float32Array): void;
  /** What outliers meet instead, in the columns that it has. */
  readonly f16Weights: F16Weights | null;
}

/** A copy of a matrix's f16 columns. */
export class F16Weights {
  readonly stored: F16Columns;
  readonly bytes: number;
  private readonly places: ReadonlyMap<number, number>; // of the columns among them
  private readonly values = halfValues();

  constructor({ columns, weights }: F16Columns) {
    this.stored = { columns: columns.slice(), weights: weights.slice() };
    this.bytes = columns.byteLength + weights.byteLength;
    this.places = new Map([...columns].map((k, i) => [k, i]));
  }

  /** As restoreColumns(), leaving columns that it does not have. */
  restoreColumns(from: number, to: number, columns: readonly number[], restored: Float32Array): void {
    const { stored, places, values } = this;
    for (let i = 0; i < columns.length; i++) {
      const place = places.get(columns[i]!);
      if (place === undefined) continue;
      for (let o = from, at = i * BLOCK_ROWS; o < to; o++, at++) restored[at] = values[stored.weights[o * places.size + place]!]!;
    }
  }
}

/** Activations that stay f32 while the rest of their rows becomes int8 codes: few, listed row by row in the order of columns. */
export class Outliers {
  /** The columns that have any, each once. */
  private columns: number[] = [];
  private readonly slots = new Map<number, number>(); // where a column stands in `columns`
  private starts: number[] = []; // where each row's begin, then where the last ends
  private columnSlots: number[] = []; // of each outlier
  private values: number[] = [];

  clear(): void {
    this.slots.clear();
    [this.columns, this.starts, this.columnSlots, this.values] = [[], [0], [], []];
  }

  /** Moves values of at least `threshold` from the next row here, leaving zeros; x: f32, K values from `start`. */
  take(x: Float32Array, start: number, K: number, threshold: number): void {
    for (let k = 0; k < K; k++) {
      const value = x[start + k]!;
      if (Math.abs(value) < threshold) continue;
      x[start + k] = 0;
      let slot = this.slots.get(k);
      if (slot === undefined) {
        slot = this.columns.push(k) - 1;
        this.slots.set(k, slot);
      }
      this.columnSlots.push(slot);
      this.values.push(value);
    }
  }

  endRow(): void {
    this.starts.push(this.values.length);
  }

  /** y[t, o − from] += x_k · w[o, k], w in f16 where the matrix has it, for the outliers k of each row t and from ≤ o < to, one after the other, each operation rounded to f32; block: see Scratch. */
  addProducts(matrix: ColumnSource, y: Rows, from: number, to: number, block: Float32Array): void {
    const { columns, starts, columnSlots, values } = this;
    const sums = y.values;
    for (let o = from; columns.length > 0 && o < to; o += BLOCK_ROWS) {
      const rows = Math.min(BLOCK_ROWS, to - o);
      matrix.restoreColumns(o, o + rows, columns, block);
      matrix.f16Weights?.restoreColumns(o, o + rows, columns, block);
      for (let t = 0; t < y.count; t++) {
        const first = y.start + t * y.stride + o - from;
        for (let i = starts[t]!; i < starts[t + 1]!; i++) {
          const value = values[i]!;
          const column = columnSlots[i]! * BLOCK_ROWS;
          for (let row = 0; row < rows; row++) sums[first + row]! += Math.fround(value * block[column + row]!);
        }
      }
    }
  }
}
