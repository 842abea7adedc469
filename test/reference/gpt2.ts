/**
 * GPT-2 in float64, written to be read: the oracle that every kernel and backend is judged by.
 *
 * Dimensions: T tokens, C = nEmbd, H heads, D = C / H, I = nInner, V vocabulary. All arrays are row-major.
 * Linear weights are [outputs, inputs]: what a checkpoint stores as Conv1D [inputs, outputs] arrives here transposed.
 */
import type { Activation, Gpt2Config, PerplexityOptions } from "../../src/types.ts";

export interface ReferenceTensor {
  shape: readonly number[];
  values: Float32Array | Float64Array; // [product of shape]
}
/** By checkpoint name without `transformer.`; without `lm_head.weight` the head is `wte.weight`. */
export type ReferenceWeights = ReadonlyMap<string, ReferenceTensor>;

export interface ReferenceOptions {
  /** Rounds one head's key or value of one position in place, f64 [D]: what a f16 or int8 KV cache does to it. */
  kvRounding?: (values: Float64Array) => void;
  /** Rounds one token's input of a matrix in place, f64 [K]: what int8 activations do to it. */
  inputRounding?: (values: Float64Array, tensorName: string) => void;
  /** Is shown the input of each block's linear matrices and of the head, f64 [T, K], before any rounding. */
  onInput?: (name: string, x: Float64Array) => void;
}

/** f64 [T, C]: the final hidden states, after lnF. */
export function referenceHidden(config: Gpt2Config, weights: ReferenceWeights, tokens: readonly number[], { kvRounding, inputRounding, onInput }: ReferenceOptions = {}): Float64Array {
  const { nLayer, nEmbd: C, nInner: I } = config;
  const T = tokens.length;
  const tensor = (name: string): ReferenceTensor["values"] => tensorNamed(weights, name);

  const wte = tensor("wte.weight"); // [V, C]
  const wpe = tensor("wpe.weight"); // [nPositions, C]
  const x = new Float64Array(T * C); // residual stream [T, C]
  for (let t = 0; t < T; t++) {
    for (let c = 0; c < C; c++) x[t * C + c] = wte[tokens[t]! * C + c]! + wpe[t * C + c]!;
  }

  const take = (name: string, input: Float64Array): void => {
    onInput?.(name, input);
    roundRows(input, T, name, inputRounding);
  };

  for (let layer = 0; layer < nLayer; layer++) {
    const h = `h.${layer}`;
    const normed1 = layerNorm(x, T, C, tensor(`${h}.ln_1.weight`), tensor(`${h}.ln_1.bias`), config.layerNormEpsilon); // [T, C]
    take(`${h}.attn.c_attn.weight`, normed1);
    const qkv = linear(normed1, T, C, 3 * C, tensor(`${h}.attn.c_attn.weight`), tensor(`${h}.attn.c_attn.bias`)); // [T, 3C]
    const attended = attention(qkv, T, config, layer, kvRounding); // [T, C]
    take(`${h}.attn.c_proj.weight`, attended);
    addTo(x, linear(attended, T, C, C, tensor(`${h}.attn.c_proj.weight`), tensor(`${h}.attn.c_proj.bias`)));

    const normed2 = layerNorm(x, T, C, tensor(`${h}.ln_2.weight`), tensor(`${h}.ln_2.bias`), config.layerNormEpsilon); // [T, C]
    take(`${h}.mlp.c_fc.weight`, normed2);
    const inner = linear(normed2, T, C, I, tensor(`${h}.mlp.c_fc.weight`), tensor(`${h}.mlp.c_fc.bias`)); // [T, I]
    for (let i = 0; i < inner.length; i++) inner[i] = activate(config.activation, inner[i]!);
    take(`${h}.mlp.c_proj.weight`, inner);
    addTo(x, linear(inner, T, I, C, tensor(`${h}.mlp.c_proj.weight`), tensor(`${h}.mlp.c_proj.bias`)));
  }
  const hidden = layerNorm(x, T, C, tensor("ln_f.weight"), tensor("ln_f.bias"), config.layerNormEpsilon);
  onInput?.(headName(config), hidden);
  return hidden;
}

/** f64 [rows.length, V]: logits after tokens[0…row] for each of `rows`; all T rows unless told. */
export function referenceLogits(
  config: Gpt2Config,
  weights: ReferenceWeights,
  tokens: readonly number[],
  options: ReferenceOptions & { rows?: readonly number[] } = {},
): Float64Array {
  const { nEmbd: C, vocabSize: V } = config;
  const rows = options.rows ?? tokens.map((_, t) => t);
  const hidden = referenceHidden(config, weights, tokens, options);
  roundRows(hidden, tokens.length, headName(config), options.inputRounding);
  const logits = new Float64Array(rows.length * V);
  rows.forEach((row, i) => logits.set(headLogits(config, weights, hidden.subarray(row * C, (row + 1) * C)), i * V));
  return logits;
}

/** f64 [V]: the output head on one hidden state, f64 [C]. */
export function headLogits(config: Gpt2Config, weights: ReferenceWeights, hidden: Float64Array): Float64Array {
  const head = tensorNamed(weights, headName(config)); // [V, C]
  return linear(hidden, 1, config.nEmbd, config.vocabSize, head, null);
}

/** ids of the greedy continuation of `tokens`; the lowest id wins a tie. Recomputes everything for every token. */
export function referenceGreedy(config: Gpt2Config, weights: ReferenceWeights, tokens: readonly number[], newTokens: number): number[] {
  const all = [...tokens];
  for (let i = 0; i < newTokens; i++) {
    all.push(argmax(referenceLogits(config, weights, all, { rows: [all.length - 1] })));
  }
  return all.slice(tokens.length);
}

// ---------------------------------------------------------------- the parts

/** y = (x − mean) / √(variance + epsilon) · weight + bias over each row of C values; f64 [T, C]. */
function layerNorm(x: Float64Array, T: number, C: number, weight: ReferenceTensor["values"], bias: ReferenceTensor["values"], epsilon: number): Float64Array {
  const y = new Float64Array(T * C);
  for (let t = 0; t < T; t++) {
    let mean = 0;
    for (let c = 0; c < C; c++) mean += x[t * C + c]!;
    mean /= C;
    let variance = 0;
    for (let c = 0; c < C; c++) variance += (x[t * C + c]! - mean) ** 2;
    variance /= C;
    const inverse = 1 / Math.sqrt(variance + epsilon);
    for (let c = 0; c < C; c++) y[t * C + c] = (x[t * C + c]! - mean) * inverse * weight[c]! + bias[c]!;
  }
  return y;
}

/** y = x · weightᵀ + bias; x f64 [T, K], weight [O, K], bias [O] or none; f64 [T, O]. */
function linear(x: Float64Array, T: number, K: number, O: number, weight: ReferenceTensor["values"], bias: ReferenceTensor["values"] | null): Float64Array {
  const y = new Float64Array(T * O);
  for (let o = 0; o < O; o++) {
    for (let t = 0; t < T; t++) {
      y[t * O + o] = dot(x, t * K, weight, o * K, K) + (bias ? bias[o]! : 0);
    }
  }
  return y;
}

/** Rounds each of T rows of x, the input of a matrix. */
function roundRows(x: Float64Array, T: number, tensorName: string, rounding: ReferenceOptions["inputRounding"]): void {
  const K = x.length / T;
  for (let t = 0; rounding && t < T; t++) rounding(x.subarray(t * K, (t + 1) * K), tensorName);
}

function headName({ tieWordEmbeddings }: Gpt2Config): string {
  return tieWordEmbeddings ? "wte.weight" : "lm_head.weight";
}

/** Σ x[xStart + i] · y[yStart + i] for i < length, as four interleaved sums: one alone would wait for each addition. */
function dot(x: Float64Array, xStart: number, y: ReferenceTensor["values"], yStart: number, length: number): number {
  let sum0 = 0;
  let sum1 = 0;
  let sum2 = 0;
  let sum3 = 0;
  let i = 0;
  for (; i + 4 <= length; i += 4) {
    sum0 += x[xStart + i]! * y[yStart + i]!;
    sum1 += x[xStart + i + 1]! * y[yStart + i + 1]!;
    sum2 += x[xStart + i + 2]! * y[yStart + i + 2]!;
    sum3 += x[xStart + i + 3]! * y[yStart + i + 3]!;
  }
  for (; i < length; i++) sum0 += x[xStart + i]! * y[yStart + i]!;
  return sum0 + sum1 + (sum2 + sum3);
}

/** softmax(q · kᵀ · scale, causal) · v for each head; qkv f64 [T, 3C] holds q, k and v side by side; f64 [T, C]. */
function attention(qkv: Float64Array, T: number, config: Gpt2Config, layer: number, kvRounding: ReferenceOptions["kvRounding"]): Float64Array {
  const { nEmbd: C, nHead: H } = config;
  const D = C / H;
  let scale = 1;
  if (config.scaleAttnWeights) scale /= Math.sqrt(D);
  if (config.scaleAttnByInverseLayerIdx) scale /= layer + 1;

  const y = new Float64Array(T * C);
  const weights = new Float64Array(T); // of the positions 0…t for one query
  for (let head = 0; head < H; head++) {
    const q = head * D; // where this head's query, key and value begin within a row of qkv
    const k = C + head * D;
    const v = 2 * C + head * D;
    if (kvRounding) {
      for (let t = 0; t < T; t++) {
        kvRounding(qkv.subarray(t * 3 * C + k, t * 3 * C + k + D));
        kvRounding(qkv.subarray(t * 3 * C + v, t * 3 * C + v + D));
      }
    }
    for (let t = 0; t < T; t++) {
      let max = -Infinity;
      for (let s = 0; s <= t; s++) {
        weights[s] = dot(qkv, t * 3 * C + q, qkv, s * 3 * C + k, D) * scale;
        max = Math.max(max, weights[s]!);
      }
      let sum = 0;
      for (let s = 0; s <= t; s++) {
        weights[s] = Math.exp(weights[s]! - max);
        sum += weights[s]!;
      }
      for (let s = 0; s <= t; s++) {
        const weight = weights[s]! / sum;
        for (let d = 0; d < D; d++) y[t * C + head * D + d]! += weight * qkv[s * 3 * C + v + d]!;
      }
    }
  }
  return y;
}

export function activate(activation: Activation, x: number): number {
  switch (activation) {
    case "gelu_new":
    case "gelu_pytorch_tanh": // the same formula; Hugging Face differs only in who computes it
      return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
    case "gelu":
      return 0.5 * x * (1 + erf(x / Math.SQRT2));
    case "relu":
      return Math.max(0, x);
  }
}

/** 2/√π · ∫₀ˣ e^(−u²) du, to about 1e-15. */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x); // 1 − erf(6) is 2e-17
  if (a < 2) {
    // 2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (1·3·5···(2n+1)): all terms are positive, nothing cancels.
    let term = a;
    let sum = a;
    for (let n = 1; term > sum * 1e-17; n++) {
      term *= (2 * a * a) / (2 * n + 1);
      sum += term;
    }
    return Math.sign(x) * (2 / Math.sqrt(Math.PI)) * Math.exp(-a * a) * sum;
  }
  // 1 − erfc, whose continued fraction is a + (1/2)/(a + 1/(a + (3/2)/(a + …))), from the far end inwards.
  let fraction = a;
  for (let n = 200; n >= 1; n--) fraction = a + n / 2 / fraction;
  return Math.sign(x) * (1 - Math.exp(-a * a) / (Math.sqrt(Math.PI) * fraction));
}

function addTo(x: Float64Array, y: Float64Array): void {
  for (let i = 0; i < x.length; i++) x[i]! += y[i]!;
}

function tensorNamed(weights: ReferenceWeights, name: string): ReferenceTensor["values"] {
  const tensor = weights.get(name);
  if (!tensor) throw new Error(`The reference has no tensor "${name}".`);
  return tensor.values;
}

// ---------------------------------------------------------------- distributions

/** Index of the largest value; the lowest index wins a tie. */
export function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

export function logSumExp(logits: ArrayLike<number>): number {
  let max = -Infinity;
  for (let i = 0; i < logits.length; i++) max = Math.max(max, logits[i]!);
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - max);
  return max + Math.log(sum);
}

/** f64 [V]: ln softmax of one row of logits. */
export function logSoftmax(logits: ArrayLike<number>): Float64Array {
  const normalizer = logSumExp(logits);
  return Float64Array.from(logits, (logit) => logit - normalizer);
}

/** KL(base ‖ candidate) = Σ p_base (ln p_base − ln p_candidate) of two rows of logits, nats. */
export function klDivergence(baseLogits: ArrayLike<number>, candidateLogits: ArrayLike<number>): number {
  const base = logSoftmax(baseLogits);
  const candidate = logSoftmax(candidateLogits);
  return base.reduce((sum, logP, i) => sum + Math.exp(logP) * (logP - candidate[i]!), 0);
}

// ---------------------------------------------------------------- perplexity

/** Where one window of a protocol begins and ends, and the first of its tokens that it scores (as a target). */
export interface ReferenceWindow {
  start: number;
  end: number; // exclusive
  firstTarget: number;
}

/** The windows of a protocol as api.md words it, over `tokenCount` tokens. */
export function referenceWindows(tokenCount: number, protocol: NonNullable<PerplexityOptions["protocol"]>, windowTokens: number, strideTokens: number): ReferenceWindow[] {
  const windows: ReferenceWindow[] = [];
  if (protocol === "strided") {
    let seen = 0; // tokens before it were scored, or began their window and cannot be
    for (let start = 0; seen < tokenCount; start += strideTokens) {
      const end = Math.min(start + windowTokens, tokenCount);
      const firstTarget = Math.max(seen, start + 1);
      if (firstTarget < end) windows.push({ start, end, firstTarget });
      seen = end;
    }
  } else {
    for (let start = 0; start + windowTokens <= tokenCount; start += windowTokens) {
      const firstRow = protocol === "disjoint" ? 0 : Math.floor(windowTokens / 2);
      windows.push({ start, end: start + windowTokens, firstTarget: start + firstRow + 1 });
    }
  }
  return windows;
}

/** Perplexity and its standard error by the definitions of api.md; nlls: f64 [scored tokens], nats. */
export function referencePerplexity(
  config: Gpt2Config,
  weights: ReferenceWeights,
  tokens: readonly number[],
  { protocol, windowTokens, strideTokens = Math.floor(windowTokens / 2) }: { protocol: NonNullable<PerplexityOptions["protocol"]>; windowTokens: number; strideTokens?: number },
): { perplexity: number; standardError: number; nlls: Float64Array; windows: number } {
  const windows = referenceWindows(tokens.length, protocol, windowTokens, strideTokens);
  const nlls: number[] = [];
  for (const { start, end, firstTarget } of windows) {
    const hidden = referenceHidden(config, weights, tokens.slice(start, end));
    for (let target = firstTarget; target < end; target++) {
      const row = target - 1 - start;
      const logits = headLogits(config, weights, hidden.subarray(row * config.nEmbd, (row + 1) * config.nEmbd));
      nlls.push(logSumExp(logits) - logits[tokens[target]!]!);
    }
  }
  const n = nlls.length;
  const mean = nlls.reduce((sum, nll) => sum + nll, 0) / n;
  const variance = nlls.reduce((sum, nll) => sum + (nll - mean) ** 2, 0) / n;
  const perplexity = Math.exp(mean);
  return { perplexity, standardError: perplexity * Math.sqrt(variance / (n - 1)), nlls: Float64Array.from(nlls), windows: windows.length };
}

// ---------------------------------------------------------------- calibration

export interface ReferenceStatistics {
  rows: number;
  absmax: Float64Array; // f64 [K]
  meanAbs: Float64Array; // f64 [K]
  histogram: number[]; // of log2 |x|, 64 bins to an octave from 2^-20 to 2^16, each octave cut evenly
  gram: Float64Array; // f64 [K, K]: mean x_j · x_k
}

/** What calibration finds in rows x, [rows, K]. */
export function inputStatistics(x: ArrayLike<number>, K: number): ReferenceStatistics {
  const rows = x.length / K;
  const absmax = new Float64Array(K);
  const meanAbs = new Float64Array(K);
  const gram = new Float64Array(K * K);
  const histogram = Array.from({ length: 36 * 64 }, () => 0);
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < K; k++) {
      const magnitude = Math.abs(x[row * K + k]!);
      absmax[k] = Math.max(absmax[k]!, magnitude);
      meanAbs[k]! += magnitude / rows;
      const octave = Math.min(15, Math.max(-20, Math.floor(Math.log2(magnitude))));
      histogram[Math.min(36 * 64 - 1, Math.max(0, Math.floor((octave + 20 + magnitude / 2 ** octave - 1) * 64)))]!++;
      for (let j = 0; j < K; j++) gram[j * K + k]! += (x[row * K + j]! * x[row * K + k]!) / rows;
    }
  }
  return { rows, absmax, meanAbs, histogram, gram };
}

// ---------------------------------------------------------------- KV cache formats

/** The f16 nearest to x, ties to even, as a number; beyond ±65504 it saturates. */
export function roundToF16(x: number): number {
  const magnitude = Math.abs(x);
  if (magnitude === 0) return x;
  const exponent = Math.max(-14, Math.floor(Math.log2(magnitude))); // subnormals share the step of 2^−14
  const step = 2 ** (exponent - 10);
  return Math.sign(x) * Math.min(65504, roundHalfToEven(magnitude / step) * step);
}

export function roundHalfToEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** What each KV cache format does to one head's key or value of one position; see `ReferenceOptions.kvRounding`. */
export const kvRoundings: Readonly<Record<"f32" | "f16" | "int8", (values: Float64Array) => void>> = {
  f32: (values) => values.forEach((value, d) => (values[d] = Math.fround(value))),
  f16: (values) => values.forEach((value, d) => (values[d] = roundToF16(value))),
  /** scale = max|x| / 127 in f32, code = round(x / scale). */
  int8: (values) => {
    const scale = Math.fround(values.reduce((max, value) => Math.max(max, Math.abs(value)), 0) / 127);
    values.forEach((value, d) => (values[d] = scale === 0 ? 0 : roundHalfToEven(value / scale) * scale));
  },
};

// ---------------------------------------------------------------- int8 activations

export interface ActivationCoding {
  /** A static range instead of the row's largest magnitude. */
  range?: number;
  /** What is at least as large keeps its value; the rest of the row is coded as if it were 0. */
  outlierThreshold?: number;
}

/** A row of activations as int8 codes, code · scale ≈ x: absmax = max|x|, scale = absmax / 127, code = round(x · (127 / absmax)), every step rounded to f32. */
export function quantizeActivations(x: ArrayLike<number>, { range, outlierThreshold = Infinity }: ActivationCoding = {}): { codes: number[]; scale: number; isOutlier: boolean[] } {
  const isOutlier = Array.from(x, (value) => Math.abs(Math.fround(value)) >= Math.fround(outlierThreshold));
  const rest = Array.from(x, (value, k) => (isOutlier[k] ? 0 : Math.fround(value)));
  const absmax = Math.fround(range ?? rest.reduce((max, value) => Math.max(max, Math.abs(value)), 0));
  if (absmax < 2 ** -120) return { codes: rest.map(() => 0), scale: 1, isOutlier };
  const inverse = Math.fround(127 / absmax);
  const codes = rest.map((value) => Math.max(-127, Math.min(127, roundHalfToEven(Math.fround(value * inverse)))));
  return { codes, scale: Math.fround(absmax / 127), isOutlier };
}

/** What int8 activations make of one input; see `ReferenceOptions.inputRounding`. */
export function roundToCodes(values: Float64Array, coding?: ActivationCoding): void {
  const { codes, scale, isOutlier } = quantizeActivations(values, coding);
  values.forEach((value, k) => (values[k] = isOutlier[k] ? Math.fround(value) : codes[k]! * scale));
}
