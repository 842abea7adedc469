// Rows of activations as int8 codes, each with its scale behind it (int8_code.wgsl).
// x: f32 [rows, K padded]; y: vec4<u32> [rows][K padded / 16 words of codes, then (scale, 0, 0, 0)]; rows run.row … run.row + count − 1 of both.
// One workgroup per row; dispatch count. Oracle: test/reference/gpt2.ts, quantizeActivations().
#import "step"
#import "matrix_shape"
@group(0) @binding(0) var<uniform> run: Step;
@group(0) @binding(1) var<uniform> shape: Shape;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<u32>>;
#import "int8_code"
#import "workgroup_sum"
#import "workgroup_max"

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let row = run.row + workgroup.x;
  let first = row * shape.x_stride;
  var top = 0.0;
  for (var i = t; i < shape.x_stride; i += WG) { top = max(top, largest(x[first + i])); }
  let absmax = workgroup_max(top, t);
  let inverse = inverse_scale(absmax);
  let words = shape.x_stride / 4u;
  let to = row * (words + 1u);
  for (var i = t; i < words; i += WG) {
    let k4 = first + 4u * i;
    y[to + i] = vec4<u32>(code_word(x[k4], inverse), code_word(x[k4 + 1u], inverse), code_word(x[k4 + 2u], inverse), code_word(x[k4 + 3u], inverse));
  }
  if (t == 0u) { y[to + words] = vec4<u32>(bitcast<u32>(row_scale(absmax)), 0u, 0u, 0u); }
}
