// y[n] = activate(Σ_k W[n, k] · p(x)[k] + bias[n]) + residual[n], one row of x; p: nothing, layer norm, or the merge of attention's splits.
// x: f32 [rows, K padded] (splits: see attention_decode.wgsl); codes, scales: packed [N, K]; aux: f32 gamma [K padded], beta [K padded], bias [N]; y: f32 [N].
// One workgroup computes 8 · ROW_TILES outputs; STRIPES threads share a row, each taking every STRIPES-th chunk of it, so that neighbours
// read neighbouring bytes. Dispatch ⌈N / (8 · ROW_TILES)⌉.
// Where ACTIVATIONS is int8, the row becomes codes first, and its outliers are added behind the sum of its codes.
// Oracle: test/reference/gpt2.ts, linear().
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

var<workgroup> partials: array<f32, 8u * ROW_TILES * STRIPES>;

// Of output t of this workgroup, over the stripes.
fn sum_of_partials(t: u32) -> f32 {
  var sum = 0.0;
  for (var s = 0u; s < loop_bound(STRIPES); s++) { sum += partials[((t >> 3u) * STRIPES + s) * 8u + (t & 7u)]; }
  return sum;
}

#import "prologue"
#if ACTIVATIONS == int8
#import "int8_dot"
#endif
#if EPILOGUE == candidates
#import "candidates"
#endif
#if OUTLIERS

// Σ x_k · w_k over the outliers k of a stripe, words of 32 columns here, for one output.
fn outlier_product(row: u32, stripe: u32) -> f32 {
  var sum = 0.0;
  for (var word = stripe; word < shape.x_stride / 8u; word += STRIPES) {
    for (var rest = input_outliers[word]; rest != 0u; rest &= rest - 1u) {
      let k = 32u * word + firstTrailingBit(rest);
      sum += prepared_at(k >> 2u)[k & 3u] * outlier_weight(row, k);
    }
  }
  return sum;
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
#if ACTIVATIONS == int8
  quantize_input(t);
#endif
  // A pass covers WG / STRIPES rows; this thread's tile in it, and its stripe along K.
  let lane = t & 7u;
  let stripe = (t >> 3u) % STRIPES;
  let first_tile = workgroup.x * ROW_TILES;
  let tiles = min(ROW_TILES, (shape.rows + 7u) / 8u - first_tile);
  for (var i = (t >> 3u) / STRIPES; i < tiles; i += WG / 8u / STRIPES) {
    let tile = first_tile + i;
    let row = tile * 8u + lane;
    var sum = 0.0;
#if SCALE != group && SCALE != nested
    let bias = zero_bias(row, 0u);
#if ACTIVATIONS == int8
    var exact = 0; // an integer as long as one scale serves the row
#endif
#endif
    for (var c = stripe; c < shape.chunks_per_row; c += STRIPES) {
      let w = codes[(tile * shape.chunks_per_row + c) * 8u + lane];
#if SCALE == group || SCALE == nested
      let bias = zero_bias(row, c / shape.chunks_per_group);
#endif
#if ACTIVATIONS == int8
      var product = dot16(w, input_codes[c]);
#if ZERO != none
      product -= zero_point(row, c / shape.chunks_per_group) * sum16(input_codes[c]);
#endif
#if SCALE == group
      sum += f32(product) * scale_at(row, c / shape.chunks_per_group);
#else
      exact += product;
#endif
#else
      var s = 0.0;
      for (var j = 0u; j < loop_bound(CHUNK / 4u); j++) {
        let k4 = c * (CHUNK / 4u) + j;
#if PROLOGUE == none
        s += dot(dequantize(w, j, bias), x[run.row * shape.x_stride + k4]);
#else
        s += dot(dequantize(w, j, bias), prepared[k4]);
#endif
      }
#if SCALE == group || SCALE == nested
      s *= scale_at(row, c / shape.chunks_per_group);
#endif
      sum += s;
#endif
    }
#if ACTIVATIONS == int8 && SCALE != group
    sum = f32(exact);
#endif
    partials[(i * STRIPES + stripe) * 8u + lane] = sum;
  }
  workgroupBarrier();
  var total = 0.0;
  if (t < 8u * tiles) { total = sum_of_partials(t); }
#if ACTIVATIONS == int8
  total *= input_scale;
#endif
#if OUTLIERS
  workgroupBarrier();
  for (var i = (t >> 3u) / STRIPES; i < tiles; i += WG / 8u / STRIPES) { partials[(i * STRIPES + stripe) * 8u + lane] = outlier_product((first_tile + i) * 8u + lane, stripe); }
  workgroupBarrier();
  if (t < 8u * tiles) { total += sum_of_partials(t); }
#endif
  if (t < 8u * tiles) { finish((first_tile + (t >> 3u)) * 8u + lane, 0u, total); }
#if EPILOGUE == candidates
  offer(first_tile * 8u, workgroup.x, t);
#endif
}
