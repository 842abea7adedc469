import type { QuantizedTensor } from "../types.ts";
import { assembleTensor } from "./nearest.ts";

/** A matrix for the loops of the CPU: row after row as quantized, without padding. Arrays may be views, aligned to their elements. */
export interface PackedRows extends Pick<QuantizedTensor, "format" | "shape" | "doubleQuantization" | "f16Columns"> {
  layout: "rows";
  /** f32, f16 bits or int8 [rows, columns]; of 4-bit formats u8 [rows, ⌈columns / 2⌉], two codes to a byte, the lower half first. */
  codes: Float32Array | Uint16Array | Int8Array | Uint8Array;
  /** f32, as QuantizedTensor has them; empty with double quantization, from which they follow. */
  scales: Float32Array;
  /** As QuantizedTensor has them; int8 where all of them fit. */
  zeroPoints?: Int8Array | Int32Array;
}

/** Packs a quantized tensor, whose arrays it keeps where they are right as they are. */
export function packRows({ format, shape, codes, scales, zeroPoints, doubleQuantization, f16Columns }: QuantizedTensor): PackedRows {
  return {
    layout: "rows",
    format,
    shape,
    codes: hasNibbles(format) ? packNibbles(codes, shape) : codes,
    scales: doubleQuantization ? new Float32Array(0) : scales,
    ...(zeroPoints && { zeroPoints: zeroPoints.every((zeroPoint) => zeroPoint >= -128 && zeroPoint <= 127) ? Int8Array.from(zeroPoints) : zeroPoints }),
    ...(doubleQuantization && { doubleQuantization }),
    ...(f16Columns && { f16Columns }),
  };
}

/** The tensor that packRows was given. */
export function unpackRows({ format, shape, codes, scales, zeroPoints, doubleQuantization, f16Columns }: PackedRows): QuantizedTensor {
  return assembleTensor(format, shape, {
    codes: hasNibbles(format) ? unpackNibbles(codes, shape, format.type === "int4" ? new Int8Array(shape[0] * shape[1]) : new Uint8Array(shape[0] * shape[1])) : codes,
    scales,
    zeroPoints: zeroPoints && Int32Array.from(zeroPoints),
    doubleQuantization,
    f16Columns,
  });
}

function hasNibbles({ type }: QuantizedTensor["format"]): boolean {
  return type === "int4" || type === "nf4" || type === "fp4";
}

/** Each row begins with a byte. */
function packNibbles(codes: QuantizedTensor["codes"], [O, K]: QuantizedTensor["shape"]): Uint8Array {
  const stride = Math.ceil(K / 2);
  const packed = new Uint8Array(O * stride);
  for (let o = 0; o < O; o++) {
    for (let k = 0; k < K; k++) packed[o * stride + (k >> 1)]! |= (codes[o * K + k]! & 15) << (4 * (k & 1));
  }
  return packed;
}

/** Codes of an Int8Array are two's complement. */
function unpackNibbles<Codes extends Int8Array | Uint8Array>(packed: PackedRows["codes"], [O, K]: QuantizedTensor["shape"], codes: Codes): Codes {
  const stride = Math.ceil(K / 2);
  const isSigned = codes instanceof Int8Array;
  for (let o = 0; o < O; o++) {
    for (let k = 0; k < K; k++) {
      const code = (packed[o * stride + (k >> 1)]! >> (4 * (k & 1))) & 15;
      codes[o * K + k] = isSigned && code > 7 ? code - 16 : code;
    }
  }
  return codes;
}
