// Adds a chunk of rows to what is known of x: max |x| and Σ |x| of each column, and how many magnitudes of all columns lie in each bin, by the bit
// operations of quantize/inputStatistics.ts. As an integer NaN is larger than infinity, so that the maximum keeps it.
// x: f32 [count, K padded]; y: u32 [K] bits of the maxima, [K] bits of the f32 sums, [BINS] counts.
// One invocation takes a column through all rows; dispatch ⌈K / WG⌉. Oracle: test/reference/gpt2.ts, inputStatistics().
#import "step"
#import "matrix_shape"
@group(0) @binding(0) var<uniform> run: Step;
@group(0) @binding(1) var<uniform> shape: Shape;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<atomic<u32>>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let k = id.x;
  let columns = shape.columns;
  if (k >= columns) { return; }
  var top = 0u;
  var sum = 0.0;
  for (var m = 0u; m < run.count; m++) {
    let magnitude = abs(x[m * 4u * shape.x_stride + k]);
    let bits = bitcast<u32>(magnitude);
    top = max(top, bits);
    sum += magnitude;
    atomicAdd(&y[2u * columns + clamp(bits >> BIN_SHIFT, FIRST_BIN, FIRST_BIN + BINS - 1u) - FIRST_BIN], 1u);
  }
  atomicMax(&y[k], top);
  atomicStore(&y[columns + k], bitcast<u32>(bitcast<f32>(atomicLoad(&y[columns + k])) + sum)); // of this invocation alone
}
