import { gpt2Weights } from "../checkpoint/gpt2Weights.ts";
import { BufferUsage } from "../gpu/constants.ts";
import type { Gpu, MemoryPurpose } from "../gpu/device.ts";
import type { KernelCompiler } from "../gpu/pipeline.ts";
import { bindGemm } from "../kernels/linear.ts";
import type { GpuMatrix } from "../kernels/matrix.ts";
import { bindNormalizer, normalizerWords } from "../kernels/normalizer.ts";
import { type Op, sequence } from "../kernels/op.ts";
import { bindRowDivergence, bindRowSums, type RowSumsBuffers } from "../kernels/rows.ts";
import type { InputStatistics } from "../quantize/inputStatistics.ts";
import type { PackedPart } from "../quantize/pack.ts";
import { unpackTensor } from "../quantize/unpack.ts";
import type { QuantizedTensor } from "../types.ts";
import type { BackendOptions, ObserveOptions, RowComparison } from "./backend.ts";
import { type GraphBuffers, stridesOf } from "./gpuBuffers.ts";
import { GpuObservation, type ObservedInput } from "./gpuObservation.ts";
import { lookUp, statisticsOf } from "./observation.ts";

/** Rows of logits that exist at a time while two models are compared; 64 × 50,257 f32 are 12.9 MB. */
const COMPARED_ROWS = 64;
/** Rows scored by one submit, whose logits are never stored. A software adapter would be deaf to an abort for seconds with more. */
const SCORED_ROWS = { hardware: 256, software: 64 };

const { storage, uniform, copySrc, copyDst, mapRead } = BufferUsage;

/** What of a model on the GPU is inspected. */
export interface InspectedModel {
  gpu: Gpu;
  compiler: KernelCompiler;
  options: BackendOptions & { maxPartBytes?: number };
  buffers: GraphBuffers;
  head: GpuMatrix;
  /** By the names of linear matrices and the head. */
  inputs: ReadonlyMap<string, ObservedInput>;
  /** The prefill graph op by op with the final layer norm behind it. */
  observedOps: readonly Op[];
  matrix: (name: string) => GpuMatrix;
  vector: (name: string) => Float32Array;
  wpe: GPUBuffer;
  /** Runs a window from position 0, with `blocks` in the place of the graph's. */
  runWindow: (window: readonly number[], signal: AbortSignal | undefined, blocks: Op) => Promise<void>;
}

/** What is asked of a model on the GPU beside text: scores of a window, comparison with another model, statistics of inputs, its tensors. See Backend. */
export class GpuInspection {
  private readonly scoring = new Lazy(() => this.model.gpu.keeping(() => this.buildScoring()));
  private readonly comparing = new Lazy(() => this.model.gpu.keeping(() => this.buildComparing()));
  private divergence: { baseline: GpuInspection; op: Op } | null = null;

  constructor(private readonly model: InspectedModel) {}

  async score(first: number, targets: readonly number[], signal?: AbortSignal): Promise<Float32Array> {
    const { gpu } = this.model;
    const { step, expected, sums, staging, rows, op } = await this.scoring.get();
    const out = new Float32Array(targets.length);
    for (let i = 0; i < targets.length; i += rows) {
      signal?.throwIfAborted();
      const block = targets.slice(i, i + rows);
      this.writeBlock(step, expected, first + i, block);
      gpu.submit("score", (pass) => op.record(pass, block.length), (encoder) => encoder.copyBufferToBuffer(sums, 0, staging, 0, block.length * 16));
      out.set(logProbsOf(new Float32Array(await gpu.read(staging, block.length * 16)), block.length, 0), i);
    }
    signal?.throwIfAborted();
    return out;
  }

  async compare(baseline: GpuInspection, first: number, targets: readonly number[], signal?: AbortSignal): Promise<RowComparison> {
    const { gpu, compiler } = this.model;
    const [base, own] = [await baseline.comparing.get(), await this.comparing.get()];
    if (this.divergence?.baseline !== baseline) this.divergence = { baseline, op: await bindRowDivergence(compiler, base.sums, own.sums, own.divergence) };
    const { op } = this.divergence;
    const n = targets.length;
    const rows: RowComparison = { baseLogProbs: new Float32Array(n), logProbs: new Float32Array(n), klDivergence: new Float32Array(n), sameTop: new Uint8Array(n) };
    for (let i = 0; i < n; i += COMPARED_ROWS) {
      signal?.throwIfAborted();
      const block = targets.slice(i, i + COMPARED_ROWS);
      const count = block.length;
      baseline.writeBlock(base.step, base.sums.expected, first + i, block);
      this.writeBlock(own.step, own.sums.expected, first + i, block);
      gpu.submit("compare", (pass) => {
        base.op.record(pass, count);
        own.op.record(pass, count);
        op.record(pass, count);
      }, (encoder) => {
        encoder.copyBufferToBuffer(base.sums.sums, 0, own.staging, 0, count * 16);
        encoder.copyBufferToBuffer(own.sums.sums, 0, own.staging, count * 16, count * 16);
        encoder.copyBufferToBuffer(own.divergence, 0, own.staging, count * 32, count * 4);
      });
      const read = new Float32Array(await gpu.read(own.staging, count * 36));
      rows.baseLogProbs.set(logProbsOf(read, count, 0), i);
      rows.logProbs.set(logProbsOf(read, count, count * 4), i);
      for (let r = 0; r < count; r++) {
        rows.sameTop[i + r] = read[r * 4 + 3] === read[(count + r) * 4 + 3] ? 1 : 0;
        rows.klDivergence[i + r] = read[count * 8 + r]!;
      }
    }
    signal?.throwIfAborted();
    return rows;
  }

  async observe(windows: readonly (readonly number[])[], names: readonly string[], { gram, signal, onTokens }: ObserveOptions): Promise<Map<string, InputStatistics>> {
    const { gpu, compiler, options, buffers, inputs: known, observedOps, runWindow } = this.model;
    const inputs = lookUp(known, names);
    const observation = new GpuObservation(gpu, compiler, buffers.step, Math.min(options.maxPartBytes ?? Infinity, gpu.maxBindingBytes));
    try {
      for (const [name, input] of inputs) await observation.add(name, input, gram);
      const blocks = observation.within(observedOps);
      let tokens = 0;
      for (const window of windows) {
        await runWindow(window, signal, blocks);
        tokens += window.length;
        onTokens?.(tokens);
      }
      const statistics = new Map<string, InputStatistics>();
      for (const name of inputs.keys()) statistics.set(name, await statisticsOf(name, await observation.read(name, tokens), signal));
      signal?.throwIfAborted();
      return statistics;
    } finally {
      observation.destroy();
    }
  }

  async readTensor(name: string, signal?: AbortSignal): Promise<QuantizedTensor | Float32Array> {
    const { gpu, options: { config }, matrix, vector, wpe } = this.model;
    const { kind } = gpt2Weights(config).find((tensor) => tensor.name === name) ?? { kind: "vector" };
    if (kind === "vector") return vector(name).slice();
    if (kind !== "position") return this.readMatrix(matrix(name.replace(/\.weight$/, "")), signal);
    const { nEmbd: C } = config;
    const stride = stridesOf(config).c;
    const padded = new Float32Array(await gpu.download(wpe, signal));
    const values = new Float32Array((padded.length / stride) * C);
    for (let r = 0; r * C < values.length; r++) values.set(padded.subarray(r * stride, r * stride + C), r * C);
    return values;
  }

  private async readMatrix(matrix: GpuMatrix, signal: AbortSignal | undefined): Promise<QuantizedTensor> {
    const { gpu } = this.model;
    const parts: PackedPart[] = [];
    for (const { rowOffset, rows, bases, codes, scales } of matrix.parts) {
      parts.push({ rowOffset, rows, bases, codes: new Uint32Array(await gpu.download(codes, signal)), scales: new Uint32Array(await gpu.download(scales, signal)) });
    }
    return unpackTensor({ ...matrix, parts });
  }

  private async buildScoring(): Promise<Scoring> {
    const { gpu, compiler, head, options: { config, contextLength }, buffers: { hidden, hiddenCodes } } = this.model;
    const rows = Math.min(SCORED_ROWS[compiler.variants.tuning], contextLength);
    const step = this.buffer("score.step", 16, uniform | copyDst);
    const expected = this.buffer("score.expected", rows * 4, storage | copyDst);
    const found = this.buffer("score.found", rows * normalizerWords(config.vocabSize) * 4, storage);
    const sums = this.buffer("score.sums", rows * 16, storage | copySrc);
    const staging = this.buffer("score.staging", rows * 16, mapRead | copyDst, "staging");
    await gpu.settle();
    return { step, expected, sums, staging, rows, op: await bindNormalizer(compiler, "head", head, { run: step, hidden, hiddenCodes, expected, found, sums }) };
  }

  private async buildComparing(): Promise<Comparing> {
    const { gpu, compiler, head, options: { config, contextLength }, buffers: { hidden, hiddenCodes, finalAux } } = this.model;
    const { vocabulary } = stridesOf(config);
    const rows = Math.min(COMPARED_ROWS, contextLength);
    const step = this.buffer("compare.step", 16, uniform | copyDst);
    const sums: RowSumsBuffers = {
      rows: this.buffer("compare.rows", 16, uniform | copyDst),
      logits: this.buffer("compare.logits", rows * vocabulary * 4, storage),
      expected: this.buffer("compare.expected", rows * 4, storage | copyDst),
      sums: this.buffer("compare.sums", rows * 16, storage | copySrc),
    };
    const divergence = this.buffer("compare.divergence", rows * 4, storage | copySrc);
    const staging = this.buffer("compare.staging", rows * 36, mapRead | copyDst, "staging");
    const none = this.buffer("compare.none", 16, storage);
    await gpu.settle();
    await gpu.upload(sums.rows, Uint32Array.of(config.vocabSize, vocabulary, 0, 0));
    const ops = await Promise.all([
      bindGemm(compiler, "head", head, { run: step, x: hidden, xCodes: hiddenCodes, aux: finalAux, residual: none, y: sums.logits }),
      bindRowSums(compiler, sums),
    ]);
    return { step, sums, divergence, staging, op: sequence(ops) };
  }

  private writeBlock(step: GPUBuffer, expected: GPUBuffer, first: number, targets: readonly number[]): void {
    const { queue } = this.model.gpu.device;
    queue.writeBuffer(step, 0, Uint32Array.of(0, targets.length, first, 0));
    queue.writeBuffer(expected, 0, Uint32Array.from(targets));
  }

  private buffer(label: string, sizeBytes: number, usage: number, purpose: MemoryPurpose = "activations"): GPUBuffer {
    return this.model.gpu.createBuffer(label, sizeBytes, usage, purpose);
  }
}

interface Scoring {
  step: GPUBuffer;
  expected: GPUBuffer;
  sums: GPUBuffer;
  staging: GPUBuffer;
  /** Scored by one submit. */
  rows: number;
  op: Op;
}

interface Comparing {
  step: GPUBuffer;
  sums: RowSumsBuffers;
  divergence: GPUBuffer;
  staging: GPUBuffer;
  op: Op;
}

/** What is made on first use. A failure is not kept. */
class Lazy<T> {
  private value: Promise<T> | null = null;
  constructor(private readonly make: () => Promise<T>) {}

  get(): Promise<T> {
    this.value ??= this.make().catch((error: unknown) => {
      this.value = null;
      throw error;
    });
    return this.value;
  }
}

/** ln p(expected) = logit − max − ln Σ of each row, the logarithm in f64. sums: f32 [rows][4] at `offset` */
function logProbsOf(sums: Float32Array, rows: number, offset: number): Float32Array {
  return Float32Array.from({ length: rows }, (_, r) => sums[offset + r * 4 + 2]! - sums[offset + r * 4]! - Math.log(sums[offset + r * 4 + 1]!));
}
