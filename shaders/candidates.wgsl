// The head's share of sampling: what each of its workgroups knows of its own tokens, so that the sample kernel need not read every logit.
// candidates: vec4<f32> [workgroups][2]: max and Σ e^(l − max) of the logits l, largest score and its id; then score, id and noise of the token drawn.
// Needs gemv.wgsl's `y`, all of a matrix in one part.
#import "sampling"
@group(0) @binding(8) var<uniform> sampling: Sampling;
@group(0) @binding(9) var<storage, read> counts: array<u32>;
@group(0) @binding(10) var<storage, read_write> candidates: array<vec4<f32>>;
#import "philox"
#import "gumbel"
var<workgroup> offers: array<vec3<f32>, 8u * ROW_TILES>; // logit, score, noise

// Thread t has just written y[first + t].
fn offer(first: u32, workgroup: u32, t: u32) {
  let count = min(8u * ROW_TILES, shape.rows - first);
  if (t < count) {
    let id = first + t;
    let logit = y[id];
    var score = logit;
    if (sampling.penalties != 0u) { score = penalized(logit, counts[id]); }
    var noise = 0.0;
    if (sampling.temperature > 0.0 && !is_filtered()) {
      noise = gumbel(philox(vec4<u32>(id >> 2u, draw_index(), 0u, 0u), sampling.seed)[id & 3u]);
    }
    offers[t] = vec3<f32>(logit, score, noise);
  }
  workgroupBarrier();
  if (t != 0u) { return; }
  var known = vec4<f32>(LOWEST, 0.0, LOWEST, 0.0);
  for (var i = 0u; i < count; i++) {
    known.x = max(known.x, offers[i].x);
    if (offers[i].y > known.z) { known = vec4<f32>(known.x, 0.0, offers[i].y, f32(first + i)); }
  }
  var drawn = vec4<f32>(LOWEST, known.w, 0.0, 0.0);
  var best = LOWEST;
  for (var i = 0u; i < count; i++) {
    let each = offers[i];
    known.y += select(exp(each.x - known.x), each.x, each.x < LOWEST); // e^−∞ would leave no trace in the sum
    let noisy = (each.y - known.z) / sampling.temperature + each.z;
    if (noisy > best) {
      best = noisy;
      drawn = vec4<f32>(each.y, f32(first + i), each.z, 0.0);
    }
  }
  candidates[2u * workgroup] = known;
  candidates[2u * workgroup + 1u] = drawn;
}
