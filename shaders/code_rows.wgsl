// Rows of activations as quantize_rows.wgsl leaves them, vec4<u32> each: codes [K padded / 16], then (scale, 0, 0, 0), then, where OUTLIERS, a bit per
// column [⌈K padded / 128⌉]. Needs `shape`.
fn code_words() -> u32 { return shape.x_stride / 4u; }

fn code_row_stride() -> u32 {
#if OUTLIERS
  return code_words() + 1u + (shape.x_stride + 31u) / 32u;
#else
  return code_words() + 1u;
#endif
}
