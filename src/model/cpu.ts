import { headName } from "../checkpoint/gpt2Weights.ts";
import type { CheckpointTensor } from "../checkpoint/types.ts";
import { EngineError, throwIfAborted } from "../errors.ts";
import type { InputStatistics } from "../quantize/inputStatistics.ts";
import type { PackedWeights } from "../quantize/layout.ts";
import type { PackedRows } from "../quantize/packRows.ts";
import type { AdapterSummary, Gpt2Config, MemoryReport, QuantizedTensor } from "../types.ts";
import { type Backend, type BackendBuilder, type BackendOptions, type MatrixInput, type ObserveOptions, requireLender, type RowComparison } from "./backend.ts";
import { allocating } from "./cpu/allocating.ts";
import { type Arrays, chunkTokensOf, createArrays } from "./cpu/arrays.ts";
import { Distribution } from "./cpu/distribution.ts";
import { InputTally } from "./cpu/inputTally.ts";
import { allocateTogether, BLOCK_ROWS, type CpuKernels, type CpuMatrix, LANES, roundUp } from "./cpu/kernels.ts";
import { addResidual, causalSoftmax } from "./cpu/ops.ts";
import { Pacer } from "./cpu/pacer.ts";
import { plainKernels } from "./cpu/plain.ts";
import { createSimdKernels } from "./cpu/simd.ts";
import { type CpuWeights, CpuWeightsCollector, type Lender, type Linear, type Norm } from "./cpu/weights.ts";
import { lookUp, statisticsOf } from "./observation.ts";

export { planCpu } from "./cpu/plan.ts";

/** Products between two looks at the clock: half a millisecond in plain TypeScript. */
const PRODUCTS_PER_LOOK = 2 ** 20;

export interface CpuBackendOptions extends BackendOptions {
  /** false: plain TypeScript even where the page's policy allows WebAssembly. For tests. */
  simd?: boolean;
}

/** GPT-2 on the CPU, for where there is no GPU. Weights stay in their stored form; activations are f32. */
export function createCpuBuilder(options: CpuBackendOptions): BackendBuilder {
  return new CpuBuilder(options);
}

class CpuBuilder implements BackendBuilder {
  readonly layout = { layout: "rows" } as const;
  private readonly options: BackendOptions;
  private readonly kernels: CpuKernels;
  private readonly weights: CpuWeightsCollector;

  constructor({ simd = true, ...options }: CpuBackendOptions) {
    this.options = options;
    this.kernels = (simd && createSimdKernels()) || plainKernels;
    this.weights = new CpuWeightsCollector(this.kernels, options);
  }

  async add(tensor: CheckpointTensor, values: PackedWeights | Float32Array, input?: MatrixInput): Promise<void> {
    allocating(`Tensor "${tensor.name}" needs`, () => this.weights.add(tensor, values as PackedRows | Float32Array, input));
  }

  async finish(signal?: AbortSignal): Promise<Backend> {
    throwIfAborted(signal);
    const { base } = this.options;
    if (base && !(base instanceof CpuBackend)) throw new TypeError(`base runs on ${base.adapter.backend}; expected a model on the CPU backend, as this one.`);
    return new CpuBackend(this.options, this.kernels, this.weights.finish(base?.lend(this.options)));
  }

  abandon(): void {
    this.weights.clear();
  }
}

/** Everything that dispose() lets go of. */
interface Buffers extends Arrays {
  weights: CpuWeights;
  /** f32 [S, C]: final hidden states of the last window; made by the first encodeWindow(). */
  window: Float32Array | null;
}

class CpuBackend implements Backend {
  readonly adapter: AdapterSummary;
  readonly lost = new Promise<EngineError>(() => {}); // a CPU is never lost
  private readonly options: BackendOptions;
  private readonly config: Gpt2Config;
  private kernels: CpuKernels;
  private readonly contextLength: number;
  private readonly chunkTokens: number;
  private readonly pacer = new Pacer();
  private buffers: Buffers | null;
  private windowTokens = 0;
  /** While observe() runs: what it has seen of each matrix's input, and how many layers that takes. */
  private observed: { tallies: ReadonlyMap<CpuMatrix, InputTally>; layers: number } | null = null;
  private peakBytes = 0;

  constructor(options: BackendOptions, kernels: CpuKernels, weights: CpuWeights) {
    const { config, contextLength, notices = [] } = options;
    this.adapter = { backend: "cpu", vendor: "", architecture: "", description: `${kernels.name} on the CPU`, isFallback: false, features: [], limits: {}, notices };
    this.options = options;
    this.config = config;
    this.kernels = kernels;
    this.contextLength = contextLength;
    this.chunkTokens = chunkTokensOf(contextLength);
    const arrays = allocating("Its KV cache and activations need", () => allocateTogether(kernels, (kernels) => createArrays(kernels, options)));
    this.buffers = { ...arrays, weights, window: null };
    this.peakBytes = this.memory.total;
  }

  /** Bytes of the arrays, and as staging what a WebAssembly memory has beside them; all zero after dispose() but the peak. */
  get memory(): MemoryReport {
    const { weights, embedding, scales } = this.buffers?.weights.bytes ?? { weights: 0, embedding: 0, scales: 0 };
    let kvCache = 0;
    let activations = 0;
    if (this.buffers) {
      const { keys, values, input, scratch, ...others } = this.buffers;
      const arrays: unknown[] = [...Object.values(others), scratch.block, scratch.sums];
      kvCache = keys.bytes + values.bytes;
      activations = input.bytes;
      for (const array of arrays) if (ArrayBuffer.isView(array)) activations += array.byteLength;
    }
    const staging = this.kernels.overheadBytes;
    const total = weights + embedding + scales + kvCache + activations + staging;
    return { weights, embedding, scales, kvCache, activations, staging, total, peakBytes: Math.max(this.peakBytes, total) };
  }

  async forward(tokens: readonly number[], start: number, signal?: AbortSignal): Promise<Float32Array> {
    const buffers = this.begin(signal);
    const C = this.config.nEmbd;
    const { x, normed, logits, weights } = buffers;
    let lastRow = 0;
    for (let first = 0; first < tokens.length; first += this.chunkTokens) {
      const chunk = tokens.slice(first, first + this.chunkTokens);
      await this.runLayers(buffers, chunk, start + first, signal);
      lastRow = chunk.length - 1;
    }
    this.norm(buffers, weights.lnF, x.subarray(lastRow * C), 1);
    await this.multiply(buffers, weights.head, normed, 1, logits, signal);
    return logits.slice();
  }

  async encodeWindow(tokens: readonly number[], signal?: AbortSignal): Promise<void> {
    const buffers = this.begin(signal);
    const C = this.config.nEmbd;
    const { lnF } = buffers.weights;
    this.windowTokens = 0;
    buffers.window ??= allocating("The hidden states of a window need", () => new Float32Array(this.contextLength * C));
    this.peakBytes = this.memory.peakBytes;
    for (let first = 0; first < tokens.length; first += this.chunkTokens) {
      const chunk = tokens.slice(first, first + this.chunkTokens);
      await this.runLayers(buffers, chunk, first, signal);
      this.norm(buffers, lnF, buffers.x, chunk.length);
      buffers.window.set(buffers.normed.subarray(0, chunk.length * C), first * C);
    }
    this.windowTokens = tokens.length;
  }

  async score(from: number, targets: readonly number[], signal?: AbortSignal): Promise<Float32Array> {
    const buffers = this.begin(signal);
    this.requireRows(from, targets.length);
    const logProbs = new Float32Array(targets.length);
    for (let first = 0; first < targets.length; first += this.chunkTokens) {
      const chunk = targets.slice(first, first + this.chunkTokens);
      const distribution = new Distribution(this.kernels, chunk);
      this.loadWindow(buffers, from + first, chunk.length);
      await this.forEachBlock(signal, (row, rows) => {
        distribution.add(this.headBlock(buffers, row, rows), row, rows);
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
      const base = new Distribution(baseline.kernels, chunk);
      const candidate = new Distribution(this.kernels, chunk);
      baseline.loadWindow(baseBuffers, from + first, chunk.length);
      this.loadWindow(buffers, from + first, chunk.length);
      await this.forEachBlock(signal, (row, count) => {
        const baseLogits = baseline.headBlock(baseBuffers, row, count);
        const logits = this.headBlock(buffers, row, count);
        baseBuffers.otherLogits.set(logits.subarray(0, chunk.length * count)); // where the baseline's loops can read them
        base.add(baseLogits, row, count, baseBuffers.otherLogits);
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

  async observe(windows: readonly (readonly number[])[], names: readonly string[], { gram, signal, onTokens }: ObserveOptions): Promise<Map<string, InputStatistics>> {
    const buffers = this.begin(signal);
    const { layers, lnF, head } = buffers.weights;
    const known = new Map<string, { matrix: CpuMatrix; layers: number }>();
    for (const [i, { cAttn, attnCProj, cFc, mlpCProj }] of layers.entries()) {
      const linears = { "attn.c_attn": cAttn, "attn.c_proj": attnCProj, "mlp.c_fc": cFc, "mlp.c_proj": mlpCProj };
      for (const [name, { matrix }] of Object.entries(linears)) known.set(`h.${i}.${name}.weight`, { matrix, layers: i + 1 });
    }
    known.set(headName(this.config), { matrix: head, layers: layers.length });
    const asked = lookUp(known, names);
    const tallies = new Map([...asked.values()].map(({ matrix }) => [matrix, new InputTally(matrix.K, gram)]));
    this.observed = { tallies, layers: Math.max(0, ...[...asked.values()].map(({ layers }) => layers)) };
    try {
      let tokens = 0;
      for (const window of windows) {
        for (let first = 0; first < window.length; first += this.chunkTokens) {
          const chunk = window.slice(first, first + this.chunkTokens);
          await this.runLayers(buffers, chunk, first, signal);
          if (tallies.has(head)) {
            this.norm(buffers, lnF, buffers.x, chunk.length);
            await this.see(buffers, head, buffers.normed, chunk.length, signal);
          }
          tokens += chunk.length;
          onTokens?.(tokens);
        }
      }
    } finally {
      this.observed = null;
    }
    const statistics = new Map<string, InputStatistics>();
    for (const [name, { matrix }] of asked) statistics.set(name, await statisticsOf(name, tallies.get(matrix)!, signal));
    return statistics;
  }

  async readTensor(name: string, signal?: AbortSignal): Promise<QuantizedTensor | Float32Array> {
    const { weights } = this.begin(signal);
    const tensor = weights.matrices.get(name)?.toTensor() ?? weights.vectors.get(name)?.slice();
    if (!tensor) throw new EngineError("checkpoint", `Tensor "${name}" was not given.`, { tensor: name });
    return tensor;
  }

  dispose(): void {
    this.peakBytes = this.memory.peakBytes;
    this.buffers = null;
    this.kernels = plainKernels; // lets go of the WebAssembly memory
  }

  /** @throws TypeError for a model that these weights do not fit, or whose activations are int8: what is borrowed multiplies floats */
  lend(options: BackendOptions): Lender {
    requireLender(this.options, options);
    if (options.activations === "int8") throw new TypeError("base has int8 activations; expected float ones.");
    const { weights, scratch } = this.begin(undefined);
    return { weights, block: scratch.block };
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

  /** Embeds tokens and runs all layers (those that observe() needs) over them; leaves the residual stream in x, f32 [T, C]. T ≤ chunkTokens. */
  private async runLayers(buffers: Buffers, tokens: readonly number[], start: number, signal?: AbortSignal): Promise<void> {
    const { nEmbd: C, nInner, activation } = this.config;
    const { weights, x, normed, projected, qkv, inner, keys, values, scratch: { block } } = buffers;
    const T = tokens.length;
    tokens.forEach((token, t) => {
      weights.wte.restoreRows(token, token + 1, block, C);
      for (let c = 0; c < C; c++) x[t * C + c] = block[c]! + weights.wpe[(start + t) * C + c]!;
    });
    for (const [layer, { ln1, cAttn, attnCProj, ln2, cFc, mlpCProj }] of weights.layers.slice(0, this.observed?.layers).entries()) {
      this.norm(buffers, ln1, x, T);
      await this.linear(buffers, cAttn, normed, T, qkv, signal);
      for (let t = 0; t < T; t++) {
        keys.store(layer, start + t, qkv, t * 3 * C + C);
        values.store(layer, start + t, qkv, t * 3 * C + 2 * C);
      }
      await this.attend(buffers, layer, T, start, signal);
      await this.linear(buffers, attnCProj, normed, T, projected, signal);
      addResidual(x, projected, T * C);

      this.norm(buffers, ln2, x, T);
      await this.linear(buffers, cFc, normed, T, inner, signal);
      this.kernels.activate(activation, inner, T * nInner);
      await this.linear(buffers, mlpCProj, inner, T, projected, signal);
      addResidual(x, projected, T * C);
    }
  }

  /** normed = layer norm of x, f32 [T, C]. */
  private norm({ normed, scratch: { block } }: Buffers, { weight, bias }: Norm, x: Float32Array, T: number): void {
    const { nEmbd: C, layerNormEpsilon } = this.config;
    block.set(weight); // where the loops can read them
    block.set(bias, C);
    this.kernels.layerNorm(x, normed, T, C, block, layerNormEpsilon);
  }

  /** normed = softmax(q · kᵀ · scale, causal) · v, with q from qkv and k, v from the cache, head by head. */
  private async attend({ qkv, keys, values, scores, cached, normed }: Buffers, layer: number, T: number, start: number, signal?: AbortSignal): Promise<void> {
    const { nHead: H, nEmbd: C, scaleAttnWeights, scaleAttnByInverseLayerIdx } = this.config;
    const { kernels } = this;
    const D = C / H;
    const S = start + T; // positions that the last token sees
    const paddedS = roundUp(S, LANES);
    const scale = (scaleAttnWeights ? 1 / Math.sqrt(D) : 1) / (scaleAttnByInverseLayerIdx ? layer + 1 : 1);
    for (let head = 0; head < H; head++) {
      const query = { values: qkv, start: head * D, stride: 3 * C, count: T }; // what follows D values meets the zeros that pad the keys
      const weights = { values: scores, start: 0, stride: paddedS, count: T };
      kernels.multiplyRows(query, keys.read(layer, head, S, cached), roundUp(D, LANES), weights);
      causalSoftmax(kernels, scores, T, paddedS, start, scale);
      kernels.multiplyRows(weights, values.read(layer, head, S, cached), paddedS, { values: normed, start: head * D, stride: C, count: T });
      await this.rest(signal);
    }
  }

  /** y = x · matrixᵀ + bias; x: f32 [T, K], y: f32 [T, O]. */
  private async linear(buffers: Buffers, { matrix, bias }: Linear, x: Float32Array, T: number, y: Float32Array, signal?: AbortSignal): Promise<void> {
    await this.see(buffers, matrix, x, T, signal);
    await this.multiply(buffers, matrix, x, T, y, signal);
    buffers.scratch.block.set(bias); // where the loops can read it
    this.kernels.addBias(y, T, bias.length, buffers.scratch.block);
  }

  /** Counts rows of a matrix's input, f32 [T, K], where observe() asked for them. */
  private async see(buffers: Buffers, matrix: CpuMatrix, x: Float32Array, T: number, signal?: AbortSignal): Promise<void> {
    await this.observed?.tallies.get(matrix)?.add(this.kernels, x, T, buffers, () => this.rest(signal));
  }

  /** y = x · matrixᵀ; x: f32 [T, K], y: f32 [T, O]. */
  private async multiply({ input, scratch }: Buffers, matrix: CpuMatrix, x: Float32Array, T: number, y: Float32Array, signal?: AbortSignal): Promise<void> {
    const { O, K } = matrix;
    input.load(x, T, K, matrix.coding);
    const rowsPerStep = roundUp(PRODUCTS_PER_LOOK / (K * T), BLOCK_ROWS);
    for (let from = 0; from < O; from += rowsPerStep) {
      matrix.multiply(input, { values: y, start: from, stride: O, count: T }, from, Math.min(from + rowsPerStep, O), scratch);
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

  /** Makes T rows of the window the input of headBlock(). */
  private loadWindow({ input, weights, window }: Buffers, from: number, T: number): void {
    const C = this.config.nEmbd;
    input.load(window!.subarray(from * C), T, C, weights.head.coding);
  }

  /** Logits of those rows for a block of the vocabulary, f32 [T, rows]; overwritten by the next call. */
  private headBlock({ input, weights, scratch, blockLogits }: Buffers, firstRow: number, rows: number): Float32Array {
    weights.head.multiply(input, { values: blockLogits, start: 0, stride: rows, count: input.T }, firstRow, firstRow + rows, scratch);
    return blockLogits;
  }
}
