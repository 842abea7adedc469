// What happens to a row of x before the product: nothing, a layer norm, or the merge of attention's splits. The result is prepared[K padded / 4].
// Needs `run`, `shape`, `x`, `aux`, `loop_bound` and WG; where PROLOGUE is not none, prepare() must have run. A prologue takes the row run.row alone.
#if PROLOGUE != none
var<workgroup> prepared: array<vec4<f32>, PREPARED>;
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
#if ACTIVATIONS == int8
#import "int8_code"
#if PROLOGUE != layer_norm
#import "workgroup_sum"
#endif
#import "workgroup_max"
var<workgroup> input_codes: array<vec4<u32>, INPUT_CODES>; // the row as int8 codes, whose scale is input_scale
var<private> input_scale: f32;
#if OUTLIERS
var<workgroup> input_outliers: array<u32, INPUT_CODES / 2u>; // a bit per column
#endif

#if PROLOGUE == none
fn prepared_at(k4: u32) -> vec4<f32> { return x[run.row * shape.x_stride + k4]; }
#else
fn prepared_at(k4: u32) -> vec4<f32> { return prepared[k4]; }
#endif

fn quantize_input(t: u32) {
  var absmax = shape.input_range;
  if (absmax == 0.0) {
    var top = 0.0;
    for (var i = t; i < shape.x_stride; i += WG) { top = max(top, largest(prepared_at(i))); }
    absmax = workgroup_max(top, t);
  }
  let inverse = inverse_scale(absmax);
  input_scale = row_scale(absmax);
  for (var i = t; i < shape.x_stride / 4u; i += WG) {
    let k4 = 4u * i;
    input_codes[i] = vec4<u32>(code_word(prepared_at(k4), inverse), code_word(prepared_at(k4 + 1u), inverse), code_word(prepared_at(k4 + 2u), inverse), code_word(prepared_at(k4 + 3u), inverse));
  }
#if OUTLIERS
  for (var i = t; i < shape.x_stride / 8u; i += WG) {
    var mask = 0u;
    for (var j = 0u; j < loop_bound(8u); j++) { mask |= outlier_bits(prepared_at(8u * i + j)) << (4u * j); }
    input_outliers[i] = mask;
  }
#endif
  workgroupBarrier();
}
#endif
