// Standard Gumbel noise of a random word w: −ln(−ln(1 − u)), u = (w + ½) / 2³². Not by WGSL's log, which near 1 may be off by 2⁻²¹, whatever the result.

// ln((1 + z) / (1 − z)) for |z| ≤ 0.172: the next term is below 2⁻²⁸ of the result.
fn log_ratio(z: f32) -> f32 {
  let s = z * z;
  return 2.0 * z * (1.0 + s * (0.33333333 + s * (0.2 + s * (0.14285714 + s * 0.11111111))));
}

// For normal x > 0: x = m · 2ᵏ with m from √½ to √2.
fn natural_log(x: f32) -> f32 {
  let k = (bitcast<i32>(x) - 0x3f3504f3) >> 23u;
  let m = bitcast<f32>(bitcast<i32>(x) - (k << 23u));
  return f32(k) * 0.69314718 + log_ratio((m - 1.0) / (m + 1.0));
}

fn gumbel(word: u32) -> f32 {
  let above = (f32(word) + 0.5) * 2.3283064365386963e-10; // u
  let below = (f32(~word) + 0.5) * 2.3283064365386963e-10; // 1 − u
  var exponential = 0.0; // −ln(1 − u)
  if (word < 0x40000000u) { exponential = log_ratio(above / (2.0 - above)); } else { exponential = -natural_log(below); }
  return -natural_log(exponential);
}
