// Rows of activations as int8 codes, each with its scale behind it (int8_code.wgsl).
// x: f32 [rows, K padded]; y: vec4<u32> [rows] as in code_rows.wgsl; rows run.row … run.row + count − 1 of both.
// One workgroup per row; dispatch count. Oracle: test/reference/gpt2.ts, quantizeActivations().
#import "step"
#import "matrix_shape"
@group(0) @binding(0) var<uniform> run: Step;
@group(0) @binding(1) var<uniform> shape: Shape;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<u32>>;
#import "code_rows"
#import "int8_code"
#import "workgroup_sum"
#import "workgroup_max"

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let row = run.row + workgroup.x;
  let first = row * shape.x_stride;
  var absmax = shape.input_range;
  if (absmax == 0.0) {
    var top = 0.0;
    for (var i = t; i < shape.x_stride; i += WG) { top = max(top, largest(x[first + i])); }
    absmax = workgroup_max(top, t);
  }
  let inverse = inverse_scale(absmax);
  let to = row * code_row_stride();
  for (var i = t; i < code_words(); i += WG) {
    let k4 = first + 4u * i;
    y[to + i] = vec4<u32>(code_word(x[k4], inverse), code_word(x[k4 + 1u], inverse), code_word(x[k4 + 2u], inverse), code_word(x[k4 + 3u], inverse));
  }
  if (t == 0u) { y[to + code_words()] = vec4<u32>(bitcast<u32>(row_scale(absmax)), 0u, 0u, 0u); }
#if OUTLIERS
  for (var i = 32u * t; i < shape.x_stride; i += 32u * WG) {
    var masks: vec4<u32>;
    for (var j = 0u; j < min(32u, shape.x_stride - i); j++) { masks[j >> 3u] |= outlier_bits(x[first + i + j]) << (4u * (j & 7u)); }
    y[to + code_words() + 1u + i / 32u] = masks;
  }
#endif
}
