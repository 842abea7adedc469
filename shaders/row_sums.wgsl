// Per row of logits l [V]: max m, Σ e^(l − m), l[target], and the index of the max (lowest on a tie): ln p(target) = l[target] − m − ln Σ.
// logits: f32 [count, stride]; expected: u32 [count]; y: vec4 [count] = (m, Σ, l[target], bits of the index).
// One workgroup per row; dispatch count. Oracle: test/reference/gpt2.ts, logSoftmax().
#import "row_softmax"
@group(0) @binding(0) var<uniform> rows: Rows;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> expected: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let first = workgroup.x * rows.stride;
  var best = vec2<f32>(-3.0e38, 0.0);
  var best_index = 0u;
  for (var v = t; v < rows.vocabulary; v += WG) {
    let l = logits[first + v];
    if (l > best.x) { best.x = l; best_index = v; }
  }
  let top = highest(best.x, best_index, t);
  var sum = 0.0;
  for (var v = t; v < rows.vocabulary; v += WG) { sum += exp(logits[first + v] - top.value); }
  let normalizer = total(sum, t);
  if (t == 0u) { y[workgroup.x] = vec4<f32>(top.value, normalizer, logits[first + expected[workgroup.x]], f32(top.index)); }
}
