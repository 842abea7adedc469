// y[j, k] += Σ_m x[m, j] · x[m, k] over a chunk of rows, for j ≤ k; below the diagonal lies what tiles across it leave.
// x: f32 [count, K padded]; strip: u32 first row j of y, which may be one of several strips; y: f32 [rows of the strip, K padded].
// One invocation computes 4 rows × 8 columns in registers: no barriers, which software adapters pay dearly for.
// Dispatch (⌈K padded / 8 / WG⌉, rows / 4). Oracle: test/reference/gpt2.ts, inputStatistics().
#import "step"
#import "matrix_shape"
@group(0) @binding(0) var<uniform> run: Step;
@group(0) @binding(1) var<uniform> shape: Shape;
@group(0) @binding(2) var<uniform> strip: vec4<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let stride = shape.x_stride;
  let j4 = strip.x / 4u + id.y;
  let k4 = 2u * id.x;
  if (k4 >= stride || k4 + 1u < j4) { return; }
#repeat j 4
#repeat c 2
  var sum$j_$c = vec4<f32>(0.0);
#endrepeat
#endrepeat
  for (var m = 0u; m < run.count; m++) {
    let a = x[m * stride + j4];
#repeat c 2
    let b$c = x[m * stride + k4 + $cu];
#endrepeat
#repeat j 4
#repeat c 2
    sum$j_$c += a[$j] * b$c;
#endrepeat
#endrepeat
  }
  let at = 4u * id.y * stride + k4;
#repeat j 4
#repeat c 2
  y[at + $ju * stride + $cu] += sum$j_$c;
#endrepeat
#endrepeat
}
