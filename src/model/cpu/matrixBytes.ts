import { CODE_BITS, groupLayout, NESTED_BLOCK, scaleCount } from "../../quantize/formats.ts";
import type { TensorFormat } from "../../types.ts";
import { BLOCK_ROWS, roundUp } from "./kernels.ts";

/** What a matrix takes. */
export interface MatrixBytes {
  codeBytes: number;
  /** Scales, zero points, double-quantization state. */
  scaleBytes: number;
  /** Of each array that the SIMD loops keep in their memory. */
  arrayBytes: readonly number[];
}

/** Of a matrix [O, K] whose zero points, if any, fit int8. mapBytes: of a map of its own for double quantization. */
export function simdMatrixBytes(format: TensorFormat, shape: readonly [O: number, K: number], mapBytes = 0): MatrixBytes {
  const [O, K] = shape;
  const codeBytes = O * Math.ceil((K * CODE_BITS[format.type]) / 8);
  const count = scaleCount(format, shape);
  if (format.type === "f32" || format.type === "f16") return { codeBytes, scaleBytes: 0, arrayBytes: [codeBytes] };
  if ("block" in format && format.doubleQuantization) {
    const absmaxBytes = 4 * Math.ceil(count / NESTED_BLOCK);
    const restoredBytes = 4 * BLOCK_ROWS * groupLayout(format, shape).groupsPerLine;
    return { codeBytes, scaleBytes: count + absmaxBytes + 4, arrayBytes: [codeBytes, restoredBytes, count, absmaxBytes, ...(mapBytes > 0 ? [mapBytes] : [])] };
  }
  const zeroPointBytes = "mode" in format && format.mode === "zeropoint" ? count : 0;
  return { codeBytes, scaleBytes: 4 * count + zeroPointBytes, arrayBytes: [codeBytes, 4 * count, ...(zeroPointBytes > 0 ? [zeroPointBytes] : [])] };
}

/** The same in plain TypeScript, where rows of f16 and int8 are padded. */
export function plainMatrixBytes(format: TensorFormat, shape: readonly [O: number, K: number]): Omit<MatrixBytes, "arrayBytes"> {
  const [O, K] = shape;
  const { codeBytes, scaleBytes } = simdMatrixBytes(format, shape);
  const padded = { f16: 2 * O * roundUp(K, 2), int8: O * roundUp(K, 4) }[format.type as string];
  return { codeBytes: padded ?? codeBytes, scaleBytes };
}
