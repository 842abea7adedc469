import { fromHalfBits } from "../../quantize/half.ts";

let values: Float32Array | undefined;

/** f32 [65536]: the value of every f16, by its bits. 256 KiB, made when first needed and shared by all models. */
export function halfValues(): Float32Array {
  return (values ??= fromHalfBits(Uint16Array.from({ length: 65536 }, (_, bits) => bits)));
}
