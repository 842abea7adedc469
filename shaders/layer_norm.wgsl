// y = (x − mean) / √(variance + ε) · gamma + beta over each row of C values; row t of x goes to row t, or to row start + t (KEEP), of y.
// x: f32 [count, C padded]; aux: f32 gamma, beta [C padded]; y: f32 [rows, C padded].
// One workgroup per row; dispatch count. Oracle: test/reference/gpt2.ts, layerNorm().
#import "step"
#import "matrix_shape"
@group(0) @binding(0) var<uniform> run: Step;
@group(0) @binding(1) var<uniform> shape: Shape;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> aux: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

#import "row_moments"

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let first = workgroup.x * shape.x_stride;
  let moments = row_moments(first, t);
#if KEEP
  let to = (run.start + workgroup.x) * shape.x_stride;
#else
  let to = first;
#endif
  for (var i = t; i < shape.x_stride; i += WG) { y[to + i] = (x[first + i] - moments.x) * moments.y * aux[i] + aux[shape.x_stride + i]; }
}
