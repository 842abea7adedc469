// The 16 bits of the f16 nearest to x, ties to even; beyond 65504: ±65504. pack2x16float may round either way, and the CPU must agree.
fn half_bits(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = min(bits & 0x7fffffffu, 0x477fe000u); // 65504
  if (magnitude < 0x38800000u) { // below 2^-14: adding 0.5 leaves the subnormal's bits, rounded, at the low end
    return sign | (bitcast<u32>(bitcast<f32>(magnitude) + 0.5) - 0x3f000000u);
  }
  return sign | min((magnitude + 0xfffu + ((magnitude >> 13u) & 1u) - 0x38000000u) >> 13u, 0x7bffu);
}
