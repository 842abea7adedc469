// y[t, h] = softmax_p(scale · q[t, h] · k[p, h]) v[p, h] over the positions p ≤ start + t of its window, one head; online softmax over tiles of positions, so that no
// T × T matrix is ever stored; tiles behind the last query of a workgroup are skipped.
// qkv: f32 [count, qkv_stride]; cache, kv_scales: see kv_cache.wgsl, with this chunk already in it; y: f32 [count, y_stride].
// One workgroup computes TILE queries of one head with four threads each; dispatch (H, ⌈count / TILE⌉). Oracle: test/reference/gpt2.ts, attention().
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

const WG = 4u * TILE;
const QUARTER = (HEAD_CHUNKS + 3u) / 4u; // chunks of o that one thread holds
var<workgroup> scores: array<f32, TILE * TILE>; // [query][position]
#if STAGED
var<workgroup> q_tile: array<vec4<f32>, TILE * HEAD_CHUNKS>;
var<workgroup> k_tile: array<vec4<f32>, TILE * HEAD_CHUNKS>;
var<workgroup> v_tile: array<vec4<f32>, TILE * HEAD_CHUNKS>;
#endif

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let head = workgroup.x;
  let t0 = workgroup.y * TILE;
  let query = t / 4u;
  let lane = t % 4u;
  let position = run.start + t0 + query; // of this thread's query
  let last = run.start + min(t0 + TILE, run.count) - 1u;
#if STAGED
  for (var i = t; i < TILE * HEAD_CHUNKS; i += WG) {
    var value = vec4<f32>(0.0);
    if (t0 + i / HEAD_CHUNKS < run.count) { value = projected(0u, head, t0 + i / HEAD_CHUNKS, i % HEAD_CHUNKS) * attention.scale; }
    q_tile[i] = value;
  }
#endif
  var o: array<vec4<f32>, QUARTER>;
  var top = -3.0e38;
  var sum = 0.0;
  let first = window_start(position);
  for (var p0 = window_start(run.start + t0) / TILE * TILE; p0 <= last; p0 += TILE) {
#if STAGED
    for (var i = t; i < TILE * HEAD_CHUNKS; i += WG) {
      let p = p0 + i / HEAD_CHUNKS;
      var k = vec4<f32>(0.0);
      var v = vec4<f32>(0.0);
      if (p <= last) {
        k = cached(1u, head, p, i % HEAD_CHUNKS);
        v = cached(2u, head, p, i % HEAD_CHUNKS);
      }
      k_tile[i] = k;
      v_tile[i] = v;
    }
    workgroupBarrier();
#endif
    for (var j = lane; j < TILE; j += 4u) {
      var score = -3.0e38;
      if (p0 + j >= first && p0 + j <= position && t0 + query < run.count) {
        score = 0.0;
        for (var i = 0u; i < loop_bound(HEAD_CHUNKS); i++) {
#if STAGED
          score += dot(q_tile[query * HEAD_CHUNKS + i], k_tile[j * HEAD_CHUNKS + i]);
#else
          score += dot(projected(0u, head, t0 + query, i) * attention.scale, cached(1u, head, p0 + j, i));
#endif
        }
      }
      scores[query * TILE + j] = score;
    }
    workgroupBarrier();
    var tile_top = top;
    for (var j = 0u; j < loop_bound(TILE); j++) { tile_top = max(tile_top, scores[query * TILE + j]); }
    let decay = exp(max(top - tile_top, -80.0)); // of what was summed under the old maximum; nothing was at first
    top = tile_top;
    sum *= decay;
    for (var i = 0u; i < loop_bound(QUARTER); i++) { o[i] *= decay; }
    for (var j = 0u; j < loop_bound(TILE); j++) {
      if (p0 + j > position) { break; }
      if (p0 + j < first) { continue; }
      let weight = exp(scores[query * TILE + j] - top);
      sum += weight;
      for (var i = 0u; i < loop_bound(QUARTER); i++) {
        let chunk = lane * QUARTER + i;
        if (chunk < HEAD_CHUNKS) {
#if STAGED
          o[i] += weight * v_tile[j * HEAD_CHUNKS + chunk];
#else
          o[i] += weight * cached(2u, head, p0 + j, chunk);
#endif
        }
      }
    }
    workgroupBarrier();
  }
  if (t0 + query >= run.count) { return; }
  let to = (t0 + query) * attention.y_stride + head * HEAD_SIZE;
  for (var i = 0u; i < loop_bound(QUARTER); i++) {
    for (var j = 0u; j < loop_bound(4u); j++) {
      let d = 4u * (lane * QUARTER + i) + j;
      if (d < HEAD_SIZE) { y[to + d] = o[i][j] / sum; }
    }
  }
}
