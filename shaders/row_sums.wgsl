// Per row of logits l [V]: max m, Σ e^(l − m), l[target], and the index of the max (lowest on a tie): ln p(target) = l[target] − m − ln Σ.
// logits: f32 [count, stride]; expected: u32 [count]; y: vec4 [count] = (m, Σ, l[target], the index).
// One workgroup per row; dispatch count. Oracle: test/reference/gpt2.ts, logSoftmax().
#import "row_softmax"
@group(0) @binding(0) var<uniform> rows: Rows;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> expected: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let first = workgroup.x * rows.stride;
  var best = -3.0e38;
  var best_index = rows.vocabulary;
  for (var v = t; v < rows.vocabulary; v += WG) {
    let l = logits[first + v];
    if (l > best) { best = l; best_index = v; }
  }
  let top = workgroup_max(best, t);
  let index = workgroup_max(select(-3.0e38, -f32(best_index), best == top), t); // the lowest of those that have it
  var sum = 0.0;
  for (var v = t; v < rows.vocabulary; v += WG) { sum += exp(logits[first + v] - top); }
  let normalizer = workgroup_sum(sum, t);
  if (t == 0u) { y[workgroup.x] = vec4<f32>(top, normalizer, logits[first + expected[workgroup.x]], -index); }
}
