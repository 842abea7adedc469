// The products of outliers where x is rows of codes (code_rows.wgsl): their values are read from the f32 rows that became those codes.
// Needs `shape`, `x`, `loop_bound` and int8_dot.wgsl.
@group(0) @binding(8) var<storage, read> values: array<vec4<f32>>; // [rows, K padded]

// The outliers of a row among columns 32 · word … 32 · word + 31.
fn outlier_mask(row: u32, word: u32) -> u32 { return x[row * code_row_stride() + code_words() + 1u + (word >> 2u)][word & 3u]; }

fn value_at(row: u32, k: u32) -> f32 { return values[row * shape.x_stride + (k >> 2u)][k & 3u]; }

// Σ x_k · w_k over the outliers k of four rows of x, for the outputs first, first + step, …
fn outlier_products(rows: vec4<u32>, first: u32, step: u32) -> array<vec4<f32>, 8> {
  var sums: array<vec4<f32>, 8>;
  for (var word = 0u; word < shape.x_stride / 8u; word++) {
    let masks = vec4<u32>(outlier_mask(rows.x, word), outlier_mask(rows.y, word), outlier_mask(rows.z, word), outlier_mask(rows.w, word));
    for (var rest = masks.x | masks.y | masks.z | masks.w; rest != 0u; rest &= rest - 1u) {
      let bit = firstTrailingBit(rest);
      let k = 32u * word + bit;
      let own = vec4<f32>((masks >> vec4<u32>(bit)) & vec4<u32>(1u)); // the others have a code in this column
      let outliers = own * vec4<f32>(value_at(rows.x, k), value_at(rows.y, k), value_at(rows.z, k), value_at(rows.w, k));
      for (var n = 0u; n < loop_bound(8u); n++) { sums[n] += outliers * outlier_weight(first + n * step, k); }
    }
  }
  return sums;
}
