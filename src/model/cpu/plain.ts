import { toHalfBits } from "../../quantize/half.ts";
import { roundHalfEven } from "../../quantize/rounding.ts";
import { halfValues } from "./halfValues.ts";
import type { CpuKernels } from "./kernels.ts";
import { createPlainMatrix } from "./matrix.ts";
import { activate, addBias, layerNorm } from "./ops.ts";
import { multiplyRows } from "./rows.ts";

const LARGEST_HALF = 65504;

const sums = { sum: 0, excess: 0 };

/** The loops in plain TypeScript, written so that engines compile them well. They take any arrays. Sums run in f64. */
export const plainKernels: CpuKernels = {
  name: "plain TypeScript",
  allocate: (type, length) => new type(length),
  reserve: () => {},
  overheadBytes: 0,
  createMatrix: createPlainMatrix,
  multiplyRows,
  layerNorm,
  addBias,
  activate,

  largestMagnitude(x, start, count) {
    let largest = 0;
    for (let i = start; i < start + count; i++) largest = Math.max(largest, Math.abs(x[i]!));
    return largest;
  },

  quantize(x, start, count, inverse, codes) {
    for (let i = start; i < start + count; i++) {
      const code = Math.max(-127, Math.min(127, roundHalfEven(Math.fround(x[i]! * inverse))));
      x[i] = code;
      codes[i] = code;
    }
  },

  restoreHalves(halves, start, stride, rows, columns, restored) {
    const table = halfValues();
    for (let row = 0, at = 0; row < rows; row++) {
      const first = start + row * stride;
      for (let i = first; i < first + columns; i++) restored[at++] = table[halves[i]!]!;
    }
  },

  roundHalves(x, start, count, halves) {
    const saturated = x.slice(start, start + count);
    for (let i = 0; i < count; i++) saturated[i] = Math.max(-LARGEST_HALF, Math.min(LARGEST_HALF, saturated[i]!));
    halves.set(toHalfBits(saturated).bits);
  },

  softmax(x, start, count, scale) {
    const end = start + count;
    let max = x[start]!;
    for (let i = start + 1; i < end; i++) max = Math.max(max, x[i]!);
    let sum = 0;
    for (let i = start; i < end; i++) {
      const weight = Math.exp(scale * (x[i]! - max));
      x[i] = weight;
      sum += weight;
    }
    const inverse = 1 / sum;
    for (let i = start; i < end; i++) x[i]! *= inverse;
  },

  sumExp(logits, start, count, max, other) {
    sums.sum = 0;
    sums.excess = 0;
    for (let i = start; i < start + count; i++) {
      const weight = Math.exp(logits[i]! - max);
      sums.sum += weight;
      if (other) sums.excess += weight * (logits[i]! - other[i]!);
    }
    return sums;
  },
};
