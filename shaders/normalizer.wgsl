// Online log-sum-exp of a row of logits l: (maximum m, Σ e^(l − m), l[expected], index of m) of some of them, joined pairwise in a fixed order
// (Milakov & Gimelshein, arXiv:1805.02867). What is not there yet has Σ = 0.
const NOTHING = vec4<f32>(-3.0e38, 0.0, -3.0e38, 3.0e38);

fn joined(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  let top = max(a.x, b.x);
  let index = select(b.w, a.w, a.x > b.x || (a.x == b.x && a.w < b.w)); // the lowest index wins a tie
  return vec4<f32>(top, a.y * exp(a.x - top) + b.y * exp(b.x - top), max(a.z, b.z), index);
}

// Results of 64 outputs each, at most, for a row of x: what the product writes per row.
fn slots() -> u32 { return (shape.y_stride + 63u) / 64u; }
#if EPILOGUE == normalizer

// What is found in 8 logits of row m of x: those of the outputs first, first + step, … of this part.
fn found_in(values: array<f32, 8>, first: u32, step: u32, m: u32) -> vec4<f32> {
  var logits = values;
  var found = NOTHING;
  let target_row = expected[m] - shape.row_offset; // of this part; wraps below it
  for (var i = 0u; i < loop_bound(8u); i++) {
    let row = first + i * step;
    if (row >= shape.rows) { break; }
    if (logits[i] > found.x) {
      found.x = logits[i];
      found.w = f32(shape.row_offset + row);
    }
    if (row == target_row) { found.z = logits[i]; }
  }
  for (var i = 0u; i < loop_bound(8u); i++) {
    if (first + i * step >= shape.rows) { break; }
    found.y += exp(logits[i] - found.x);
  }
  return found;
}
#endif
