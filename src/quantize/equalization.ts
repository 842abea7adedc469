import type { Checkpoint, CheckpointTensor, ReadOptions } from "../checkpoint/types.ts";
import { EngineError } from "../errors.ts";
import type { QuantizationRecipe, TensorFormat } from "../types.ts";
import type { InputStatistics } from "./inputStatistics.ts";
import { dot, subtractProducts } from "./linearAlgebra.ts";
import { dequantizeTensor, quantizeTensor } from "./nearest.ts";
import { pausing } from "./pause.ts";
import { formatOf } from "./recipes.ts";

/*
 * Equalization moves range between a matrix and its inputs: W' = W · diag(s), x' = x / s, W' x' = W x, and rounding finds W' or x' easier than W or x.
 * Dividing the inputs costs nothing where they leave a step that takes a scale per channel:
 *   attn.c_attn   behind ln_1: its weight and bias
 *   attn.c_proj   behind the values, outputs 2C … 3C − 1 of attn.c_attn: attention mixes positions, never channels
 *   mlp.c_fc      behind ln_2
 * mlp.c_proj follows the activation function, which no scale passes, and is left alone.
 */

/** What produces a matrix's inputs -> the matrix, both within a block. */
const CONSUMERS: Readonly<Record<string, string>> = { ln_1: "attn.c_attn", "attn.c_attn": "attn.c_proj", ln_2: "mlp.c_fc" };
const SITE = /^h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc)\.weight$/;
const PRODUCER = /^(h\.\d+)\.(ln_1|attn\.c_attn|ln_2)\.(weight|bias)$/;

/** Factors stay within 1 / it … it. */
const LARGEST_FACTOR = 1e5;
/** Rows of a matrix on which factors are judged, evenly spaced: the whole would take minutes. */
const JUDGED_ROWS = 64;
/** Rows between two pauses. */
const STRIP = 16;
const LARGEST_ACTIVATION_CODE = 127;

export interface SearchOptions {
  /** Awaited every 20 ms of work, so that a page stays alive; may throw. */
  rest?: () => Promise<void>;
}

/**
 * SmoothQuant (arXiv:2211.10438): s_k = max|x_k|^α / max_n |W_nk|^(1 − α), by which W's columns are multiplied and the inputs divided; 1 for a column without inputs or weights.
 * @param weights f32 [N, K], row-major
 * @param alpha 0…1: how much of the inputs' range moves into the weights
 * @returns f32 [K], each from 1e-5 to 1e5
 */
export function smoothQuantFactor(weights: Float32Array, [N, K]: readonly [N: number, K: number], { absmax }: Pick<InputStatistics, "absmax">, alpha: number): Float32Array {
  const largest = new Float32Array(K);
  for (let n = 0; n < N; n++) {
    for (let k = 0; k < K; k++) largest[k] = Math.max(largest[k]!, Math.abs(weights[n * K + k]!));
  }
  return largest.map((weight, k) => withinBounds(absmax[k]! ** alpha / weight ** (1 - alpha), weight > 0 && absmax[k]! > 0));
}

/**
 * SmoothQuant's factor for the best α of 0.3, 0.35 … 0.9, or all ones where none is better: the least of
 * tr(ΔW · G · ΔWᵀ) + step² / 12 · ‖W'‖², the squared error of the outputs by the weights' rounding and by that of int8 activations,
 * with W' = W · diag(s), ΔW = Q(W') · diag(1 / s) − W, G = gram, step = max_k(max|x_k| / s_k) / 127; over 64 evenly spaced rows.
 * @throws RangeError where the statistics have no gram
 */
export async function searchSmoothQuantFactor(weights: Float32Array, shape: readonly [N: number, K: number], format: TensorFormat, statistics: InputStatistics, options?: SearchOptions): Promise<Float32Array> {
  const candidates = [ones(shape[1])];
  for (let percent = 30; percent <= 90; percent += 5) candidates.push(smoothQuantFactor(weights, shape, statistics, percent / 100));
  const rows = new JudgedRows(weights, shape, format, statistics);
  return leastOf(candidates, async (factor, pause) => {
    const range = factor.reduce((max, s, k) => Math.max(max, statistics.absmax[k]! / s), 0);
    return (await rows.weightError(factor, pause)) + ((range / LARGEST_ACTIVATION_CODE) ** 2 / 12) * rows.squares(factor);
  }, options);
}

/**
 * AWQ (arXiv:2306.00978): s = (mean|x_k|)^a, divided by √(max · min), for the a of 0, 0.05 … 1 with the least tr(ΔW · G · ΔWᵀ), ΔW = Q(W · diag(s)) · diag(1 / s) − W,
 * the squared error of the outputs, over 64 evenly spaced rows; 1 for a column without inputs. A scale of the whole tensor is that of these rows.
 * @returns f32 [K], each from 1e-5 to 1e5
 * @throws RangeError where the statistics have no gram
 */
export async function awqFactor(weights: Float32Array, shape: readonly [N: number, K: number], format: TensorFormat, statistics: InputStatistics, options?: SearchOptions): Promise<Float32Array> {
  const { meanAbs } = statistics;
  const live = meanAbs.filter((mean) => mean > 0);
  if (live.length === 0) return ones(shape[1]);
  const middle = Math.sqrt(live.reduce((max, mean) => Math.max(max, mean)) * live.reduce((min, mean) => Math.min(min, mean)));
  const candidates = Array.from({ length: 21 }, (_, i) => meanAbs.map((mean) => withinBounds((mean / middle) ** (i / 20), mean > 0)));
  const rows = new JudgedRows(weights, shape, format, statistics);
  return leastOf(candidates, (factor, pause) => rows.weightError(factor, pause), options);
}

/**
 * One pass over a checkpoint: the factor of each matrix that the recipe equalizes, by its name; none for matrices that stay f32 or f16.
 * AWQ, and SmoothQuant's search, take all three sites; SmoothQuant with a given α attn.c_attn and mlp.c_fc, as in its paper.
 * Each factor is found from the original weights. That of attn.c_proj divides rows of attn.c_attn, which changes nothing for grids that serve a row or less, and is neglected for a scale per tensor.
 * @param statisticsOf of a matrix's inputs in the original model; with gram for AWQ and the search
 * @throws EngineError naming the tensor
 */
export async function findFactors(
  checkpoint: Checkpoint,
  recipe: QuantizationRecipe,
  statisticsOf: (name: string) => Promise<InputStatistics>,
  { rest, ...readOptions }: ReadOptions & SearchOptions = {},
): Promise<Map<string, Float32Array>> {
  const factors = new Map<string, Float32Array>();
  const { equalization = "none", smoothing = 0.5 } = recipe;
  if (equalization === "none") return factors;
  for await (const { tensor, values } of checkpoint.read(readOptions)) {
    if (!SITE.test(tensor.name)) continue;
    const format = formatOf(recipe, tensor.name, "linear");
    if (format.type === "f32" || format.type === "f16") continue;
    if (equalization === "smoothquant" && smoothing !== "search" && tensor.name.endsWith("c_proj.weight")) continue;
    const statistics = await statisticsOf(tensor.name);
    try {
      if (equalization === "awq") factors.set(tensor.name, await awqFactor(values, tensor.shape, format, statistics, { rest }));
      else if (smoothing === "search") factors.set(tensor.name, await searchSmoothQuantFactor(values, tensor.shape, format, statistics, { rest }));
      else factors.set(tensor.name, smoothQuantFactor(values, tensor.shape, statistics, smoothing));
    } catch (error) {
      if (!(error instanceof EngineError)) throw error;
      throw new EngineError(error.code, `Tensor "${tensor.name}": ${error.message}`, { ...error.details, tensor: tensor.name }, { cause: error });
    }
  }
  return factors;
}

/**
 * The checkpoint with its matrices' columns multiplied by their factors, and what produces their inputs divided by them: the same function of the tokens, up to rounding to f32.
 * @param factors f32 [K] by the name of an attn.c_attn, attn.c_proj or mlp.c_fc weight, finite and positive
 * @throws RangeError for a factor of another name or length, or one that is not finite and positive
 */
export function equalized(checkpoint: Checkpoint, factors: ReadonlyMap<string, Float32Array>): Checkpoint {
  validateFactors(checkpoint, factors);
  const read: Checkpoint["read"] = async function* (options) {
    for await (const { tensor, values } of checkpoint.read(options)) {
      multiplyColumns(values, factors.get(tensor.name));
      divideOutputs(values, tensor, factors.get(consumerOf(tensor.name)));
      yield { tensor, values };
    }
  };
  return { ...checkpoint, read, readBlocks: read };
}

function validateFactors({ tensors }: Checkpoint, factors: ReadonlyMap<string, Float32Array>): void {
  for (const [name, factor] of factors) {
    const tensor = SITE.test(name) ? tensors.find((other) => other.name === name) : undefined;
    if (!tensor) throw new RangeError(`factors has "${name}", which no scale can pass to; expected an attn.c_attn, attn.c_proj or mlp.c_fc weight of the checkpoint.`);
    if (factor.length !== tensor.shape[1]) throw new RangeError(`The factor of "${name}" has ${factor.length} elements; expected ${tensor.shape[1]}.`);
    const bad = factor.findIndex((s) => !(s > 0 && s < Infinity));
    if (bad >= 0) throw new RangeError(`The factor of "${name}" is ${factor[bad]} at ${bad}; expected finite numbers above 0.`);
  }
}

/** The matrix that takes its inputs from a tensor's outputs; no name for any other tensor. */
function consumerOf(name: string): string {
  const [, block, producer] = PRODUCER.exec(name) ?? [];
  return producer === undefined ? "" : `${block}.${CONSUMERS[producer]}.weight`;
}

/** values: f32 [rows, K]; factor: f32 [K]. */
function multiplyColumns(values: Float32Array, factor: Float32Array | undefined): void {
  if (!factor) return;
  for (let start = 0; start < values.length; start += factor.length) {
    for (let k = 0; k < factor.length; k++) values[start + k]! *= factor[k]!;
  }
}

/** The consumer's inputs are the last outputs: all of a norm, the values of attn.c_attn. An output is a row of a matrix, an element of a vector. */
function divideOutputs(values: Float32Array, { kind, shape }: CheckpointTensor, factor: Float32Array | undefined): void {
  if (!factor) return;
  const width = kind === "linear" ? shape[1] : 1;
  const first = values.length - factor.length * width;
  for (let i = first; i < values.length; i++) values[i]! /= factor[Math.floor((i - first) / width)]!;
}

function ones(K: number): Float32Array {
  return new Float32Array(K).fill(1);
}

/** s, or 1 where the column has no say or s is no number. */
function withinBounds(s: number, isLive: boolean): number {
  return isLive && s >= 0 ? Math.min(Math.max(s, 1 / LARGEST_FACTOR), LARGEST_FACTOR) : 1;
}

/** The candidate with the least error; the first of equals. */
async function leastOf(candidates: readonly Float32Array[], errorOf: (factor: Float32Array, pause: () => Promise<void>) => Promise<number>, { rest }: SearchOptions = {}): Promise<Float32Array> {
  const pause = pausing(rest);
  let best = candidates[0]!;
  let leastError = Infinity;
  for (const candidate of candidates) {
    const error = await errorOf(candidate, pause);
    if (error < leastError) {
      leastError = error;
      best = candidate;
    }
  }
  return best;
}

/** Some rows of a matrix, whose quantization is tried under one factor after the other. */
class JudgedRows {
  private readonly rows: Float32Array; // [n, K]
  private readonly shape: readonly [n: number, K: number];
  private readonly gram: Float64Array; // [K, K]

  constructor(weights: Float32Array, [N, K]: readonly [number, number], private readonly format: TensorFormat, { gram }: InputStatistics) {
    if (gram?.length !== K * K) throw new RangeError(`statistics.gram has ${gram?.length ?? "no"} elements; expected ${K * K} for ${K} columns.`);
    const n = Math.min(N, JUDGED_ROWS);
    this.rows = new Float32Array(n * K);
    for (let row = 0; row < n; row++) {
      const from = Math.floor((row * N) / n) * K;
      this.rows.set(weights.subarray(from, from + K), row * K);
    }
    this.shape = [n, K];
    this.gram = Float64Array.from(gram);
  }

  /** tr(ΔW · G · ΔWᵀ), f64. */
  async weightError(factor: Float32Array, pause: () => Promise<void>): Promise<number> {
    const [n, K] = this.shape;
    const scaled = this.rows.slice();
    multiplyColumns(scaled, factor);
    const restored = dequantizeTensor(quantizeTensor(scaled, this.shape, this.format));
    const errors = Float64Array.from(restored, (value, i) => value / factor[i % K]! - this.rows[i]!); // ΔW [n, K]
    let sum = 0;
    for (let row = 0; row < n; row += STRIP) {
      const strip = { values: errors, start: row * K, stride: K };
      const count = Math.min(STRIP, n - row);
      const products = new Float64Array(count * K); // −ΔW · G
      subtractProducts({ values: products, start: 0, stride: K }, strip, { values: this.gram, start: 0, stride: K }, count, K, K);
      sum -= dot(products, 0, errors, row * K, count * K);
      await pause();
    }
    return sum;
  }

  /** ‖W · diag(s)‖². */
  squares(factor: Float32Array): number {
    return this.rows.reduce((sum, weight, i) => sum + (weight * factor[i % factor.length]!) ** 2, 0);
  }
}
