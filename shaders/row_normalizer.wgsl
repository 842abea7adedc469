// Joins what the normalizer epilogue of the head's product found, slot by slot, into one result per row (see normalizer.wgsl).
// found: vec4 [count][slots]; y: vec4 [count] = (max m, Σ e^(l − m), l[expected], index of the max): ln p(expected) = l[expected] − m − ln Σ.
// One workgroup per row; dispatch count. Oracle: test/reference/gpt2.ts, logSoftmax().
#import "matrix_shape"
@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> found: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;
#import "normalizer"

const WG = 32u;
var<workgroup> parts: array<vec4<f32>, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  var own = NOTHING;
  for (var i = t; i < slots(); i += WG) {
    let slot = found[workgroup.x * slots() + i];
    if (slot.y > 0.0) { own = joined(own, slot); } // a part of the matrix may leave slots unwritten
  }
  parts[t] = own;
  workgroupBarrier();
  if (t == 0u) {
    for (var i = 1u; i < WG; i++) { own = joined(own, parts[i]); }
    y[workgroup.x] = own;
  }
}
