// y[n] = activate(Σ_k W[n, k] · p(x)[k] + bias[n]) + residual[n], one row of x; p: nothing, layer norm, or the merge of attention's splits.
// x: f32 [rows, K padded] (splits: see attention_decode.wgsl); codes, scales: packed [N, K]; aux: f32 gamma [K padded], beta [K padded], bias [N]; y: f32 [N].
// One workgroup computes 8 · ROW_TILES outputs; STRIPES threads share a row, each taking every STRIPES-th chunk of it. Real GPUs want 8
// stripes, so that neighbours read neighbouring bytes; software adapters 1, which needs no barrier. Dispatch ⌈N / (8 · ROW_TILES)⌉.
// Oracle: test/reference/gpt2.ts, linear().
#import "step"
#import "matrix_shape"
@group(0) @binding(0) var<uniform> run: Step;
@group(0) @binding(1) var<uniform> shape: Shape;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> scales: array<u32>;
@group(0) @binding(5) var<storage, read> aux: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> residual: array<f32>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;
#import "matrix"
#import "loop_bound"
#import "activation"

#if STRIPES > 1
var<workgroup> partials: array<f32, 8u * ROW_TILES * STRIPES>;
#endif

#if PROLOGUE == none
fn input(k4: u32) -> vec4<f32> { return x[run.row * shape.x_stride + k4]; }
#else
var<workgroup> prepared: array<vec4<f32>, PREPARED>;
fn input(k4: u32) -> vec4<f32> { return prepared[k4]; }
#endif

#if PROLOGUE == layer_norm
#import "row_moments"

// prepared = (x − mean) / √(variance + ε) · gamma + beta.
fn prepare(t: u32) {
  let first = run.row * shape.x_stride;
  let moments = row_moments(first, t);
  for (var i = t; i < shape.x_stride; i += WG) { prepared[i] = (x[first + i] - moments.x) * moments.y * aux[i] + aux[shape.x_stride + i]; }
  workgroupBarrier();
}
#elif PROLOGUE == merge
// prepared[h, d] = Σ_s e^(m_s − m) o_s[d] / Σ_s e^(m_s − m) l_s over the splits s of head h.
fn prepare(t: u32) {
  let chunks = (shape.head_size + 3u) / 4u;
  for (var i = t; i < shape.x_stride; i += WG) {
    var value = vec4<f32>(0.0);
    for (var j = 0u; j < loop_bound(4u); j++) {
      let k = 4u * i + j;
      if (k >= shape.columns) { break; }
      let head = k / shape.head_size;
      let d = k % shape.head_size;
      var top = -3.0e38;
      for (var s = 0u; s < run.splits; s++) { top = max(top, x[(head * shape.max_splits + s) * (chunks + 1u) + chunks].x); }
      var numerator = 0.0;
      var denominator = 0.0;
      for (var s = 0u; s < run.splits; s++) {
        let at = (head * shape.max_splits + s) * (chunks + 1u);
        let state = x[at + chunks];
        let weight = exp(state.x - top);
        numerator += weight * x[at + (d >> 2u)][d & 3u];
        denominator += weight * state.y;
      }
      value[j] = numerator / denominator;
    }
    prepared[i] = value;
  }
  workgroupBarrier();
}
#endif

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) t: u32) {
#if CODE == lut4
  load_table(t);
#endif
#if PROLOGUE != none
  prepare(t);
#endif
  // A pass covers WG / STRIPES rows; this thread's tile in it, and its stripe along K.
  let lane = t & 7u;
  let stripe = (t >> 3u) % STRIPES;
  let first_tile = workgroup.x * ROW_TILES;
  let tiles = min(ROW_TILES, (shape.rows + 7u) / 8u - first_tile);
  for (var i = (t >> 3u) / STRIPES; i < tiles; i += WG / 8u / STRIPES) {
    let tile = first_tile + i;
    let row = tile * 8u + lane;
#if SCALE == group || SCALE == nested
#else
    let bias = zero_bias(row, 0u);
#endif
    var sum = 0.0;
    for (var c = stripe; c < shape.chunks_per_row; c += STRIPES) {
      let w = codes[(tile * shape.chunks_per_row + c) * 8u + lane];
#if SCALE == group || SCALE == nested
      let bias = zero_bias(row, c / shape.chunks_per_group);
#endif
      var s = 0.0;
      for (var j = 0u; j < loop_bound(CHUNK / 4u); j++) { s += dot(dequantize(w, j, bias), input(c * (CHUNK / 4u) + j)); }
#if SCALE == group || SCALE == nested
      s *= scale_at(row, c / shape.chunks_per_group);
#endif
      sum += s;
    }
#if STRIPES == 1
    finish(row, sum);
  }
#else
    partials[(i * STRIPES + stripe) * 8u + lane] = sum;
  }
  workgroupBarrier();
  if (t < 8u * tiles) {
    var sum = 0.0;
    for (var s = 0u; s < loop_bound(STRIPES); s++) { sum += partials[((t >> 3u) * STRIPES + s) * 8u + lane]; }
    finish((first_tile + (t >> 3u)) * 8u + lane, sum);
  }
#endif
}

// Scale, bias, activation and residual of one output.
fn finish(row: u32, product: f32) {
  if (row >= shape.rows) { return; }
  let n = shape.row_offset + row;
  var value = product;
#if SCALE == tensor || SCALE == channel
  value *= scale_at(row, 0u);
#endif
#if BIAS
  value += aux[shape.bias_base + (n >> 2u)][n & 3u];
#endif
  value = activate(value);
#if RESIDUAL
  value += residual[n];
#endif
  y[n] = value;
}
