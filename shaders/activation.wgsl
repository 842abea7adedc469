#if ACTIVATION == gelu_new
// x · (1 − 1 / (1 + e^2u)), u = √(2/π) (x + 0.044715 x³): tanh's form without tanh, which overflows to NaN on some drivers.
fn activate(x: f32) -> f32 {
  let u = clamp(0.7978845608028654 * (x + 0.044715 * x * x * x), -9.0, 9.0);
  return x * (1.0 - 1.0 / (1.0 + exp(2.0 * u)));
}
#elif ACTIVATION == gelu
// x · Φ(x), with erf by Abramowitz & Stegun 7.1.26 (absolute error below 1.5e-7).
fn activate(x: f32) -> f32 {
  let z = min(abs(x) * 0.7071067811865476, 6.0);
  let t = 1.0 / (1.0 + 0.3275911 * z);
  let erfc = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * exp(-z * z);
  return x * select(1.0 - 0.5 * erfc, 0.5 * erfc, x < 0.0);
}
#elif ACTIVATION == relu
fn activate(x: f32) -> f32 { return max(x, 0.0); }
#else
fn activate(x: f32) -> f32 { return x; }
#endif
