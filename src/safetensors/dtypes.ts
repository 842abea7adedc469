import { EngineError } from "../errors.ts";

/** Bytes per element. The F8 types are known, so that a file may hold them, but not converted. */
export const dtypeBytes = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  U64: 8,
  I32: 4,
  U32: 4,
  I16: 2,
  U16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
} as const;

/** A dtype of the safetensors format, as headers name it. */
export type Dtype = keyof typeof dtypeBytes;
/** What toFloat32() converts. */
export type FloatDtype = "F64" | "F32" | "F16" | "BF16";
/** A tensor's elements, by dtype; F16 and BF16 as their bits. */
export type TypedView<B extends ArrayBufferLike = ArrayBufferLike> =
  | Float64Array<B>
  | Float32Array<B>
  | BigInt64Array<B>
  | BigUint64Array<B>
  | Int32Array<B>
  | Uint32Array<B>
  | Int16Array<B>
  | Uint16Array<B>
  | Int8Array<B>
  | Uint8Array<B>;

export function isDtype(value: unknown): value is Dtype {
  return typeof value === "string" && Object.hasOwn(dtypeBytes, value);
}

/** Whether toFloat32() converts it. */
export function isFloatDtype(dtype: Dtype): dtype is FloatDtype {
  return dtype === "F64" || dtype === "F32" || dtype === "F16" || dtype === "BF16";
}

/**
 * The elements of a tensor without a copy; where `bytes` is not aligned for the dtype, a copy.
 * F16 and BF16 come as their bits (Uint16Array), BOOL and F8 as bytes. Assumes a little-endian machine, as every browser's is.
 */
export function typedView<B extends ArrayBufferLike>(bytes: Uint8Array<B>, dtype: Dtype): TypedView<B | ArrayBuffer> {
  const { buffer, byteOffset, length } = aligned(bytes, dtypeBytes[dtype]);
  const count = length / dtypeBytes[dtype];
  if (!Number.isInteger(count)) throw new RangeError(`bytes has length ${length}; expected a multiple of ${dtypeBytes[dtype]} for ${dtype}.`);
  switch (dtype) {
    case "F64":
      return new Float64Array(buffer, byteOffset, count);
    case "F32":
      return new Float32Array(buffer, byteOffset, count);
    case "I64":
      return new BigInt64Array(buffer, byteOffset, count);
    case "U64":
      return new BigUint64Array(buffer, byteOffset, count);
    case "I32":
      return new Int32Array(buffer, byteOffset, count);
    case "U32":
      return new Uint32Array(buffer, byteOffset, count);
    case "I16":
      return new Int16Array(buffer, byteOffset, count);
    case "U16":
    case "F16":
    case "BF16":
      return new Uint16Array(buffer, byteOffset, count);
    case "I8":
      return new Int8Array(buffer, byteOffset, count);
    case "U8":
    case "BOOL":
    case "F8_E4M3":
    case "F8_E5M2":
      return new Uint8Array(buffer, byteOffset, count);
  }
}

/** f32 values of a floating tensor: F16 and BF16 exactly (subnormals, ±Infinity and NaN included), F64 rounded. F32 is not copied where aligned. */
export function toFloat32<B extends ArrayBufferLike>(bytes: Uint8Array<B>, dtype: Dtype): Float32Array<B | ArrayBuffer> {
  if (!isFloatDtype(dtype)) throw new EngineError("checkpoint", `Cannot convert ${dtype} to f32; expected F64, F32, F16 or BF16.`, { dtype });
  const source = typedView(bytes, dtype);
  if (source instanceof Float32Array) return source;
  if (source instanceof Float64Array) return Float32Array.from(source);
  const bits = source as Uint16Array;
  const values = new Float32Array(bits.length);
  if (dtype === "BF16") {
    const words = new Uint32Array(values.buffer);
    for (let i = 0; i < words.length; i++) words[i] = bits[i]! << 16;
  } else {
    const table = f16Table();
    for (let i = 0; i < values.length; i++) values[i] = table[bits[i]!]!;
  }
  return values;
}

let f16Values: Float32Array | undefined;

/** f32 [65,536]: the value of every half. 256 KB, made on first use. */
function f16Table(): Float32Array {
  if (f16Values) return f16Values;
  f16Values = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const magnitude = exponent === 31 ? (fraction ? NaN : Infinity) : exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
    f16Values[bits] = bits & 0x8000 ? -magnitude : magnitude;
  }
  return f16Values;
}

function aligned<B extends ArrayBufferLike>(bytes: Uint8Array<B>, alignment: number): Uint8Array<B | ArrayBuffer> {
  return bytes.byteOffset % alignment === 0 ? bytes : bytes.slice();
}
