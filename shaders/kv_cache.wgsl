// The KV cache of one layer: K then V, each [H][positions][HEAD_CHUNKS] chunks of four values (a head's last chunk padded with zeros).
// KV == f32: vec4<f32>; f16: two words of halves; int8: one word of codes, with kv_scales f32 [2][H][positions], scale = absmax / 127 of a head's vector.
// Needs `attention`, `qkv`, `cache` (and `kv_scales`) bound by the importing kernel.
// Four values of q (part 0), k (1) or v (2) of a head, from the row of qkv that belongs to token t of the chunk.
fn projected(part: u32, head: u32, t: u32, i: u32) -> vec4<f32> {
  let first = t * attention.qkv_stride + (part * attention.heads + head) * HEAD_SIZE + 4u * i;
  var value = vec4<f32>(0.0);
  for (var j = 0u; j < loop_bound(4u); j++) {
    if (4u * i + j < HEAD_SIZE) { value[j] = qkv[first + j]; }
  }
  return value;
}

fn cache_index(part: u32, head: u32, position: u32, i: u32) -> u32 {
  return (((part - 1u) * attention.heads + head) * attention.positions + position) * HEAD_CHUNKS + i;
}

#if KV == int8
fn cache_scale(part: u32, head: u32, position: u32) -> u32 {
  return ((part - 1u) * attention.heads + head) * attention.positions + position;
}
#endif

fn cached(part: u32, head: u32, position: u32, i: u32) -> vec4<f32> {
  let value = cache[cache_index(part, head, position, i)];
#if KV == f32
  return value;
#elif KV == f16
  return vec4<f32>(unpack2x16float(value.x), unpack2x16float(value.y));
#else
  let bytes = (vec4<u32>(value ^ 0x80808080u) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(0xffu);
  return (bitcast<vec4<f32>>(bytes | vec4<u32>(0x4b000000u)) - vec4<f32>(8388736.0)) * kv_scales[cache_scale(part, head, position)];
#endif
}
