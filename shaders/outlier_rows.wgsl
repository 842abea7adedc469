// Outliers where x is rows of codes (code_rows.wgsl), of four rows at a time: their values are read from the f32 rows that became those codes.
// Needs `shape` and `x`.
@group(0) @binding(8) var<storage, read> values: array<vec4<f32>>; // [rows, K padded]

fn outlier_mask(row: u32, word: u32) -> u32 { return x[row * code_row_stride() + code_words() + 1u + (word >> 2u)][word & 3u]; }

// A bit for each of columns 32 · word … 32 · word + 31.
fn outlier_masks(rows: vec4<u32>, word: u32) -> vec4<u32> {
  return vec4<u32>(outlier_mask(rows.x, word), outlier_mask(rows.y, word), outlier_mask(rows.z, word), outlier_mask(rows.w, word));
}

fn any_of(masks: vec4<u32>) -> u32 { return masks.x | masks.y | masks.z | masks.w; }

fn value_at(row: u32, k: u32) -> f32 { return values[row * shape.x_stride + (k >> 2u)][k & 3u]; }

// The outliers in column k, 0 in a row where its value has a code.
fn outliers_at(rows: vec4<u32>, masks: vec4<u32>, k: u32) -> vec4<f32> {
  let marks = vec4<f32>((masks >> vec4<u32>(k & 31u)) & vec4<u32>(1u));
  return marks * vec4<f32>(value_at(rows.x, k), value_at(rows.y, k), value_at(rows.z, k), value_at(rows.w, k));
}
