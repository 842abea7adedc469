import { headName } from "../checkpoint/gpt2Weights.ts";
import type { CheckpointTensor } from "../checkpoint/types.ts";
import { EngineError } from "../errors.ts";
import type { Gpu, MemoryPurpose } from "../gpu/device.ts";
import { KernelCompiler, type Variants } from "../gpu/pipeline.ts";
import { attentionShape, bindDecodeAttention, bindPrefillAttention, maxSplits, SPLIT_POSITIONS, WINDOW_ALIGNMENT } from "../kernels/attention.ts";
import { bindEmbedding } from "../kernels/embedding.ts";
import { bindLayerNorm } from "../kernels/layerNorm.ts";
import { bindGemm, bindGemv, candidateBytes, fitsPrologue, type LinearBuffers } from "../kernels/linear.ts";
import { uploadMatrix, type GpuMatrix } from "../kernels/matrix.ts";
import { sequence, type Op } from "../kernels/op.ts";
import { fetchPart } from "../parts.ts";
import type { InputStatistics } from "../quantize/inputStatistics.ts";
import type { PackedWeights } from "../quantize/layout.ts";
import { COLUMN_PADDING, type PackedMatrix, padTo } from "../quantize/pack.ts";
import type { AdapterSummary, Gpt2Config, MemoryReport, QuantizedTensor } from "../types.ts";
import type { SamplingOptions } from "../kernels/sampling.ts";
import { type Backend, type BackendBuilder, type BackendOptions, type MatrixInput, type ObserveOptions, requireLender, type RowComparison, type SampledToken } from "./backend.ts";
import type { GpuInspection } from "./gpuInspection.ts";
import type { ObservedInput } from "./gpuObservation.ts";
import { chooseVariants, type MatrixKind } from "./knownAnswers.ts";
import { tunedGemv } from "./tuning.ts";
import { createLoopBuffers, DecodeLoop, type DecodeGraph, HEAD_STEP_BYTES } from "./decodeLoop.ts";
import { attentionForm, createGraphBuffers, createPositionBuffer, type GraphBuffers, stridesOf } from "./gpuBuffers.ts";

/** In Step.splits: the rest is the length of windows that do not see each other (window_start.wgsl). */
const SIDE_BY_SIDE = 0x80000000;

export interface GpuBackendOptions extends BackendOptions {
  /** Cuts matrices into parts of at most so many bytes; the device's binding limit where it is smaller. For tests. */
  maxPartBytes?: number;
  /** Other kernels than those chosen for the device. For tests. */
  variants?: Partial<Variants>;
}

/** Bytes of the largest single tensor in any format (wte as f32): what Gpu.open should ask for. */
export function largestTensorBytes(config: Gpt2Config): number {
  const matrix = (rows: number, columns: number): number => padTo(rows, 64) * padTo(columns, COLUMN_PADDING) * 4;
  return Math.max(matrix(config.vocabSize, config.nEmbd), matrix(config.nPositions, config.nEmbd), matrix(config.nInner, config.nEmbd), matrix(config.nEmbd, config.nInner));
}

/** Takes tensors as they stream in, uploads matrices at once, and keeps the small f32 vectors until finish(). */
export function createGpuBuilder(gpu: Gpu, options: GpuBackendOptions): BackendBuilder {
  const { config } = options;
  const base = lenderOf(gpu, options);
  const C = config.nEmbd;
  const strides = stridesOf(config);
  const maxPartBytes = Math.min(options.maxPartBytes ?? Infinity, gpu.maxBindingBytes);
  const matrices = new Map<string, GpuMatrix>();
  /** By what distinguishes them; those of the layers first. */
  const kinds: { linear: Map<string, MatrixKind>; embedding: Map<string, MatrixKind> } = { linear: new Map(), embedding: new Map() };
  const vectors = new Map<string, Float32Array>();
  let wpe = base?.wpe ?? null;

  /** What was measured for the base is good for what borrows from it. */
  const choose = async (matrices: readonly MatrixKind[]): Promise<{ variants: Partial<Variants>; notices: string[] }> => {
    if (options.variants) return { variants: options.variants, notices: [] };
    if (base && matrices.length === 0) return { variants: base.variants, notices: [] };
    const wanted = base?.variants ?? (gpu.isFallback ? {} : { gemv: await tunedGemv(gpu, adapterName(gpu), matrices) });
    return chooseVariants(gpu, { matrices, attention: { heads: config.nHead, headSize: C / config.nHead, kv: options.kvCache } }, wanted);
  };

  return {
    layout: { layout: "tiles", maxPartBytes },
    async add(tensor: CheckpointTensor, values: PackedWeights | Float32Array, input?: MatrixInput): Promise<void> {
      if (tensor.kind === "position") {
        const rows = Math.min(tensor.shape[0], options.contextLength);
        const padded = new Float32Array(rows * strides.c);
        for (let r = 0; r < rows; r++) padded.set((values as Float32Array).subarray(r * C, (r + 1) * C), r * strides.c);
        wpe = createPositionBuffer(gpu, options);
        await gpu.settle();
        await gpu.upload(wpe, padded);
      } else if (tensor.kind === "vector") {
        vectors.set(tensor.name, (values as Float32Array).slice());
      } else {
        const label = tensor.name.replace(/\.weight$/, "");
        const packed = values as PackedMatrix;
        const purpose: MemoryPurpose = tensor.kind === "embedding" ? "embedding" : "weights";
        const behindNorm = tensor.kind === "embedding" || label.endsWith("c_attn") || label.endsWith("c_fc");
        const linear = tensor.kind !== "embedding";
        const kind: MatrixKind = { format: packed.format, columns: tensor.shape[1], activations: options.activations ?? "float", outlierThreshold: options.outlierThreshold };
        kinds[linear ? "linear" : "embedding"].set(JSON.stringify(kind), kind);
        matrices.set(label, await uploadMatrix(gpu, label, packed, purpose, {
          form: { activation: label.endsWith("c_fc") ? config.activation : "none", bias: linear, residual: linear && !behindNorm },
          activations: options.activations,
          inputRange: input?.range,
          outlierThreshold: options.outlierThreshold,
          yStride: padTo(tensor.shape[0], COLUMN_PADDING),
          biasBase: behindNorm ? packed.paddedColumns / 2 : 0, // gamma and beta come before it
          epsilon: config.layerNormEpsilon,
          headSize: C / config.nHead,
          maxSplits: maxSplits(options.contextLength),
        }));
      }
    },
    async finish(): Promise<Backend> {
      const get = <T>(map: Map<string, T>, lent: ((name: string) => T) | undefined, name: string): T => {
        const found = map.get(name) ?? lent?.(name);
        if (found === undefined) throw new EngineError("checkpoint", `Tensor "${name}" was not given.`, { tensor: name });
        return found;
      };
      if (!wpe) throw new EngineError("checkpoint", 'Tensor "wpe.weight" was not given.', { tensor: "wpe.weight" });
      const { variants, notices } = await choose([...kinds.linear.values(), ...kinds.embedding.values()]);
      const backend = new GpuBackend(gpu, { ...options, variants, notices: [...(options.notices ?? []), ...notices] }, (name) => get(matrices, base?.matrix, name), (name) => get(vectors, base?.vector, name), wpe);
      await backend.build();
      return backend;
    },
    abandon: () => gpu.dispose(),
  };
}

/** @throws TypeError for a base that cannot lend to a model of these options on this device */
function lenderOf(gpu: Gpu, options: GpuBackendOptions): GpuBackend | undefined {
  const { base } = options;
  if (base === undefined) return undefined;
  if (!(base instanceof GpuBackend) || base.gpu.device !== gpu.device) throw new TypeError("base is on another device; expected a model on the device of this one.");
  requireLender(base.options, options);
  base.assertUsable();
  return base;
}

/** Ranges of cached positions that attention works on for a token at `position`. */
function splitsAt(position: number): number {
  return Math.ceil((position + 1) / SPLIT_POSITIONS);
}

/** What a measurement holds for. */
function adapterName(gpu: Gpu): string {
  const { vendor, architecture, description } = gpu.summary([]);
  return `${vendor} ${architecture} ${description}`;
}

/** GPT-2 on WebGPU: a decode graph of 5 · L + 2 dispatches for one token, a prefill graph for many, and the head in blocks of rows for scoring. */
class GpuBackend implements Backend {
  readonly adapter: AdapterSummary;
  readonly lost: Promise<EngineError>;
  private readonly compiler: KernelCompiler;
  private readonly config: Gpt2Config;
  private disposed = false;
  /** The rows' tokens into the residual stream. */
  private embedding!: Op;
  /** One token through the blocks; null where a row does not fit the fused kernels. */
  private decodeBlocks: Op | null = null;
  private prefillBlocks!: Op;
  /** The prefill graph op by op with the final layer norm behind it, for observe(). */
  private observedOps: readonly Op[] = [];
  /** By the names of linear matrices and the head. */
  private readonly inputs = new Map<string, ObservedInput>();
  /** null where the decode graph is, or where wte is in parts. */
  private loop: DecodeLoop | null = null;
  /** Logits of the row of the residual stream that the Step names. */
  private lastLogits!: Op;
  /** Final layer norm of a chunk into the window's hidden states. */
  private keepHidden!: Op;
  /** null until something is asked for beside text. */
  private inspection: GpuInspection | null = null;
  private splits = 1;
  private window: number[] = [];
  private readonly buffers: GraphBuffers;

  constructor(
    readonly gpu: Gpu,
    readonly options: GpuBackendOptions,
    readonly matrix: (name: string) => GpuMatrix,
    readonly vector: (name: string) => Float32Array,
    readonly wpe: GPUBuffer,
  ) {
    this.config = options.config;
    this.adapter = gpu.summary(options.notices ?? []);
    this.lost = gpu.lost;
    this.compiler = new KernelCompiler(gpu, options.variants);
    this.buffers = createGraphBuffers(gpu, options);
  }

  get memory(): MemoryReport {
    return this.gpu.memory;
  }

  get variants(): Variants {
    return this.compiler.variants;
  }

  /** Lays out activations and caches, compiles every kernel and binds the graph. */
  async build(): Promise<void> {
    const { config, options, compiler } = this;
    const { nEmbd: C, nLayer: L } = config;
    const strides = stridesOf(config);
    const form = attentionForm(options);
    const fused = fitsPrologue(C, options);
    const { step, tokens, logits: logitsRow, hidden, none, x, x2, normed, mixed, qkv, inner, xCodes, partials, layers, finalAux } = this.buffers;

    const wte = this.matrix("wte");
    const head = this.head();
    const loopBuffers = fused && wte.parts.length === 1 ? createLoopBuffers(this.gpu, config.vocabSize, options.contextLength, candidateBytes(compiler, head)) : null;
    await this.gpu.settle(); // before they are bound

    const decode: Promise<Op>[] = [];
    const prefill: Promise<Op>[] = [];
    const gemm = (matrix: GpuMatrix, buffers: Omit<LinearBuffers, "run" | "xCodes">): void => {
      this.inputs.set(`${matrix.label}.weight`, { matrix, x: buffers.x, op: prefill.length });
      prefill.push(bindGemm(compiler, matrix.label, matrix, { run: step, xCodes, ...buffers }));
    };
    const embedding = bindEmbedding(compiler, wte, { run: step, tokens, wpe: this.wpe, x });

    for (let i = 0; i < L; i++) {
      const h = `h.${i}`;
      const [cAttn, cProj, cFc, mlpProj] = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"].map((name) => this.matrix(`${h}.${name}`)) as [GpuMatrix, GpuMatrix, GpuMatrix, GpuMatrix];
      const { attnAux, projAux, fcAux, mlpProjAux, cache, kvScales, shape } = layers[i]!;
      this.writeAux(attnAux, `${h}.ln_1`, `${h}.attn.c_attn.bias`);
      this.writeAux(projAux, null, `${h}.attn.c_proj.bias`);
      this.writeAux(fcAux, `${h}.ln_2`, `${h}.mlp.c_fc.bias`);
      this.writeAux(mlpProjAux, null, `${h}.mlp.c_proj.bias`);
      const scale = (config.scaleAttnWeights ? 1 / Math.sqrt(form.headSize) : 1) / (config.scaleAttnByInverseLayerIdx ? i + 1 : 1);
      await this.gpu.upload(shape, attentionShape(form, { qkv: strides.qkv, y: strides.c }, scale));

      const attention = { run: step, shape, qkv, cache, kvScales };
      if (fused) {
        decode.push(
          bindGemv(compiler, `${h}.attn.c_attn`, cAttn, "layer_norm", { run: step, x, aux: attnAux, residual: none, y: qkv }),
          bindDecodeAttention(compiler, `${h}.attn`, form, { ...attention, y: partials }, () => this.splits),
          bindGemv(compiler, `${h}.attn.c_proj`, cProj, "merge", { run: step, x: partials, aux: projAux, residual: x, y: x2 }),
          bindGemv(compiler, `${h}.mlp.c_fc`, cFc, "layer_norm", { run: step, x: x2, aux: fcAux, residual: none, y: inner }),
          bindGemv(compiler, `${h}.mlp.c_proj`, mlpProj, "none", { run: step, x: inner, aux: mlpProjAux, residual: x2, y: x }),
        );
      }
      prefill.push(bindLayerNorm(compiler, `${h}.ln_1`, { run: step, shape: cAttn.parts[0]!.shape, x, aux: attnAux, y: normed }, { keepPosition: false }));
      gemm(cAttn, { x: normed, aux: attnAux, residual: none, y: qkv });
      prefill.push(bindPrefillAttention(compiler, `${h}.attn`, form, { ...attention, y: mixed }));
      gemm(cProj, { x: mixed, aux: projAux, residual: x, y: x2 });
      prefill.push(bindLayerNorm(compiler, `${h}.ln_2`, { run: step, shape: cFc.parts[0]!.shape, x: x2, aux: fcAux, y: normed }, { keepPosition: false }));
      gemm(cFc, { x: normed, aux: fcAux, residual: none, y: inner });
      gemm(mlpProj, { x: inner, aux: mlpProjAux, residual: x2, y: x });
    }

    this.writeAux(finalAux, "ln_f", null);
    const lastNorm = bindLayerNorm(compiler, "ln_f.last", { run: step, shape: head.parts[0]!.shape, x, aux: finalAux, y: normed }, { keepPosition: false });
    this.inputs.set(headName(config), { matrix: head, x: normed, op: prefill.length + 1 });
    const keepHidden = bindLayerNorm(compiler, "ln_f", { run: step, shape: head.parts[0]!.shape, x, aux: finalAux, y: hidden }, { keepPosition: true });
    const candidates = loopBuffers?.candidates ? { ...loopBuffers, candidates: loopBuffers.candidates } : undefined;
    const logits = fused
      ? bindGemv(compiler, "head", head, "layer_norm", { run: step, x, aux: finalAux, residual: none, y: logitsRow }, candidates)
      : Promise.all([
          lastNorm,
          bindGemv(compiler, "head", head, "none", { run: step, x: normed, aux: finalAux, residual: none, y: logitsRow }),
        ]).then(([norm, gemv]): Op => ({ record: (pass, rows, stepBytes) => (norm.record(pass, rows), gemv.record(pass, 1, stepBytes)) }));

    const graph: DecodeGraph = {
      vocabSize: config.vocabSize,
      contextLength: options.contextLength,
      wte,
      wpe: this.wpe,
      x,
      logits: logitsRow,
      steps: step,
      prefill: (tokens, start, signal, finish, after) => this.runToLogits(tokens, start, signal, finish, after),
      step: (position) => [position, 1, 0, splitsAt(position)],
      recordToken: (pass, position, stepBytes) => {
        this.splits = splitsAt(position);
        this.decodeBlocks!.record(pass, 1, stepBytes);
        this.lastLogits.record(pass, 1, stepBytes);
      },
      assertUsable: () => this.assertUsable(),
    };
    const loop = loopBuffers && DecodeLoop.build(this.gpu, compiler, graph, loopBuffers);

    const [embed, prefillOps, decodeOps] = await Promise.all([embedding, Promise.all(prefill), fused ? Promise.all(decode) : null]);
    [this.keepHidden, this.lastLogits, this.loop] = await Promise.all([keepHidden, logits, loop]);
    this.embedding = embed;
    this.observedOps = [...prefillOps, await lastNorm];
    this.prefillBlocks = sequence(prefillOps);
    this.decodeBlocks = decodeOps && sequence(decodeOps);
    await this.gpu.settle();
  }

  async forward(tokens: readonly number[], start: number, signal?: AbortSignal): Promise<Float32Array> {
    this.assertUsable();
    const { logits, staging } = this.buffers;
    const logitBytes = this.config.vocabSize * 4;
    await this.runToLogits(tokens, start, signal, undefined, (encoder) => encoder.copyBufferToBuffer(logits, 0, staging, 0, logitBytes));
    const bytes = await this.gpu.read(staging, logitBytes);
    signal?.throwIfAborted();
    return new Float32Array(bytes);
  }

  decode(tokens: readonly number[], options: SamplingOptions, limit: number, signal?: AbortSignal, drawn: readonly number[] = []): AsyncGenerator<SampledToken, void, undefined> | null {
    return this.loop?.fits(options) ? this.loop.run(tokens, options, limit, signal, drawn) : null;
  }

  windowsAtOnce(windowTokens: number): number {
    return windowTokens % WINDOW_ALIGNMENT === 0 ? Math.max(1, Math.floor(this.options.contextLength / windowTokens)) : 1;
  }

  async encodeWindow(tokens: readonly number[], signal?: AbortSignal, windowTokens = tokens.length): Promise<void> {
    this.assertUsable();
    this.window = [];
    await this.runChunks(tokens, 0, signal, (pass, count) => this.keepHidden.record(pass, count), undefined, windowTokens);
    this.window = [...tokens];
  }

  async score(first: number, targets: readonly number[], signal?: AbortSignal): Promise<Float32Array> {
    this.requireRows(first, targets.length);
    return (await this.inspect(signal)).score(first, targets, signal);
  }

  async compare(baseline: Backend, first: number, targets: readonly number[], signal?: AbortSignal): Promise<RowComparison> {
    if (!(baseline instanceof GpuBackend) || baseline.gpu.device !== this.gpu.device) throw new TypeError("compare: the baseline must live on the same device.");
    baseline.requireRows(first, targets.length);
    this.requireRows(first, targets.length);
    return (await this.inspect(signal)).compare(await baseline.inspect(signal), first, targets, signal);
  }

  async observe(windows: readonly (readonly number[])[], names: readonly string[], options: ObserveOptions): Promise<Map<string, InputStatistics>> {
    this.assertUsable();
    return (await this.inspect(options.signal)).observe(windows, names, options);
  }

  async readTensor(name: string, signal?: AbortSignal): Promise<QuantizedTensor | Float32Array> {
    this.assertUsable();
    signal?.throwIfAborted();
    return (await this.inspect(signal)).readTensor(name, signal);
  }

  dispose(): void {
    this.disposed = true;
    this.gpu.dispose();
  }

  private async inspect(signal: AbortSignal | undefined): Promise<GpuInspection> {
    if (this.inspection) return this.inspection;
    const { GpuInspection } = await fetchPart("What measures a model on WebGPU", () => import("./gpuInspection.ts"), signal);
    this.assertUsable();
    const { gpu, compiler, options, buffers, inputs, observedOps, matrix, vector, wpe } = this;
    const runWindow = async (window: readonly number[], signal: AbortSignal | undefined, blocks: Op): Promise<void> => {
      await this.runChunks(window, 0, signal, () => undefined, undefined, window.length, blocks);
      await gpu.idle(); // as between chunks
      this.assertUsable();
    };
    this.inspection = new GpuInspection({ gpu, compiler, options, buffers, head: this.head(), inputs, observedOps, matrix, vector, wpe, runWindow });
    return this.inspection;
  }

  /** Runs tokens to the logits of the last; `finish` and `after` join the last submit. */
  private runToLogits(tokens: readonly number[], start: number, signal: AbortSignal | undefined, finish?: (pass: GPUComputePassEncoder) => void, after?: (encoder: GPUCommandEncoder) => void): Promise<void> {
    this.window = [];
    const head = (pass: GPUComputePassEncoder, count: number, isLast: boolean): void => {
      if (!isLast) return;
      this.lastLogits.record(pass, count, HEAD_STEP_BYTES);
      finish?.(pass);
    };
    return this.runChunks(tokens, start, signal, head, after);
  }

  /** Runs tokens through the blocks in chunks, one submit each; `finish` records what follows them, `after` what follows the last pass. Windows of fewer tokens lie side by side; `only` takes the place of the blocks. */
  private async runChunks(tokens: readonly number[], start: number, signal: AbortSignal | undefined, finish: (pass: GPUComputePassEncoder, count: number, isLast: boolean) => void, after?: (encoder: GPUCommandEncoder) => void, windowTokens = tokens.length, only?: Op): Promise<void> {
    const { queue } = this.gpu.device;
    const { chunkTokens, step } = this.buffers;
    const sideBySide = windowTokens < tokens.length;
    for (let at = 0; at < tokens.length; at += chunkTokens) {
      signal?.throwIfAborted();
      const chunk = Uint32Array.from(tokens.slice(at, at + chunkTokens));
      const count = chunk.length;
      const isLast = at + count === tokens.length;
      this.splits = splitsAt(start + at + count - 1);
      queue.writeBuffer(this.buffers.tokens, 0, chunk);
      const decodeBlocks = count === 1 && !sideBySide ? this.decodeBlocks : null;
      queue.writeBuffer(step, 0, Uint32Array.of(start + at, count, 0, sideBySide ? (SIDE_BY_SIDE | windowTokens) >>> 0 : this.splits));
      queue.writeBuffer(step, HEAD_STEP_BYTES, Uint32Array.of(start + at + count - 1, 1, count - 1, this.splits)); // of the last token
      const blocks = only ?? decodeBlocks ?? this.prefillBlocks;
      this.gpu.submit(count === 1 ? "decode" : "prefill", (pass) => {
        this.embedding.record(pass, count);
        blocks.record(pass, count);
        finish(pass, count, isLast);
      }, isLast ? after : undefined);
      if (!isLast) await this.gpu.idle(); // an abort between chunks takes effect, and the queue stays short
    }
    this.gpu.throwFailure();
  }

  private head(): GpuMatrix {
    return this.matrix(headName(this.config).replace(/\.weight$/, ""));
  }

  /** @throws RangeError for rows that the last window does not have; what assertUsable() throws */
  private requireRows(first: number, count: number): void {
    this.assertUsable();
    if (first < 0 || first + count > this.window.length) throw new RangeError(`Rows ${first}…${first + count - 1} are outside the window of ${this.window.length} tokens.`);
  }

  /** Fills a buffer of LayerBuffers with gamma and beta of a norm and a bias, as far as it has them. */
  private writeAux(aux: GPUBuffer, norm: string | null, bias: string | null): void {
    const { c } = stridesOf(this.config);
    const values = new Float32Array(aux.size / 4);
    if (norm) {
      values.set(this.vector(`${norm}.weight`), 0);
      values.set(this.vector(`${norm}.bias`), c);
    }
    if (bias) values.set(this.vector(bias), norm ? 2 * c : 0);
    this.gpu.device.queue.writeBuffer(aux, 0, values);
  }

  assertUsable(): void {
    if (this.disposed) throw new EngineError("disposed", "The model was disposed.");
    this.gpu.throwFailure();
  }
}
