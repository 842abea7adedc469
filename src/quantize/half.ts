import { toFloat32 } from "../safetensors/dtypes.ts";
import { roundHalfEven } from "./rounding.ts";

const LARGEST_HALF_BITS = 0x7bff; // 65504

/**
 * f32 -> f16 bits, rounded to nearest even, subnormals included.
 * @returns the bits, and the index of the first value beyond 65504 after rounding, or −1
 */
export function toHalfBits(values: Float32Array): { bits: Uint16Array; overflowIndex: number } {
  const bits = new Uint16Array(values.length);
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!;
    const magnitude = word & 0x7fffffff;
    const half =
      magnitude < 0x38800000 // below 2^-14: a multiple of 2^-24
        ? roundHalfEven(Math.abs(values[i]!) * 2 ** 24)
        : (magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13; // exponent bias 127 -> 15; a carry into the exponent is right
    if (half > LARGEST_HALF_BITS) return { bits, overflowIndex: i };
    bits[i] = ((word >>> 16) & 0x8000) | half;
  }
  return { bits, overflowIndex: -1 };
}

/** f16 bits -> f32, exact. */
export function fromHalfBits(bits: Uint16Array): Float32Array {
  return toFloat32(new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength), "F16");
}
