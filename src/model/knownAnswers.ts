import { EngineError } from "../errors.ts";
import { BufferUsage } from "../gpu/constants.ts";
import type { Gpu } from "../gpu/device.ts";
import { KernelCompiler, type Variants } from "../gpu/pipeline.ts";
import { attentionShape, bindDecodeAttention, bindPrefillAttention, cacheBytes, headChunks, type AttentionForm } from "../kernels/attention.ts";
import { bindGemm, bindGemv, codeRowBytes, fitsPrologue, type LinearBuffers } from "../kernels/linear.ts";
import { uploadMatrix, type GpuMatrix } from "../kernels/matrix.ts";
import { sequence, type Op } from "../kernels/op.ts";
import { DYNAMIC_MAP_SIGNED, FP4_CODES, groupLayout, groupOf, NESTED_BLOCK, NF4_CODES, scaleCount } from "../quantize/formats.ts";
import { COLUMN_PADDING, packTensor, padTo } from "../quantize/pack.ts";
import { toFloat32 } from "../safetensors/index.ts";
import type { QuantizedTensor, TensorFormat } from "../types.ts";

/** A matrix of the model, as far as it selects kernels. */
export interface MatrixKind {
  format: TensorFormat;
  columns: number;
  activations: "float" | "int8";
  /** As the matrix's use has it. */
  outlierThreshold?: number;
}

export interface KnownQuestions {
  matrices: readonly MatrixKind[];
  attention: Pick<AttentionForm, "heads" | "headSize" | "kv">;
}

/**
 * Normalized mean squared error that tells garbage from rounding: a wrong lane, stripe or barrier gives about 1, an int8 KV cache or int8 activations 1e-4.
 * The exact tolerances are the tests'.
 */
const GARBAGE_NMSE = 0.01;
/** Where the model's inputs may have outliers, the questions' have some, and more that are none. */
const OUTLIER_THRESHOLD = 0.9;
/** Outputs and rows of x of a question: more than a tile of each, and neither a multiple of one. */
const [N, T] = [72, 19];
const EPSILON = 1e-5;

const { storage, uniform, copySrc, copyDst, mapRead } = BufferUsage;

/** What each device has answered, question by question: a second model asks only what is new about it. */
const answeredByDevice = new WeakMap<GPUDevice, Map<string, Promise<number>>>();

/**
 * The first variant of the kernels that computes known answers on this device, from the fastest to the plainest, with a sentence for
 * `model.adapter.notices` where it is not the fastest. wanted: what was measured to be fast.
 * @throws EngineError shader, where none does
 */
export async function chooseVariants(gpu: Gpu, questions: KnownQuestions, wanted: Partial<Variants> = {}): Promise<{ variants: Variants; notices: string[] }> {
  const { variants: fastest } = new KernelCompiler(gpu, wanted);
  const plain: Variants = { ...fastest, tuning: "software", lanes: 1, dot4: "plain" };
  const candidates = [fastest, { ...fastest, lanes: 1 }, { ...fastest, lanes: 1, dot4: "plain" }, plain] as const satisfies readonly Variants[];
  const found: string[] = [];
  const tried = new Set<string>();
  for (const variants of candidates) {
    const key = JSON.stringify(variants);
    if (tried.has(key)) continue;
    tried.add(key);
    const nmse = await worstError(gpu, variants, questions);
    if (nmse <= GARBAGE_NMSE) return { variants, notices: found.length > 0 ? [`Kernels gave wrong answers on this adapter and are not used: ${found.join("; ")}.`] : [] };
    found.push(`${variants.tuning}, ${variants.lanes} lane(s), ${variants.dot4} products, with an error of ${nmse.toPrecision(2)}`);
  }
  throw new EngineError("shader", `This adapter computes wrong results: ${found.join("; ")}; expected a normalized mean squared error of at most ${GARBAGE_NMSE}.`, { tried: found });
}

async function worstError(gpu: Gpu, variants: Variants, { matrices, attention }: KnownQuestions): Promise<number> {
  const answered = answeredByDevice.get(gpu.device) ?? new Map<string, Promise<number>>();
  answeredByDevice.set(gpu.device, answered);
  const ask = (question: unknown, errors: (bench: Bench) => Promise<number[]>): Promise<number> => {
    const key = JSON.stringify([variants, question]);
    let error = answered.get(key);
    if (!error) {
      error = largestError(gpu, variants, errors);
      answered.set(key, error);
      error.catch(() => answered.delete(key));
    }
    return error;
  };
  const [first] = matrices;
  let worst = await ask({ attention, first }, (bench) => attentionErrors(bench, attention, first!));
  for (const kind of matrices) worst = Math.max(worst, await ask(kind, (bench) => linearErrors(bench, kind)));
  return worst;
}

/** Infinity where one is NaN. */
async function largestError(gpu: Gpu, variants: Variants, errors: (bench: Bench) => Promise<number[]>): Promise<number> {
  const bench = new Bench(gpu, new KernelCompiler(gpu, variants));
  try {
    return (await errors(bench)).reduce((worst, nmse) => (nmse <= worst ? worst : Number.isNaN(nmse) ? Infinity : nmse), 0);
  } finally {
    bench.dispose();
  }
}

/** Numbers from −1 to 1 without a pattern that a misplaced index would keep: MurmurHash3's finalizer of the index. */
function numbers(length: number, seed: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length }, (_, i) => {
    let hash = Math.imul(i + Math.imul(seed, 0x9e3779b1), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    return (hash ^ (hash >>> 16)) / 2 ** 31;
  });
}

/**
 * A tensor [N, columns] of arbitrary codes and scales with the weights that they stand for, f32 [N, columns], some −1.5 to 1.5: what quantizes comes only
 * with a model that has to be quantized.
 */
function arbitraryTensor(format: TensorFormat, columns: number): { tensor: QuantizedTensor; weights: Float32Array } {
  const shape = [N, columns] as const;
  const values = numbers(N * columns, 1);
  const floats = { format, shape, scales: new Float32Array(0), storedBytes: 0 };
  if (format.type === "f32") return { tensor: { ...floats, codes: values }, weights: values };
  if (format.type === "f16") {
    const codes = Uint16Array.from(values, (value) => (value < 0 ? 0xb800 : 0x3800) + 1023 * Math.abs(value)); // ±0.5…1
    return { tensor: { ...floats, codes }, weights: toFloat32(new Uint8Array(codes.buffer), "F16") };
  }
  const count = scaleCount(format, shape);
  const scales = numbers(count, 4).map((value) => 1 + value / 2);
  const tensor: QuantizedTensor = { ...floats, codes: values, scales };
  let valueOf: (code: number, group: number) => number;
  if ("block" in format) {
    const table = format.type === "nf4" ? NF4_CODES : FP4_CODES;
    tensor.codes = Uint8Array.from(values, (value) => 8 + 8 * value);
    valueOf = (code) => table[code]!;
    if (format.doubleQuantization) {
      const nested = { codes: Uint8Array.from(numbers(count, 5), (value) => 128 + 128 * value), absmax: numbers(Math.ceil(count / NESTED_BLOCK), 6).map((value) => value / 2), offset: 1 };
      tensor.doubleQuantization = nested;
      nested.codes.forEach((code, i) => (scales[i] = DYNAMIC_MAP_SIGNED[code]! * nested.absmax[Math.floor(i / NESTED_BLOCK)]! + nested.offset));
    }
  } else {
    const codes = format.type === "int8" ? 128 : 8;
    tensor.codes = Int8Array.from(values, (value) => codes * value);
    tensor.scales = scales.map((scale) => scale / codes);
    const zeroPoints = format.mode === "absmax" ? undefined : Int32Array.from(numbers(count, 7), (value) => (codes / 4) * value);
    tensor.zeroPoints = zeroPoints;
    valueOf = (code, group) => code - (zeroPoints?.[group] ?? 0);
  }
  const layout = groupLayout(format, shape);
  const weights = Float32Array.from(tensor.codes, (code, i) => valueOf(code, groupOf(i, layout)) * tensor.scales[groupOf(i, layout)]!);
  return { tensor, weights };
}

/** Kernels with their inputs; everything made here is destroyed by dispose(). */
class Bench {
  private readonly buffers: GPUBuffer[] = [];

  constructor(
    readonly gpu: Gpu,
    readonly compiler: KernelCompiler,
  ) {}

  buffer(sizeBytes: number, usage: number = storage): GPUBuffer {
    const buffer = this.gpu.createBuffer("known answer", sizeBytes, usage | copyDst, "activations");
    this.buffers.push(buffer);
    return buffer;
  }

  input(values: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>, usage: number = storage): GPUBuffer {
    const buffer = this.buffer(values.byteLength, usage);
    this.gpu.device.queue.writeBuffer(buffer, 0, values);
    return buffer;
  }

  /** Uniform Step. */
  step(start: number, count: number, row = 0): GPUBuffer {
    return this.input(Uint32Array.of(start, count, row, 1), uniform);
  }

  async matrix({ format, columns, activations, outlierThreshold }: MatrixKind, use: { headSize?: number }): Promise<{ matrix: GpuMatrix; weights: Float32Array }> {
    const { tensor, weights } = arbitraryTensor(format, columns);
    const packed = packTensor(tensor, this.gpu.maxBindingBytes);
    const matrix = await uploadMatrix(this.gpu, "known answer", packed, "activations", { yStride: padTo(N, COLUMN_PADDING), biasBase: 0, epsilon: EPSILON, activations, outlierThreshold: outlierThreshold && OUTLIER_THRESHOLD, maxSplits: 1, ...use });
    for (const { shape, codes, scales } of matrix.parts) this.buffers.push(shape, codes, scales);
    return { matrix, weights };
  }

  /** Runs ops for `rows` rows and gives [rows][columns] of y, whose rows are `stride` apart. */
  async run(ops: readonly Op[], rows: number, y: GPUBuffer, columns: number, stride: number): Promise<Float32Array> {
    const bytes = rows * stride * 4;
    const staging = this.gpu.createBuffer("known answer", bytes, mapRead | copyDst, "staging");
    this.buffers.push(staging);
    this.gpu.submit("known answer", (pass) => sequence(ops).record(pass, rows), (encoder) => encoder.copyBufferToBuffer(y, 0, staging, 0, bytes));
    const read = new Float32Array(await this.gpu.read(staging, bytes));
    return Float32Array.from({ length: rows * columns }, (_, i) => read[Math.floor(i / columns) * stride + (i % columns)]!);
  }

  dispose(): void {
    for (const buffer of this.buffers) this.gpu.destroyBuffer(buffer);
  }
}

/** gemm of T rows; gemv of the last, with a layer norm in front where its row fits. */
async function linearErrors(bench: Bench, kind: MatrixKind): Promise<number[]> {
  const { columns: K } = kind;
  const { matrix, weights } = await bench.matrix(kind, {});
  const [kStride, nStride] = [padTo(K, COLUMN_PADDING), padTo(N, COLUMN_PADDING)];
  const x = numbers(T * K, 2);
  const aux = new Float32Array(2 * kStride).fill(1, 0, K); // gamma 1, beta 0, both 0 in the padding
  const y = bench.buffer(T * nStride * 4, storage | copySrc);
  const buffers: LinearBuffers = { run: bench.step(0, T), x: bench.input(padded(x, T, K, kStride)), xCodes: bench.buffer(T * codeRowBytes(K, matrix.outliers)), aux: bench.input(aux), residual: bench.buffer(16), y };
  const product = (row: Float32Array): Float64Array => Float64Array.from({ length: N }, (_, n) => row.reduce((sum, value, k) => sum + value * weights[n * K + k]!, 0));
  const rows = Array.from({ length: T }, (_, t) => x.subarray(t * K, (t + 1) * K));

  const gemm = await bindGemm(bench.compiler, "known answer", matrix, buffers);
  const found = await bench.run([gemm], T, y, N, nStride);
  const errors = [nmse(found, rows.flatMap((row) => [...product(row)]))];

  const withNorm = fitsPrologue(K, kind);
  const last = rows[T - 1]!;
  const gemv = await bindGemv(bench.compiler, "known answer", matrix, withNorm ? "layer_norm" : "none", { ...buffers, run: bench.step(0, 1, T - 1) });
  errors.push(nmse(await bench.run([gemv], 1, y, N, nStride), product(withNorm ? normalized(last) : last)));
  return errors;
}

/** Attention of T tokens together, and of the last by the decode kernel, whose splits a gemv merges. */
async function attentionErrors(bench: Bench, { heads: H, headSize: D, kv }: KnownQuestions["attention"], kind: MatrixKind): Promise<number[]> {
  const C = H * D;
  const strides = { qkv: padTo(3 * C, COLUMN_PADDING), y: padTo(C, COLUMN_PADDING) };
  const form: AttentionForm = { heads: H, headSize: D, positions: T, kv };
  const qkv = numbers(T * 3 * C, 3);
  const at = (t: number, part: number, h: number): Float32Array => qkv.subarray(t * 3 * C + part * C + h * D, t * 3 * C + part * C + (h + 1) * D);
  const scale = 4 / Math.sqrt(D); // far from uniform
  const expected = new Float64Array(T * C);
  for (let t = 0; t < T; t++) {
    for (let h = 0; h < H; h++) {
      const weights = Array.from({ length: t + 1 }, (_, p) => Math.exp(scale * at(t, 0, h).reduce((sum, q, d) => sum + q * at(p, 1, h)[d]!, 0)));
      const total = weights.reduce((a, b) => a + b);
      weights.forEach((weight, p) => at(p, 2, h).forEach((v, d) => (expected[t * C + h * D + d]! += (weight / total) * v)));
    }
  }

  const bytes = cacheBytes(form);
  const shared = { shape: bench.input(attentionShape(form, strides, scale), uniform), cache: bench.buffer(bytes.cache), kvScales: bench.buffer(bytes.scales) };
  const rows = padded(qkv, T, 3 * C, strides.qkv);
  const y = bench.buffer(T * strides.y * 4, storage | copySrc);
  const prefill = await bindPrefillAttention(bench.compiler, "known answer", form, { ...shared, run: bench.step(0, T), qkv: bench.input(rows), y });
  const errors = [nmse(await bench.run([prefill], T, y, C, strides.y), expected)];
  if (kind.columns !== C || !fitsPrologue(C, kind)) return errors;

  const { matrix, weights } = await bench.matrix(kind, { headSize: D });
  const partials = bench.buffer(H * (headChunks(D) + 1) * 16);
  const last = bench.step(T - 1, 1);
  const merged = bench.buffer(padTo(N, COLUMN_PADDING) * 4, storage | copySrc);
  const none = bench.buffer(16);
  const decode = await bindDecodeAttention(bench.compiler, "known answer", form, { ...shared, run: last, qkv: bench.input(rows.slice((T - 1) * strides.qkv)), y: partials }, () => 1);
  const merge = await bindGemv(bench.compiler, "known answer", matrix, "merge", { run: last, x: partials, aux: none, residual: none, y: merged });
  const row = expected.subarray((T - 1) * C);
  const product = Float64Array.from({ length: N }, (_, n) => row.reduce((sum, value, k) => sum + value * weights[n * C + k]!, 0));
  errors.push(nmse(await bench.run([decode, merge], 1, merged, N, padTo(N, COLUMN_PADDING)), product));
  return errors;
}

function padded(values: Float32Array, rows: number, columns: number, stride: number): Float32Array<ArrayBuffer> {
  const wide = new Float32Array(rows * stride);
  for (let r = 0; r < rows; r++) wide.set(values.subarray(r * columns, (r + 1) * columns), r * stride);
  return wide;
}

function normalized(row: Float32Array): Float32Array {
  const mean = row.reduce((a, b) => a + b) / row.length;
  const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / row.length;
  return row.map((value) => (value - mean) / Math.sqrt(variance + EPSILON));
}

/** Mean squared error over mean square. */
function nmse(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  let error = 0;
  let square = 0;
  for (let i = 0; i < expected.length; i++) {
    error += (found[i]! - expected[i]!) ** 2;
    square += expected[i]! ** 2;
  }
  return square === 0 ? error : error / square;
}
