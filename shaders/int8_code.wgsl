// Activations as int8: a row's scale = absmax / 127, code = round(x · (127 / absmax)) half to even, −127 … 127; the CPU backend's Input does the same.
// Below the smallest absmax 127 / absmax is no f32: such a row counts as zeros under the scale 1.
const SMALLEST_ABSMAX = 7.52316384526264e-37; // 2^-120

// 127 / absmax, 0 for a row of zeros.
fn inverse_scale(absmax: f32) -> f32 { return select(127.0 / max(absmax, SMALLEST_ABSMAX), 0.0, absmax < SMALLEST_ABSMAX); }

fn row_scale(absmax: f32) -> f32 { return select(absmax / 127.0, 1.0, absmax < SMALLEST_ABSMAX); }

// Four codes in a word, the first in its lowest byte.
fn code_word(x: vec4<f32>, inverse: f32) -> u32 {
  let codes = vec4<u32>(vec4<i32>(clamp(round(x * inverse), vec4<f32>(-127.0), vec4<f32>(127.0)))) & vec4<u32>(0xffu);
  return codes.x | (codes.y << 8u) | (codes.z << 16u) | (codes.w << 24u);
}

fn largest(x: vec4<f32>) -> f32 {
  let a = abs(x);
  return max(max(a.x, a.y), max(a.z, a.w));
}
