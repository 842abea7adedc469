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
#if OUTLIERS

// The weight of a column that keeps f16 weights; place: 1 + where it stands among them. Without a scale that serves the whole row, which finish()
// multiplies with; a scale of 0 is that of a row of zeros.
fn f16_weight(row: u32, place: u32) -> f32 {
  let i = (place - 1u) * ((shape.rows + 63u) & ~63u) + row;
  let weight = unpack2x16float(scales[shape.f16_base + shape.columns + (i >> 1u)])[i & 1u];
#if SCALE == group
  return weight;
#else
  let scale = scale_at(row, 0u);
  return select(weight / scale, 0.0, scale == 0.0);
#endif
}

// What an outlier in column k is multiplied with: the weight, but for a scale that serves the whole row, which finish() multiplies with.
fn outlier_weight(row: u32, k: u32) -> f32 {
  if (shape.f16_base != 0u) {
    let place = scales[shape.f16_base + k];
    if (place != 0u) { return f16_weight(row, place); }
  }
  let c = k >> 4u;
  let group = c / shape.chunks_per_group;
  let word = codes[((row >> 3u) * shape.chunks_per_row + c) * 8u + (row & 7u)][(k >> 2u) & 3u];
  let weight = f32(extractBits(i32(word), (k & 3u) * 8u, 8u) - zero_point(row, group));
#if SCALE == group
  return weight * scale_at(row, group);
#else
  return weight;
#endif
}
#endif
