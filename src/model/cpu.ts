import type { CheckpointTensor } from "../checkpoint/types.ts";
import { EngineError, throwIfAborted } from "../errors.ts";
import type { AdapterSummary, Gpt2Config, MemoryReport, QuantizedTensor } from "../types.ts";
import type { Backend, BackendBuilder, BackendOptions, RowComparison } from "./backend.ts";
import { Distribution } from "./cpu/distribution.ts";
import { KvCache } from "./cpu/kvCache.ts";
import { COLUMN_STEP } from "./cpu/matrix.ts";
import { activate, addBias, addResidual, causalSoftmax, layerNorm } from "./cpu/ops.ts";
import { Pacer } from "./cpu/pacer.ts";
import { multiplyRows } from "./cpu/rows.ts";
import { type CpuWeights, CpuWeightsCollector, type Linear } from "./cpu/weights.ts";

/** Tokens that go through the layers together: restoring a quantized row costs about as much as three products with it. */
const CHUNK_TOKENS = 128;
/** Rows of a matrix restored at a time: a multiple of the tile's 3 that leaves room for the activations in a core's cache. */
const BLOCK_ROWS = 24;
/** Products between two looks at the clock when one token is computed: about half a millisecond. */
const PRODUCTS_PER_LOOK = 2 ** 20;

/** GPT-2 in plain TypeScript, for where there is no GPU. Weights stay in their stored form; activations are f32, sums f64. */
export function createCpuBuilder(options: BackendOptions): BackendBuilder {
  return new CpuBuilder(options);
}

class CpuBuilder implements BackendBuilder {
  private readonly options: BackendOptions;
  private readonly weights: CpuWeightsCollector;

  constructor(options: BackendOptions) {
    this.options = options;
    this.weights = new CpuWeightsCollector(options);
  }

  async add(tensor: CheckpointTensor, values: QuantizedTensor | Float32Array): Promise<void> {
    this.weights.add(tensor, values);
  }

  async finish(signal?: AbortSignal): Promise<Backend> {
    throwIfAborted(signal);
    return new CpuBackend(this.options, this.weights.finish());
  }

  abandon(): void {
    this.weights.clear();
  }
}

/** Everything that dispose() lets go of. C = nEmbd, H = nHead, D = C / H, S = contextLength; T ≤ chunkTokens rows are in use. */
interface Buffers {
  weights: CpuWeights;
  keys: KvCache;
  values: KvCache;
  x: Float32Array; // f32 [chunkTokens, C], the residual stream
  normed: Float32Array; // f32 [chunkTokens, C]; attention's output too
  projected: Float32Array; // f32 [chunkTokens, C], what a sublayer adds to x
  qkv: Float32Array; // f32 [chunkTokens, 3C]
  inner: Float32Array; // f32 [chunkTokens, nInner]
  scores: Float32Array; // f32 [chunkTokens, S], of one head
  cached: Float32Array; // f32 [S, D], one head's keys, then its values, restored
  vector: Float32Array; // f32 [longest row, padded], a single token's input to a matrix
  block: Float32Array; // f32 [BLOCK_ROWS, longest row], restored rows of a matrix
  blockLogits: Float64Array; // f64 [chunkTokens, BLOCK_ROWS]
  /** f32 [S, C]: final hidden states of the last window; made by the first encodeWindow(). */
  window: Float32Array | null;
}

class CpuBackend implements Backend {
  readonly adapter: AdapterSummary;
  readonly lost = new Promise<EngineError>(() => {}); // a CPU is never lost
  private readonly config: Gpt2Config;
  private readonly contextLength: number;
  private readonly chunkTokens: number;
  private readonly pacer = new Pacer();
  private buffers: Buffers | null;
  private windowTokens = 0;
  private peakBytes = 0;

  constructor({ config, contextLength, kvCache, notices = [] }: BackendOptions, weights: CpuWeights) {
    const { nLayer: L, nHead: H, nEmbd: C, nInner } = config;
    const D = C / H;
    const T = Math.min(CHUNK_TOKENS, contextLength);
    const longestRow = Math.max(C, nInner);
    this.adapter = { backend: "cpu", vendor: "", architecture: "", description: "plain TypeScript on the CPU", isFallback: false, features: [], limits: {}, notices };
    this.config = config;
    this.contextLength = contextLength;
    this.chunkTokens = T;
    this.buffers = {
      weights,
      keys: new KvCache({ L, H, S: contextLength, D }, kvCache, "keys"),
      values: new KvCache({ L, H, S: contextLength, D }, kvCache, "values"),
      x: new Float32Array(T * C),
      normed: new Float32Array(T * C),
      projected: new Float32Array(T * C),
      qkv: new Float32Array(T * 3 * C),
      inner: new Float32Array(T * nInner),
      scores: new Float32Array(T * contextLength),
      cached: new Float32Array(contextLength * D),
      vector: new Float32Array(longestRow + COLUMN_STEP),
      block: new Float32Array(BLOCK_ROWS * longestRow),
      blockLogits: new Float64Array(T * BLOCK_ROWS),
      window: null,
    };
    this.peakBytes = this.memory.total;
  }

  /** Bytes of the typed arrays; all zero after dispose() but the peak. */
  get memory(): MemoryReport {
    const { weights, embedding, scales } = this.buffers?.weights.bytes ?? { weights: 0, embedding: 0, scales: 0 };
    const kvCache = this.buffers ? this.buffers.keys.bytes + this.buffers.values.bytes : 0;
    let activations = 0;
    for (const buffer of Object.values(this.buffers ?? {})) if (ArrayBuffer.isView(buffer)) activations += buffer.byteLength;
    const total = weights + embedding + scales + kvCache + activations;
    return { weights, embedding, scales, kvCache, activations, staging: 0, total, peakBytes: Math.max(this.peakBytes, total) };
  }

  async forward(tokens: readonly number[], start: number, signal?: AbortSignal): Promise<Float32Array> {
    const buffers = this.begin(signal);
    const { nEmbd: C, vocabSize: V, layerNormEpsilon } = this.config;
    const { x, normed, weights } = buffers;
    let lastRow = 0;
    for (let first = 0; first < tokens.length; first += this.chunkTokens) {
      const chunk = tokens.slice(first, first + this.chunkTokens);
      await this.runLayers(buffers, chunk, start + first, signal);
      lastRow = chunk.length - 1;
    }
    layerNorm(x.subarray(lastRow * C), normed, 1, weights.lnF.weight, weights.lnF.bias, layerNormEpsilon);
    const logits = new Float32Array(V);
    await this.multiply(buffers, weights.head, normed, 1, logits, signal);
    return logits;
  }

  async encodeWindow(tokens: readonly number[], signal?: AbortSignal): Promise<void> {
    const buffers = this.begin(signal);
    const { nEmbd: C, layerNormEpsilon } = this.config;
    const { lnF } = buffers.weights;
    this.windowTokens = 0;
    buffers.window ??= new Float32Array(this.contextLength * C);
    this.peakBytes = this.memory.peakBytes;
    for (let first = 0; first < tokens.length; first += this.chunkTokens) {
      const chunk = tokens.slice(first, first + this.chunkTokens);
      await this.runLayers(buffers, chunk, first, signal);
      layerNorm(buffers.x, buffers.window.subarray(first * C), chunk.length, lnF.weight, lnF.bias, layerNormEpsilon);
    }
    this.windowTokens = tokens.length;
  }

  async score(from: number, targets: readonly number[], signal?: AbortSignal): Promise<Float32Array> {
    const buffers = this.begin(signal);
    this.requireRows(from, targets.length);
    const logProbs = new Float32Array(targets.length);
    for (let first = 0; first < targets.length; first += this.chunkTokens) {
      const chunk = targets.slice(first, first + this.chunkTokens);
      const distribution = new Distribution(chunk);
      await this.forEachBlock(signal, (row, rows) => {
        distribution.add(this.headBlock(buffers, from + first, chunk.length, row, rows), row, rows);
      });
      for (let t = 0; t < chunk.length; t++) logProbs[first + t] = distribution.logProb(t);
    }
    return logProbs;
  }

  async compare(baseline: Backend, from: number, targets: readonly number[], signal?: AbortSignal): Promise<RowComparison> {
    const buffers = this.begin(signal);
    if (!(baseline instanceof CpuBackend)) throw new TypeError(`baseline runs on ${baseline.adapter.backend}; expected a model on the CPU backend, as this one.`);
    const baseBuffers = baseline.begin(signal);
    this.requireRows(from, targets.length);
    baseline.requireRows(from, targets.length);
    if (baseline.config.vocabSize !== this.config.vocabSize) {
      throw new RangeError(`baseline has a vocabulary of ${baseline.config.vocabSize}; expected ${this.config.vocabSize}, as this model.`);
    }
    const rows = targets.length;
    const comparison: RowComparison = {
      baseLogProbs: new Float32Array(rows),
      logProbs: new Float32Array(rows),
      klDivergence: new Float32Array(rows),
      sameTop: new Uint8Array(rows),
    };
    const chunkTokens = Math.min(this.chunkTokens, baseline.chunkTokens);
    for (let first = 0; first < rows; first += chunkTokens) {
      const chunk = targets.slice(first, first + chunkTokens);
      const base = new Distribution(chunk);
      const candidate = new Distribution(chunk);
      await this.forEachBlock(signal, (row, count) => {
        const baseLogits = baseline.headBlock(baseBuffers, from + first, chunk.length, row, count);
        const logits = this.headBlock(buffers, from + first, chunk.length, row, count);
        base.add(baseLogits, row, count, logits);
        candidate.add(logits, row, count);
      });
      for (let t = 0; t < chunk.length; t++) {
        comparison.baseLogProbs[first + t] = base.logProb(t);
        comparison.logProbs[first + t] = candidate.logProb(t);
        comparison.klDivergence[first + t] = base.klDivergence(t, candidate);
        comparison.sameTop[first + t] = base.topColumn(t) === candidate.topColumn(t) ? 1 : 0;
      }
    }
    return comparison;
  }

  dispose(): void {
    this.peakBytes = this.memory.peakBytes;
    this.buffers = null;
  }

  /** What each call does first. @throws EngineError `disposed`, signal.reason */
  private begin(signal: AbortSignal | undefined): Buffers {
    if (!this.buffers) throw new EngineError("disposed", "The model was disposed; load it again.");
    throwIfAborted(signal);
    return this.buffers;
  }

  private requireRows(from: number, count: number): void {
    if (from >= 0 && from + count <= this.windowTokens) return;
    throw new RangeError(`Rows ${from} to ${from + count - 1} were asked for; the last window has ${this.windowTokens} rows.`);
  }

  /** Gives way to the event loop where it is time. @throws signal.reason; EngineError `disposed` */
  private async rest(signal: AbortSignal | undefined): Promise<void> {
    if (!this.pacer.isDue()) return;
    await this.pacer.rest(signal);
    this.begin(signal);
  }

  /** Embeds tokens and runs all layers over them; leaves the residual stream in x, f32 [T, C]. T ≤ chunkTokens. */
  private async runLayers(buffers: Buffers, tokens: readonly number[], start: number, signal?: AbortSignal): Promise<void> {
    const { nEmbd: C, nInner, activation, layerNormEpsilon } = this.config;
    const { weights, x, normed, projected, qkv, inner, keys, values } = buffers;
    const T = tokens.length;
    tokens.forEach((token, t) => {
      weights.wte.restoreRows(token, token + 1, x.subarray(t * C, (t + 1) * C));
      for (let c = 0; c < C; c++) x[t * C + c]! += weights.wpe[(start + t) * C + c]!;
    });
    for (const [layer, { ln1, cAttn, attnCProj, ln2, cFc, mlpCProj }] of weights.layers.entries()) {
      layerNorm(x, normed, T, ln1.weight, ln1.bias, layerNormEpsilon);
      await this.linear(buffers, cAttn, normed, T, qkv, signal);
      for (let t = 0; t < T; t++) {
        keys.store(layer, start + t, qkv.subarray(t * 3 * C + C, t * 3 * C + 2 * C));
        values.store(layer, start + t, qkv.subarray(t * 3 * C + 2 * C, (t + 1) * 3 * C));
      }
      await this.attend(buffers, layer, T, start, signal);
      await this.linear(buffers, attnCProj, normed, T, projected, signal);
      addResidual(x, projected, T * C);

      layerNorm(x, normed, T, ln2.weight, ln2.bias, layerNormEpsilon);
      await this.linear(buffers, cFc, normed, T, inner, signal);
      activate(activation, inner, T * nInner);
      await this.linear(buffers, mlpCProj, inner, T, projected, signal);
      addResidual(x, projected, T * C);
    }
  }

  /** normed = softmax(q · kᵀ · scale, causal) · v, with q from qkv and k, v from the cache, head by head. */
  private async attend({ qkv, keys, values, scores, cached, normed }: Buffers, layer: number, T: number, start: number, signal?: AbortSignal): Promise<void> {
    const { nHead: H, nEmbd: C, scaleAttnWeights, scaleAttnByInverseLayerIdx } = this.config;
    const D = C / H;
    const S = start + T; // positions that the last token sees
    const scale = (scaleAttnWeights ? 1 / Math.sqrt(D) : 1) / (scaleAttnByInverseLayerIdx ? layer + 1 : 1);
    for (let head = 0; head < H; head++) {
      const query = { values: qkv, start: head * D, stride: 3 * C, count: T };
      const weights = { values: scores, start: 0, stride: S, count: T };
      multiplyRows(query, keys.read(layer, head, S, cached), D, weights);
      causalSoftmax(scores, T, S, start, scale);
      multiplyRows(weights, values.read(layer, head, S, cached), S, { values: normed, start: head * D, stride: C, count: T });
      await this.rest(signal);
    }
  }

  /** y = x · matrixᵀ + bias; x: f32 [T, K], y: f32 [T, O]. */
  private async linear(buffers: Buffers, { matrix, bias }: Linear, x: Float32Array, T: number, y: Float32Array, signal?: AbortSignal): Promise<void> {
    await this.multiply(buffers, matrix, x, T, y, signal);
    addBias(y, T, bias);
  }

  /** y = x · matrixᵀ; x: f32 [T, K], y: f32 [T, O]. One token reads the stored weights; more share rows that were restored once. */
  private async multiply({ vector, block }: Buffers, matrix: CpuWeights["head"], x: Float32Array, T: number, y: Float32Array, signal?: AbortSignal): Promise<void> {
    const { O, K } = matrix;
    if (T === 1) {
      vector.set(x.subarray(0, K));
      vector.fill(0, K, K + COLUMN_STEP);
    }
    const rowsPerStep = T === 1 ? Math.ceil(PRODUCTS_PER_LOOK / K / 4) * 4 : BLOCK_ROWS;
    for (let from = 0; from < O; from += rowsPerStep) {
      const to = Math.min(from + rowsPerStep, O);
      if (T === 1) {
        matrix.multiplyVector(vector, y, from, to);
      } else {
        matrix.restoreRows(from, to, block);
        multiplyRows({ values: x, start: 0, stride: K, count: T }, { values: block, start: 0, stride: K, count: to - from }, K, { values: y, start: from, stride: O, count: T });
      }
      await this.rest(signal);
    }
  }

  /** Visits the vocabulary in blocks of at most BLOCK_ROWS rows of the head. */
  private async forEachBlock(signal: AbortSignal | undefined, visit: (firstRow: number, rows: number) => void): Promise<void> {
    const V = this.config.vocabSize;
    for (let row = 0; row < V; row += BLOCK_ROWS) {
      visit(row, Math.min(BLOCK_ROWS, V - row));
      await this.rest(signal);
    }
  }

  /** Logits of T window rows for a block of the vocabulary, f64 [T, rows]; overwritten by the next call. */
  private headBlock({ weights, window, block, blockLogits }: Buffers, from: number, T: number, firstRow: number, rows: number): Float64Array {
    const C = this.config.nEmbd;
    weights.head.restoreRows(firstRow, firstRow + rows, block);
    multiplyRows({ values: window!, start: from * C, stride: C, count: T }, { values: block, start: 0, stride: C, count: rows }, C, { values: blockLogits, start: 0, stride: rows, count: T });
    return blockLogits;
  }
}
