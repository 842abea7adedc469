// Activations as int8: a row's scale = absmax / 127, code = round(x · (127 / absmax)) half to even, −127 … 127; the CPU backend's Input does the same.
// Where OUTLIERS, values beyond a threshold count as 0 in all of it, and their products are added apart (int8_dot.wgsl). Needs `shape`.
// Below the smallest absmax 127 / absmax is no f32: such a row counts as zeros under the scale 1.
const SMALLEST_ABSMAX = 7.52316384526264e-37; // 2^-120

// 127 / absmax, 0 for a row of zeros.
fn inverse_scale(absmax: f32) -> f32 { return select(127.0 / max(absmax, SMALLEST_ABSMAX), 0.0, absmax < SMALLEST_ABSMAX); }

fn row_scale(absmax: f32) -> f32 { return select(absmax / 127.0, 1.0, absmax < SMALLEST_ABSMAX); }

// x without its outliers.
fn coded(x: vec4<f32>) -> vec4<f32> {
#if OUTLIERS
  return select(x, vec4<f32>(0.0), is_outlier(x));
#else
  return x;
#endif
}
#if OUTLIERS

fn is_outlier(x: vec4<f32>) -> vec4<bool> { return abs(x) >= vec4<f32>(shape.outlier_threshold); }

// A bit for each of four columns.
fn outlier_bits(x: vec4<f32>) -> u32 { return dot(select(vec4<u32>(0u), vec4<u32>(1u, 2u, 4u, 8u), is_outlier(x)), vec4<u32>(1u)); }
#endif

// Four codes in a word, the first in its lowest byte.
fn code_word(x: vec4<f32>, inverse: f32) -> u32 {
  let codes = vec4<u32>(vec4<i32>(clamp(round(coded(x) * inverse), vec4<f32>(-127.0), vec4<f32>(127.0)))) & vec4<u32>(0xffu);
  return codes.x | (codes.y << 8u) | (codes.z << 16u) | (codes.w << 24u);
}

fn largest(x: vec4<f32>) -> f32 {
  let a = abs(coded(x));
  return max(max(a.x, a.y), max(a.z, a.w));
}
