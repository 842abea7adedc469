// KL(a ‖ b) = Σ p_a (ln p_a − ln p_b) of two models' logits, row by row, in nats.
// Summed as Σ p_a (d − 1 + e^−d), d = ln p_a − ln p_b: every term is ≥ 0, and an error in a normalizer cancels to first order because both sum to 1.
// sums_a, sums_b: what row_sums.wgsl wrote for each model; a, b: f32 [count, stride] logits; y: f32 [count].
// One workgroup per row; dispatch count. Oracle: test/reference/gpt2.ts, klDivergence().
#import "row_softmax"
@group(0) @binding(0) var<uniform> rows: Rows;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> sums_a: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> b: array<f32>;
@group(0) @binding(4) var<storage, read> sums_b: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

// d − 1 + e^−d, by its series where the subtraction would cancel.
fn excess(d: f32) -> f32 {
  if (abs(d) < 0.25) { return d * d * (0.5 + d * (-0.16666667 + d * (0.041666668 + d * (-0.008333334 + d * 0.0013888889)))); }
  return d - 1.0 + exp(min(-d, 80.0));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let first = workgroup.x * rows.stride;
  let log_a = sums_a[workgroup.x].x + log(sums_a[workgroup.x].y);
  let log_b = sums_b[workgroup.x].x + log(sums_b[workgroup.x].y);
  var sum = 0.0;
  for (var v = t; v < rows.vocabulary; v += WG) {
    let log_p = a[first + v] - log_a;
    sum += exp(log_p) * excess(log_p - (b[first + v] - log_b));
  }
  let divergence = workgroup_sum(sum, t);
  if (t == 0u) { y[workgroup.x] = divergence; }
}
