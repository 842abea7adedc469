// Values 4 k4 … 4 k4 + 3 of the residual stream of a token: its row of wte (as a row of this part) plus wpe at its position.
// Needs matrix.wgsl and `wpe`.
fn embedded(row: u32, position: u32, k4: u32) -> vec4<f32> {
  let c = k4 / (CHUNK / 4u);
  let group = c / shape.chunks_per_group;
  let w = codes[((row >> 3u) * shape.chunks_per_row + c) * 8u + (row & 7u)];
  let value = dequantize(w, k4 % (CHUNK / 4u), zero_bias(row, group)) * scale_at(row, group);
  let inside = vec4<u32>(4u * k4) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(shape.columns);
  return select(vec4<f32>(0.0), value + wpe[position * shape.x_stride + k4], inside);
}
