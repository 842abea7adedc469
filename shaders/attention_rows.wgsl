// y[t, h] = softmax_p(scale · q[t, h] · k[p, h]) v[p, h] over the positions p ≤ start + t of its window, as attention_prefill.wgsl, in registers alone: for software
// adapters with subgroups, where workgroup memory and barriers cost more than anything else. Online softmax, position by position.
// qkv: f32 [count, qkv_stride]; cache, kv_scales: see kv_cache.wgsl, with this chunk already in it; y: f32 [count, y_stride].
// One invocation owns a query of one head; of k and v each of LANES neighbours reads and converts READS chunks, and broadcasts them to the others.
// Dispatch (H, ⌈count / WG⌉). Oracle: test/reference/gpt2.ts, attention().
enable subgroups;
#import "step"
#import "kv_shape"
@group(0) @binding(0) var<uniform> run: Step;
@group(0) @binding(1) var<uniform> attention: Attention;
@group(0) @binding(2) var<storage, read> qkv: array<f32>;
@group(0) @binding(3) var<storage, read> cache: array<CacheChunk>;
@group(0) @binding(4) var<storage, read> kv_scales: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
#import "loop_bound"
#import "kv_cache"
#import "window_start"

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) t: u32, @builtin(subgroup_invocation_id) subgroup_lane: u32) {
  let head = workgroup.x;
  let lane = subgroup_lane % LANES;
  let row = min(workgroup.y * WG + t, run.count - 1u); // every lane takes part in the broadcasts, also those behind the last query
  let position = run.start + row;
  let last = run.start + min(workgroup.y * WG + WG, run.count) - 1u; // of the workgroup
#repeat r READS
#repeat l LANES
  let q$r$l = attention.scale * padded_query(head, row, $ru * LANES + $lu);
  var o$r$l = vec4<f32>(0.0);
#endrepeat
#endrepeat
  var top = -3.0e38;
  var sum = 0.0;
  let first = window_start(position);
  for (var p = window_start(run.start + workgroup.y * WG); p <= last; p++) {
    var score = 0.0;
#repeat r READS
    let k$r = cached(1u, head, p, min($ru * LANES + lane, HEAD_CHUNKS - 1u));
#repeat l LANES
    score += dot(q$r$l, subgroupBroadcast(k$r, $lu));
#endrepeat
#endrepeat
    let visible = p >= first && p <= position;
    let new_top = select(top, max(top, score), visible);
    let decay = exp(max(top - new_top, -80.0)); // of what was summed under the old maximum; nothing was at first
    let weight = select(0.0, exp(score - new_top), visible);
    top = new_top;
    sum = sum * decay + weight;
#repeat r READS
    let v$r = cached(2u, head, p, min($ru * LANES + lane, HEAD_CHUNKS - 1u));
#repeat l LANES
    o$r$l = o$r$l * decay + weight * subgroupBroadcast(v$r, $lu);
#endrepeat
#endrepeat
  }
  if (workgroup.y * WG + t >= run.count) { return; }
  var values: array<vec4<f32>, READS * LANES>;
#repeat r READS
#repeat l LANES
  values[$ru * LANES + $lu] = o$r$l / sum;
#endrepeat
#endrepeat
  let to = row * attention.y_stride + head * HEAD_SIZE;
  for (var d = 0u; d < loop_bound(HEAD_SIZE); d++) { y[to + d] = values[d >> 2u][d & 3u]; }
}

// A chunk of q; zeros where the lanes' share reaches behind the head.
fn padded_query(head: u32, row: u32, i: u32) -> vec4<f32> {
  if (i >= HEAD_CHUNKS) { return vec4<f32>(0.0); }
  return projected(0u, head, row, i);
}
