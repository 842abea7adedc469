// y[m, n] = activate(Σ_k W[n, k] · x[m, k] + bias[n]) + residual[m, n] for run.count rows of x from run.row on; or, where EPILOGUE is normalizer, the
// maximum and exponential sum of each row's products, 64 outputs at a time (normalizer.wgsl): logits that are never stored.
// x: f32 [rows, K padded]; codes, scales: packed [N, K]; aux: f32 gamma, beta [K padded] (unused here), bias [N]; residual, y: f32 [rows, y_stride], rows from 0.
// Where ACTIVATIONS is int8, codes meet codes, as exact integers, and outliers are added behind (Input of the CPU backend states the arithmetic).
// One workgroup of 64 threads computes 32 rows × 64 outputs, a thread 4 × 8; each weight is dequantized once per tile, into workgroup memory.
// Dispatch (⌈N / 64⌉, ⌈count / 32⌉). Oracle: test/reference/gpt2.ts, linear().
#import "step"
#import "matrix_shape"
@group(0) @binding(0) var<uniform> run: Step;
@group(0) @binding(1) var<uniform> shape: Shape;
#if ACTIVATIONS == int8
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
#if ACTIVATIONS == int8
#import "int8_dot"
#import "code_rows"
#endif
#if OUTLIERS
#import "outlier_rows"
#endif

const BM = 32u;
const BN = 64u;
const BK = 32u;
#if ACTIVATIONS == float || EPILOGUE == normalizer
var<workgroup> a_tile: array<vec4<f32>, BM * BK / 4u>; // [m][k / 4]
#endif
#if ACTIVATIONS == int8
var<workgroup> a_codes: array<vec4<u32>, BM * BK / 16u>; // [m][k / 16]
var<workgroup> b_codes: array<vec4<u32>, BN * BK / 16u>; // [k / 16][n]
#else
var<workgroup> b_tile: array<vec4<f32>, BN * BK / 4u>; // [k / 4][n]
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) t: u32) {
#if CODE == lut4
  load_table(t);
#endif
  let m0 = workgroup.y * BM;
  let tx = t & 7u;
  let ty = t >> 3u;
  var sums: array<vec4<f32>, 8>; // [n][m]
#if ACTIVATIONS == int8
  let x_stride = code_row_stride();
#if SCALE != group
  var exact: array<vec4<i32>, 8>; // integers as long as one scale serves the row
#endif
  for (var c0 = 0u; c0 < shape.chunks_per_row; c0 += BK / 16u) {
    let m = m0 + t / 2u;
    var own = vec4<u32>(0u);
    if (m < run.count) { own = x[(run.row + m) * x_stride + c0 + t % 2u]; }
    a_codes[t] = own;
    for (var i = t; i < BN * BK / 16u; i += 64u) { // row fastest, then tile of 8 rows, then chunk
      b_codes[i] = codes[((workgroup.x * 8u + ((i >> 3u) & 7u)) * shape.chunks_per_row + c0 + i / BN) * 8u + (i & 7u)];
    }
    workgroupBarrier();
    for (var chunk = 0u; chunk < BK / 16u; chunk++) {
      let a0 = a_codes[ty * 8u + chunk];
      let a1 = a_codes[ty * 8u + 2u + chunk];
      let a2 = a_codes[ty * 8u + 4u + chunk];
      let a3 = a_codes[ty * 8u + 6u + chunk];
#if ZERO != none
      let totals = vec4<i32>(sum16(a0), sum16(a1), sum16(a2), sum16(a3));
#endif
      for (var n = 0u; n < 8u; n++) {
        let b = b_codes[chunk * BN + n * 8u + tx];
        var product = vec4<i32>(dot16(a0, b), dot16(a1, b), dot16(a2, b), dot16(a3, b));
#if ZERO != none || SCALE == group
        let row = workgroup.x * BN + n * 8u + tx;
        let group = (c0 + chunk) / shape.chunks_per_group;
#endif
#if ZERO != none
        product -= zero_point(row, group) * totals;
#endif
#if SCALE == group
        sums[n] += vec4<f32>(product) * scale_at(row, group);
#else
        exact[n] += product;
#endif
      }
    }
    workgroupBarrier();
  }
  let rows = vec4<u32>(run.row) + min(vec4<u32>(m0 + ty * 4u) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(run.count - 1u));
  var x_scales: vec4<f32>;
  for (var j = 0u; j < 4u; j++) { x_scales[j] = bitcast<f32>(x[rows[j] * x_stride + code_words()].x); }
  for (var n = 0u; n < 8u; n++) {
#if SCALE == group
    sums[n] *= x_scales;
#else
    sums[n] = vec4<f32>(exact[n]) * x_scales;
#endif
  }
#if OUTLIERS
  for (var word = 0u; word < shape.x_stride / 8u; word++) {
    let masks = outlier_masks(rows, word);
    for (var rest = any_of(masks); rest != 0u; rest &= rest - 1u) {
      let k = 32u * word + firstTrailingBit(rest);
      let outliers = outliers_at(rows, masks, k);
      for (var n = 0u; n < 8u; n++) { sums[n] += outliers * outlier_weight(workgroup.x * BN + n * 8u + tx, k); }
    }
  }
#endif
#else
  for (var k4 = 0u; k4 < shape.x_stride; k4 += BK / 4u) {
    for (var i = t; i < BM * BK / 4u; i += 64u) {
      let m = m0 + i / (BK / 4u);
      var value = vec4<f32>(0.0);
      if (m < run.count) { value = x[(run.row + m) * shape.x_stride + k4 + i % (BK / 4u)]; }
      a_tile[i] = value;
    }
    for (var i = t; i < BN * BK / CHUNK; i += 64u) { // row fastest, then chunk, then tile of 8 rows
      let lane = i & 7u;
      let chunk = (i >> 3u) % (BK / CHUNK);
      let tile = (i >> 3u) / (BK / CHUNK);
      let c = k4 / (CHUNK / 4u) + chunk;
      let row = (workgroup.x * 8u + tile) * 8u + lane;
      let w = codes[((workgroup.x * 8u + tile) * shape.chunks_per_row + c) * 8u + lane];
#if SCALE == group || SCALE == nested
      let group = c / shape.chunks_per_group;
      let bias = zero_bias(row, group);
      let scale = scale_at(row, group);
#else
      let bias = zero_bias(row, 0u);
#endif
      for (var j = 0u; j < loop_bound(CHUNK / 4u); j++) {
#if SCALE == group || SCALE == nested
        let value = dequantize(w, j, bias) * scale;
#else
        let value = dequantize(w, j, bias);
#endif
        b_tile[(chunk * (CHUNK / 4u) + j) * BN + tile * 8u + lane] = value;
      }
    }
    workgroupBarrier();
    for (var kq = 0u; kq < loop_bound(BK / 4u); kq++) {
      let a0 = a_tile[(ty * 4u) * (BK / 4u) + kq];
      let a1 = a_tile[(ty * 4u + 1u) * (BK / 4u) + kq];
      let a2 = a_tile[(ty * 4u + 2u) * (BK / 4u) + kq];
      let a3 = a_tile[(ty * 4u + 3u) * (BK / 4u) + kq];
      for (var n = 0u; n < 8u; n++) {
        let b = b_tile[kq * BN + n * 8u + tx];
        sums[n] += vec4<f32>(dot(a0, b), dot(a1, b), dot(a2, b), dot(a3, b));
      }
    }
    workgroupBarrier();
  }
#endif
#if EPILOGUE == normalizer
#if SCALE == tensor || SCALE == channel
  for (var i = 0u; i < 8u; i++) { sums[i] *= scale_at(workgroup.x * BN + i * 8u + tx, 0u); }
#endif
  // a_tile is free now: [m][tx] of what each thread found in its 8 outputs of a row; then one thread per row joins 8 of them.
  for (var j = 0u; j < 4u; j++) {
    let m = ty * 4u + j;
    var logits: array<f32, 8>;
    for (var i = 0u; i < 8u; i++) { logits[i] = sums[i][j]; }
    a_tile[m * 8u + tx] = found_in(logits, workgroup.x * BN + tx, 8u, min(m0 + m, run.count - 1u));
  }
  workgroupBarrier();
  if (t < BM && m0 + t < run.count) {
    var found = NOTHING;
    for (var i = 0u; i < 8u; i++) { found = joined(found, a_tile[t * 8u + i]); }
    y[(m0 + t) * slots() + (shape.row_offset >> 6u) + workgroup.x] = found;
  }
#else
  for (var i = 0u; i < loop_bound(8u); i++) {
    let row = workgroup.x * BN + i * 8u + tx;
    for (var j = 0u; j < loop_bound(4u); j++) {
      let m = m0 + ty * 4u + j;
      if (m < run.count) { finish(row, m, sums[i][j]); }
    }
  }
#endif
}
