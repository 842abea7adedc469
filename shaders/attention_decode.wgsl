// One query against SPLIT cached positions of one head: scores s_p = scale · q · k_p; writes max m, Σ e^(s − m) and o = Σ e^(s − m) v_p.
// Its first act is to append the token's own k and v, where its position falls into this split.
// qkv: f32 [1, qkv_stride]; cache, kv_scales: see kv_cache.wgsl; y: vec4 [H][MAX_SPLITS][HEAD_CHUNKS of o, then (m, Σ, 0, 0)].
// One workgroup per (head, split); dispatch (H, splits). gemv.wgsl's merge prologue joins the splits. Oracle: test/reference/gpt2.ts, attention().
#import "step"
#import "kv_shape"
@group(0) @binding(0) var<uniform> run: Step;
@group(0) @binding(1) var<uniform> attention: Attention;
@group(0) @binding(2) var<storage, read> qkv: array<f32>;
@group(0) @binding(3) var<storage, read_write> cache: array<CacheChunk>;
@group(0) @binding(4) var<storage, read_write> kv_scales: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;
#import "loop_bound"
#import "kv_cache"
#import "kv_append"

const WG = 64u;
#import "workgroup_sum"
#import "workgroup_max"
var<workgroup> query: array<vec4<f32>, HEAD_CHUNKS>;
var<workgroup> weights: array<f32, SPLIT>;
var<workgroup> stripes: array<vec4<f32>, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let head = workgroup.x;
  let first = workgroup.y * SPLIT;
  let end = min(first + SPLIT, run.start + 1u);
  if (run.start + 1u == end && t < 2u) { append(1u + t, head, 0u, run.start); }
  for (var i = t; i < HEAD_CHUNKS; i += WG) { query[i] = projected(0u, head, 0u, i) * attention.scale; }
  storageBarrier();
  workgroupBarrier();

  var top = -3.0e38;
  for (var p = first + t; p < end; p += WG) {
    var score = 0.0;
    for (var i = 0u; i < loop_bound(HEAD_CHUNKS); i++) { score += dot(query[i], cached(1u, head, p, i)); }
    weights[p - first] = score;
    top = max(top, score);
  }
  top = workgroup_max(top, t);
  var sum = 0.0;
  for (var p = first + t; p < end; p += WG) {
    let weight = exp(weights[p - first] - top);
    weights[p - first] = weight;
    sum += weight;
  }
  sum = workgroup_sum(sum, t);

  let to = (head * MAX_SPLITS + workgroup.y) * (HEAD_CHUNKS + 1u);
  for (var i0 = 0u; i0 < HEAD_CHUNKS; i0 += LANES) { // LANES chunks of v at a time, the positions in WG / LANES stripes
    let i = i0 + t % LANES;
    let stripe = t / LANES;
    var value = vec4<f32>(0.0);
    if (i < HEAD_CHUNKS && stripe < WG / LANES) {
      for (var p = first + stripe; p < end; p += WG / LANES) { value += weights[p - first] * cached(2u, head, p, i); }
    }
    stripes[t] = value;
    workgroupBarrier();
    if (t < LANES && i < HEAD_CHUNKS) {
      for (var s = 1u; s < WG / LANES; s++) { value += stripes[s * LANES + t]; }
      y[to + i] = value;
    }
    workgroupBarrier();
  }
  if (t == 0u) { y[to + HEAD_CHUNKS] = vec4<f32>(top, sum, 0.0, 0.0); }
}
