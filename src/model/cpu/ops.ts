import type { Activation } from "../../types.ts";
import type { CpuKernels } from "./kernels.ts";

/** y = (x − mean) / √(variance + epsilon) · weight + bias over each of T rows; x, y: f32 [T, C], may be one array; affine: f32 [2, C], weight and bias. */
export function layerNorm(x: Float32Array, y: Float32Array, T: number, C: number, affine: Float32Array, epsilon: number): void {
  for (let start = 0; start < T * C; start += C) {
    let sum = 0;
    for (let c = 0; c < C; c++) sum += x[start + c]!;
    const mean = sum / C;
    let squares = 0; // a second pass: GPT-2 has channels so large that E[x²] − mean² would lose the variance
    for (let c = 0; c < C; c++) {
      const centred = x[start + c]! - mean;
      squares += centred * centred;
    }
    const inverse = 1 / Math.sqrt(squares / C + epsilon);
    for (let c = 0; c < C; c++) y[start + c] = (x[start + c]! - mean) * inverse * affine[c]! + affine[C + c]!;
  }
}

/** x[i] = activation(x[i]) for i < count; x: f32. */
export function activate(activation: Activation, x: Float32Array, count: number): void {
  switch (activation) {
    case "gelu_new":
    case "gelu_pytorch_tanh":
      for (let i = 0; i < count; i++) x[i] = geluTanh(x[i]!);
      return;
    case "gelu":
      for (let i = 0; i < count; i++) x[i] = 0.5 * x[i]! * (1 + erf(x[i]! * Math.SQRT1_2));
      return;
    case "relu":
      for (let i = 0; i < count; i++) x[i] = Math.max(0, x[i]!);
  }
}

/** x · (1 + tanh(u)) / 2 with u = √(2/π) · (x + 0.044715 x³), in the form that the shaders use (design §6). */
function geluTanh(x: number): number {
  const u = Math.min(9, Math.max(-9, 0.7978845608028654 * (x + 0.044715 * x * x * x)));
  return x * (1 - 1 / (1 + Math.exp(2 * u)));
}

/** |error| ≤ 1.5e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26. */
function erf(x: number): number {
  const a = Math.abs(x);
  const t = 1 / (1 + 0.3275911 * a);
  const tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * Math.exp(-a * a);
  return x < 0 ? tail - 1 : 1 - tail;
}

/** Row t becomes softmax(scale · row) over its first start + t + 1 values and zero behind them; scores: f32 [T, stride]. */
export function causalSoftmax(kernels: CpuKernels, scores: Float32Array, T: number, stride: number, start: number, scale: number): void {
  for (let t = 0; t < T; t++) {
    kernels.softmax(scores, t * stride, start + t + 1, scale);
    scores.fill(0, t * stride + start + t + 1, (t + 1) * stride);
  }
}

/** y[t, o] += bias[o] for o < O; y: f32 [T, O]. */
export function addBias(y: Float32Array, T: number, O: number, bias: Float32Array): void {
  for (let start = 0; start < T * O; start += O) {
    for (let o = 0; o < O; o++) y[start + o]! += bias[o]!;
  }
}

/** x[i] += y[i] for i < count; f32. */
export function addResidual(x: Float32Array, y: Float32Array, count: number): void {
  for (let i = 0; i < count; i++) x[i]! += y[i]!;
}
