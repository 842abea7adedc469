// y[m, n] = activate(Σ_k W[n, k] · p(x)[m, k] + bias[n]) + residual[m, n]: gemm (ROWS 8, p nothing) and gemv (ROWS 1) in registers alone, for software
// adapters, where a barrier costs more than reading x again. Where EPILOGUE is normalizer: see gemm.wgsl, 8 · WG outputs at a time.
// x: f32 [rows, K padded], from run.row on (splits: see attention_decode.wgsl); codes, scales: packed [N, K]; aux: f32 gamma, beta [K padded], bias [N];
// residual, y: f32 [rows, y_stride], rows from 0. Where ACTIVATIONS is int8, x is quantized on the way (gemv) or was by quantize_rows.wgsl (PROLOGUE codes),
// and outliers are added behind the sum of the codes.
// One invocation computes ROWS rows of the 8 outputs of one tile. LANES neighbours of a subgroup share the reading of x: each reads ROWS / LANES rows and
// broadcasts them; without SUBGROUPS each reads all rows itself. Dispatch (⌈N / 8 / WG⌉, ⌈count / ROWS⌉). Oracle: test/reference/gpt2.ts, linear().
#if SUBGROUPS
enable subgroups;
#endif
#import "step"
#import "matrix_shape"
@group(0) @binding(0) var<uniform> run: Step;
@group(0) @binding(1) var<uniform> shape: Shape;
#if ACTIVATIONS == int8 && PROLOGUE == codes
@group(0) @binding(2) var<storage, read> x: array<vec4<u32>>; // what quantize_rows.wgsl wrote
#else
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
#endif
@group(0) @binding(3) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> scales: array<u32>;
#import "output"
#import "matrix"
#import "loop_bound"
#import "finish"
#if PROLOGUE != codes
#import "prologue"
#endif
#if ACTIVATIONS == int8
#import "int8_dot"
#import "code_rows"
#endif
#if OUTLIERS && PROLOGUE == codes
#import "outlier_rows"
#endif
#if EPILOGUE == normalizer
var<workgroup> found_by: array<vec4<f32>, ROWS * WG>; // [m][t]
#endif

#if ACTIVATIONS == int8
fn zero_at(row: u32, group: u32) -> i32 { return zero_point(row, group); }
#else
fn zero_at(row: u32, group: u32) -> f32 { return zero_bias(row, group); }
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
#if PROLOGUE == layer_norm || PROLOGUE == merge
  prepare(t);
#endif
#if ACTIVATIONS == int8 && PROLOGUE != codes
  quantize_input(t);
#endif
  let row = (workgroup.x * WG + t) * 8u;
  let known_row = min(row, (shape.rows - 1u) & ~7u); // every lane takes part in the broadcasts, also those behind the last tile
  let m0 = workgroup.y * ROWS;
#if PROLOGUE == codes
  let x_stride = code_row_stride();
#else
  let x_stride = shape.x_stride;
#endif
#repeat r READS
  let x$r = (run.row + min(m0 + $ru * LANES + lane % LANES, run.count - 1u)) * x_stride;
#endrepeat
#repeat n 8
#repeat r READS
#repeat l LANES
#if ACTIVATIONS == int8 && SCALE != group
  var sum$n_$r$l = 0; // exact, as long as one scale serves the row
#else
  var sum$n_$r$l = 0.0;
#endif
#endrepeat
#endrepeat
#endrepeat
  var scale_of: array<f32, 8>; // of this tile's outputs, as far as a group has its own
#if ACTIVATIONS == int8
  var zero_of: array<i32, 8>;
#else
  var zero_of: array<f32, 8>;
#endif
#if SCALE != group && SCALE != nested
  for (var n = 0u; n < loop_bound(8u); n++) { zero_of[n] = zero_at(known_row + n, 0u); }
#endif
  for (var c = 0u; c < shape.chunks_per_row; c++) {
    let chunk = (known_row >> 3u) * shape.chunks_per_row * 8u + c * 8u;
#if SCALE == group || SCALE == nested
    let group = c / shape.chunks_per_group;
    for (var n = 0u; n < loop_bound(8u); n++) {
      zero_of[n] = zero_at(known_row + n, group);
      scale_of[n] = scale_at(known_row + n, group);
    }
#endif
#if ACTIVATIONS == int8
#repeat r READS
#if PROLOGUE == codes
    let read$r = x[x$r + c];
#else
    let read$r = input_codes[c];
#endif
#endrepeat
#import "share_rows"
#if ZERO != none
#repeat r READS
#repeat l LANES
    let total$r$l = sum16(x$r$l);
#endrepeat
#endrepeat
#endif
#repeat n 8
    let w$n = codes[chunk + $nu];
#repeat r READS
#repeat l LANES
    var product$n_$r$l = dot16(w$n, x$r$l);
#if ZERO != none
    product$n_$r$l -= zero_of[$n] * total$r$l;
#endif
#if SCALE == group
    sum$n_$r$l += f32(product$n_$r$l) * scale_of[$n];
#else
    sum$n_$r$l += product$n_$r$l;
#endif
#endrepeat
#endrepeat
#endrepeat
#else
#repeat n 8
    let w$n = codes[chunk + $nu];
#endrepeat
#if CODE == int8 && ROWS == 1
#repeat q 4
    {
      const j = $qu; // not a loop: knowing which word of a chunk is meant saves SwiftShader a sixth of a gemv
#import "tile_products"
    }
#endrepeat
#else
    for (var j = 0u; j < loop_bound(CHUNK / 4u); j++) {
#import "tile_products"
    }
#endif
#endif
  }
  var sums: array<f32, 8u * ROWS>;
#repeat n 8
#repeat r READS
#repeat l LANES
  sums[($ru * LANES + $lu) * 8u + $nu] = f32(sum$n_$r$l);
#endrepeat
#endrepeat
#endrepeat
  let rows = min(run.count - m0, ROWS);
#if ACTIVATIONS == int8
  for (var i = 0u; i < 8u * rows; i++) {
#if PROLOGUE == codes
    sums[i] *= bitcast<f32>(x[(run.row + m0 + (i >> 3u)) * x_stride + code_words()].x);
#else
    sums[i] *= input_scale;
#endif
  }
#endif
#if OUTLIERS && PROLOGUE == codes
  for (var m = 0u; m < rows; m += 4u) {
    let four = vec4<u32>(run.row + m0) + min(vec4<u32>(m) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(rows - 1u));
    for (var word = 0u; word < shape.x_stride / 8u; word++) {
      let masks = outlier_masks(four, word);
      for (var rest = any_of(masks); rest != 0u; rest &= rest - 1u) {
        let k = 32u * word + firstTrailingBit(rest);
        let outliers = outliers_at(four, masks, k);
        for (var n = 0u; n < loop_bound(8u); n++) {
          let products = outliers * outlier_weight(known_row + n, k);
          for (var j = 0u; j < loop_bound(4u); j++) { sums[(m + j) * 8u + n] += products[j]; }
        }
      }
    }
  }
#elif OUTLIERS
  for (var word = 0u; word < shape.x_stride / 8u; word++) {
    for (var rest = input_outliers[word]; rest != 0u; rest &= rest - 1u) {
      let k = 32u * word + firstTrailingBit(rest);
      for (var n = 0u; n < loop_bound(8u); n++) { sums[n] += prepared_at(k >> 2u)[k & 3u] * outlier_weight(known_row + n, k); }
    }
  }
#endif
#if EPILOGUE == normalizer
#if SCALE == tensor || SCALE == channel
  for (var n = 0u; n < loop_bound(8u); n++) { scale_of[n] = scale_at(known_row + n, 0u); }
#endif
  for (var m = 0u; m < rows; m++) {
    var logits: array<f32, 8>;
    for (var n = 0u; n < loop_bound(8u); n++) {
#if SCALE == tensor || SCALE == channel
      logits[n] = sums[m * 8u + n] * scale_of[n];
#else
      logits[n] = sums[m * 8u + n];
#endif
    }
    found_by[m * WG + t] = found_in(logits, row, 1u, m0 + m);
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
