// y[m, n] = activate(Σ_k W[n, k] · p(x)[m, k] + bias[n]) + residual[m, n]: gemm (ROWS 8, p nothing) and gemv (ROWS 1) in registers alone, for software
// adapters, where a barrier costs more than reading x again. Where EPILOGUE is normalizer: see gemm.wgsl, 8 · WG outputs at a time.
// x: f32 [rows, K padded], from run.row on (splits: see attention_decode.wgsl); codes, scales: packed [N, K]; aux: f32 gamma, beta [K padded], bias [N];
// residual, y: f32 [rows, y_stride], rows from 0.
// One invocation computes ROWS rows of the 8 outputs of one tile. LANES neighbours of a subgroup share the reading of x: each reads ROWS / LANES rows and
// broadcasts them; without SUBGROUPS each reads all rows itself. Dispatch (⌈N / 8 / WG⌉, ⌈count / ROWS⌉). Oracle: test/reference/gpt2.ts, linear().
#if SUBGROUPS
enable subgroups;
#endif
#import "step"
#import "matrix_shape"
@group(0) @binding(0) var<uniform> run: Step;
@group(0) @binding(1) var<uniform> shape: Shape;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> scales: array<u32>;
#import "output"
#import "matrix"
#import "loop_bound"
#import "finish"
#import "prologue"
#if EPILOGUE == normalizer
var<workgroup> found_by: array<vec4<f32>, ROWS * WG>; // [m][t]
#endif

@compute @workgroup_size(WG)
#if SUBGROUPS
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) t: u32, @builtin(subgroup_invocation_id) lane: u32) {
#else
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let lane = 0u;
#endif
#if CODE == lut4 && TABLE == lanes
  load_table(lane);
#elif CODE == lut4
  load_table(t);
#endif
#if PROLOGUE != none
  prepare(t);
#endif
  let row = (workgroup.x * WG + t) * 8u;
  let known_row = min(row, (shape.rows - 1u) & ~7u); // every lane takes part in the broadcasts, also those behind the last tile
  let m0 = workgroup.y * ROWS;
#repeat r READS
  let x$r = (run.row + min(m0 + $ru * LANES + lane % LANES, run.count - 1u)) * shape.x_stride;
#endrepeat
#repeat n 8
#repeat r READS
#repeat l LANES
  var sum$n_$r$l = 0.0;
#endrepeat
#endrepeat
#if SCALE != group && SCALE != nested
  let bias$n = zero_bias(known_row + $nu, 0u);
#endif
#endrepeat
  for (var c = 0u; c < shape.chunks_per_row; c++) {
    let chunk = (known_row >> 3u) * shape.chunks_per_row * 8u + c * 8u;
#if SCALE == group || SCALE == nested
    let group = c / shape.chunks_per_group;
#repeat n 8
    let bias$n = zero_bias(known_row + $nu, group);
    let scale$n = scale_at(known_row + $nu, group);
#endrepeat
#endif
    for (var j = 0u; j < loop_bound(CHUNK / 4u); j++) {
      let k4 = c * (CHUNK / 4u) + j;
#repeat r READS
#if PROLOGUE == none
      let read$r = x[x$r + k4];
#else
      let read$r = prepared[k4];
#endif
#repeat l LANES
#if LANES > 1
      let x$r$l = subgroupBroadcast(read$r, $lu);
#else
      let x$r$l = read$r;
#endif
#endrepeat
#endrepeat
#repeat n 8
#if SCALE == group || SCALE == nested
      let w$n = dequantized(chunk + $nu, j, bias$n) * scale$n;
#else
      let w$n = dequantized(chunk + $nu, j, bias$n);
#endif
#repeat r READS
#repeat l LANES
      sum$n_$r$l += dot(w$n, x$r$l);
#endrepeat
#endrepeat
#endrepeat
    }
  }
  var sums: array<f32, 8u * ROWS>;
#repeat n 8
#repeat r READS
#repeat l LANES
  sums[($ru * LANES + $lu) * 8u + $nu] = sum$n_$r$l;
#endrepeat
#endrepeat
#endrepeat
  let rows = min(run.count - m0, ROWS);
#if EPILOGUE == normalizer
  for (var m = 0u; m < rows; m++) {
    var products: array<f32, 8>;
    for (var n = 0u; n < loop_bound(8u); n++) { products[n] = sums[m * 8u + n]; }
    found_by[m * WG + t] = found_in(products, row, 1u, m0 + m);
  }
  workgroupBarrier();
  if (t < rows) {
    var found = NOTHING;
    for (var i = 0u; i < loop_bound(WG); i++) { found = joined(found, found_by[t * WG + i]); }
    y[(m0 + t) * slots() + (shape.row_offset >> 6u) + workgroup.x] = found;
  }
#else
  for (var i = 0u; i < 8u * rows; i++) { finish(row + (i & 7u), m0 + (i >> 3u), sums[i]); }
#endif
}
