// Sixteen products of int8 codes, four to a word, as exact integers.
fn dot4(a: u32, b: u32) -> i32 {
#if DOT4 == packed
  return dot4I8Packed(a, b);
#else
  let x = vec4<i32>(vec4<u32>(a) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
  let y = vec4<i32>(vec4<u32>(b) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
  return dot(x, y);
#endif
}

fn dot16(a: vec4<u32>, b: vec4<u32>) -> i32 { return dot4(a.x, b.x) + dot4(a.y, b.y) + dot4(a.z, b.z) + dot4(a.w, b.w); }

// Σ of a chunk's codes, which a zero point of the weights is multiplied with.
fn sum16(a: vec4<u32>) -> i32 { return dot16(a, vec4<u32>(0x01010101u)); }

// The zero point of a row's group, a whole number: zero_bias() without the excess of its codes.
fn zero_point(row: u32, group: u32) -> i32 { return i32(zero_bias(row, group) - 8388736.0); }
