// Appends k (part 1) or v (part 2) of one head and token to the cache, rounded to its format.
// Needs kv_cache.wgsl with `cache` writable.
#if KV == f16
#import "half"
#endif

fn append(part: u32, head: u32, t: u32, position: u32) {
#if KV == int8
  var top = 0.0;
  for (var i = 0u; i < loop_bound(HEAD_CHUNKS); i++) {
    let a = abs(projected(part, head, t, i));
    top = max(top, max(max(a.x, a.y), max(a.z, a.w)));
  }
  let scale = top / 127.0;
  kv_scales[cache_scale(part, head, position)] = scale;
  let divisor = max(scale, 1.2e-38); // where the scale is no normal f32, codes of zero
  for (var i = 0u; i < loop_bound(HEAD_CHUNKS); i++) {
    let codes = vec4<u32>(vec4<i32>(clamp(round(projected(part, head, t, i) / divisor), vec4<f32>(-127.0), vec4<f32>(127.0)))) & vec4<u32>(0xffu);
    cache[cache_index(part, head, position, i)] = codes.x | (codes.y << 8u) | (codes.z << 16u) | (codes.w << 24u);
  }
#else
  for (var i = 0u; i < loop_bound(HEAD_CHUNKS); i++) {
    let value = projected(part, head, t, i);
#if KV == f16
    cache[cache_index(part, head, position, i)] =
      vec2<u32>(half_bits(value.x) | (half_bits(value.y) << 16u), half_bits(value.z) | (half_bits(value.w) << 16u));
#else
    cache[cache_index(part, head, position, i)] = value;
#endif
  }
#endif
}
