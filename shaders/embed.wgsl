// x[t, k] = wte[token[t], k] + wpe[start + t, k] (counted from the token's window, window_start.wgsl), for the tokens whose row lies in this part of wte.
// tokens: u32 [count]; codes, scales: packed [V, C]; wpe: f32 [positions, C padded]; x: f32 [count, C padded].
// One invocation writes four values; dispatch (⌈C padded / 4 / 64⌉, count). Oracle: test/reference/gpt2.ts, referenceHidden().
#import "step"
#import "matrix_shape"
@group(0) @binding(0) var<uniform> run: Step;
@group(0) @binding(1) var<uniform> shape: Shape;
@group(0) @binding(2) var<storage, read> tokens: array<u32>;
@group(0) @binding(3) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> scales: array<u32>;
@group(0) @binding(5) var<storage, read> wpe: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> x: array<vec4<f32>>;
#import "matrix"
#import "embed_row"
#import "window_start"

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) t: u32) {
#if CODE == lut4
  load_table(t);
#endif
  let k4 = workgroup.x * 64u + t;
  let position = run.start + workgroup.y;
  let row = tokens[workgroup.y] - shape.row_offset; // wraps below the part, and is then not below `rows`
  if (row >= shape.rows || k4 >= shape.x_stride) { return; }
  x[workgroup.y * shape.x_stride + k4] = embedded(row, position - window_start(position), k4);
}
