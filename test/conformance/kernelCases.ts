import { BufferUsage } from "../../src/gpu/constants.ts";
import { Gpu } from "../../src/gpu/device.ts";
import { KernelCompiler, type Variants } from "../../src/gpu/pipeline.ts";
import { attentionShape, bindDecodeAttention, bindPrefillAttention, cacheBytes, headChunks, maxSplits, SPLIT_POSITIONS, type AttentionForm, type KvFormat } from "../../src/kernels/attention.ts";
import { bindEmbedding } from "../../src/kernels/embedding.ts";
import { bindColumnStatistics, bindGram, columnStatisticsWords, gramStrips } from "../../src/kernels/inputStatistics.ts";
import { bindLayerNorm } from "../../src/kernels/layerNorm.ts";
import { bindGemm, bindGemv, codeRowBytes } from "../../src/kernels/linear.ts";
import { uploadMatrix } from "../../src/kernels/matrix.ts";
import type { Op } from "../../src/kernels/op.ts";
import { bindNormalizer, normalizerWords } from "../../src/kernels/normalizer.ts";
import { bindRowDivergence, bindRowSums, type RowSumsBuffers } from "../../src/kernels/rows.ts";
import { fromHalfBits, toHalfBits } from "../../src/quantize/half.ts";
import { dequantizeTensor, quantizeTensor } from "../../src/quantize/nearest.ts";
import { packTensor, padTo } from "../../src/quantize/pack.ts";
import { describeFormat } from "../../src/quantize/formats.ts";
import type { Activation, TensorFormat } from "../../src/types.ts";
import { gaussian } from "../fixtures/seededCheckpoint.ts";
import { activate, inputStatistics, klDivergence, kvRoundings, logSoftmax, quantizeActivations, roundToCodes } from "../reference/gpt2.ts";
import { nmse } from "../reference/metrics.ts";
import { tolerances } from "../tolerances.ts";
import { requireAtMost, type ConformanceCase } from "./case.ts";

const { storage, uniform, copySrc, copyDst, mapRead } = BufferUsage;

/** A device with what a kernel case needs around one op: inputs from arrays, one run, the output back. */
export class Workbench {
  readonly compiler: KernelCompiler;
  private constructor(readonly gpu: Gpu, variants: Partial<Variants> | undefined) {
    this.compiler = new KernelCompiler(gpu, variants);
  }

  static async open(device: GPUDevice, variants?: Partial<Variants>): Promise<Workbench> {
    return new Workbench(await Gpu.open({ device, largestTensorBytes: 0 }), variants);
  }

  input(values: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>, usage: number = storage): GPUBuffer {
    const buffer = this.gpu.createBuffer("input", values.byteLength, usage | copyDst, "activations");
    this.gpu.device.queue.writeBuffer(buffer, 0, values);
    return buffer;
  }

  /** Uniform Step. */
  step(start: number, count: number, row = 0, splits = 1): GPUBuffer {
    return this.input(Uint32Array.of(start, count, row, splits), uniform);
  }

  output(length: number): GPUBuffer {
    return this.gpu.createBuffer("output", length * 4, storage | copySrc, "activations");
  }

  async run(ops: readonly Op[], rows: number, y: GPUBuffer, length: number): Promise<Float32Array<ArrayBuffer>> {
    const staging = this.gpu.createBuffer("staging", length * 4, mapRead | copyDst, "staging");
    this.gpu.submit(
      "case",
      (pass) => ops.forEach((op) => op.record(pass, rows)),
      (encoder) => encoder.copyBufferToBuffer(y, 0, staging, 0, length * 4),
    );
    await this.gpu.settle();
    return new Float32Array(await this.gpu.read(staging, length * 4));
  }
}

/** Rows of `columns` values with the stride and zero padding that activations have. */
export function padRows(values: Float32Array, columns: number): Float32Array<ArrayBuffer> {
  const stride = padTo(columns, 32);
  const padded = new Float32Array((values.length / columns) * stride);
  for (let r = 0; r * columns < values.length; r++) padded.set(values.subarray(r * columns, (r + 1) * columns), r * stride);
  return padded;
}

function unpadRows(values: Float32Array, rows: number, columns: number): Float32Array {
  const stride = padTo(columns, 32);
  return Float32Array.from({ length: rows * columns }, (_, i) => values[Math.floor(i / columns) * stride + (i % columns)]!);
}

// ---------------------------------------------------------------- matrix products

const formats: readonly TensorFormat[] = [
  { type: "f32" },
  { type: "f16" },
  ...(["int8", "int4"] as const).flatMap((type) =>
    (["absmax", "zeropoint"] as const).flatMap((mode) => (["tensor", "channel", { group: 32 }, { group: 128 }] as const).map((granularity): TensorFormat => ({ type, mode, granularity }))),
  ),
  { type: "nf4", block: 32 },
  { type: "nf4", block: 64, doubleQuantization: true },
  { type: "fp4", block: 256 },
  { type: "fp4", block: 128, doubleQuantization: true },
];

/** N = outputs, K = inputs, T = rows of x: below, at and above a tile, primes, one. */
const shapes = [
  { N: 1, K: 1, T: 1 },
  { N: 63, K: 31, T: 33 },
  { N: 65, K: 100, T: 32 },
  { N: 130, K: 257, T: 37 },
] as const;

interface LinearCase {
  N: number;
  K: number;
  T: number;
  format: TensorFormat;
  activation: Activation | "none";
  residual: boolean;
  prologue?: "layer_norm";
  /** Moves all weights, so that zero points leave the range of int8. */
  weightMean?: number;
  /** @default what the engine chooses for the adapter */
  variants?: Partial<Variants>;
  /** @default "float" */
  activations?: "float" | "int8";
  /** Of int8 activations: see MatrixUse. */
  inputRange?: number;
  outlierThreshold?: number;
  /** Columns whose outliers meet other weights, of f16. */
  f16Columns?: readonly number[];
}

/** y = activate(W p(x) + b) + r for every row by gemm, and for the last row by gemv, against f64; outputs: gemm's, then gemv's. */
async function linearError(device: GPUDevice, { N, K, T, format, activation, residual, prologue, weightMean = 0, variants, activations, inputRange, outlierThreshold, f16Columns = [] }: LinearCase): Promise<{ gemm: number; gemv: number; outputs: Float32Array }> {
  const bench = await Workbench.open(device, variants);
  const weights = quantizeTensor(gaussian(N * K, 0.3, weightMean, N + K), [N, K], format);
  const w = dequantizeTensor(weights);
  const halves = toHalfBits(gaussian(N * f16Columns.length, 0.3, 0, 23)).bits;
  if (f16Columns.length > 0) weights.f16Columns = { columns: Uint32Array.from(f16Columns), weights: halves };
  const f16 = w.slice(); // what outliers meet
  fromHalfBits(halves).forEach((value, i) => (f16[Math.floor(i / f16Columns.length) * K + f16Columns[i % f16Columns.length]!] = value));
  const x = gaussian(T * K, 1, 0.2, 7);
  const bias = gaussian(N, 0.5, 0, 11);
  const r = gaussian(T * N, 1, 0, 13);
  const gamma = gaussian(K, 0.1, 1, 17);
  const beta = gaussian(K, 0.1, 0, 19);
  const epsilon = 1e-5;

  const expected = new Float64Array(T * N);
  for (let t = 0; t < T; t++) {
    const row = Float64Array.from(x.subarray(t * K, (t + 1) * K));
    if (prologue) {
      const mean = row.reduce((a, b) => a + b, 0) / K;
      const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / K;
      row.forEach((value, k) => (row[k] = ((value - mean) / Math.sqrt(variance + epsilon)) * gamma[k]! + beta[k]!));
    }
    const { isOutlier } = quantizeActivations(row, { outlierThreshold });
    if (activations === "int8") roundToCodes(row, { range: inputRange, outlierThreshold });
    for (let n = 0; n < N; n++) {
      let sum = bias[n]!;
      for (let k = 0; k < K; k++) sum += (isOutlier[k] ? f16 : w)[n * K + k]! * row[k]!;
      expected[t * N + n] = (activation === "none" ? sum : activate(activation, sum)) + (residual ? r[t * N + n]! : 0);
    }
  }

  const stride = padTo(K, 32);
  const packed = packTensor(weights, 2 ** 27);
  const matrix = await uploadMatrix(bench.gpu, "w", packed, "weights", { form: { activation, bias: true, residual }, activations, inputRange, outlierThreshold, yStride: padTo(N, 32), biasBase: stride / 2, epsilon });
  const aux = new Float32Array(2 * stride + padTo(N, 4));
  aux.set(gamma, 0);
  aux.set(beta, stride);
  aux.set(bias, 2 * stride);
  const shared = { x: bench.input(padRows(x, K)), aux: bench.input(aux) };
  const found = { gemm: 0, gemv: 0, outputs: new Float32Array(0) };
  if (!prologue) {
    const y = bench.output(T * padTo(N, 32));
    const gemm = await bindGemm(bench.compiler, "gemm", matrix, { ...shared, xCodes: bench.output((T * codeRowBytes(K, matrix.outliers)) / 4), run: bench.step(0, T), residual: bench.input(padRows(r, N)), y });
    const outputs = unpadRows(await bench.run([gemm], T, y, T * padTo(N, 32)), T, N);
    found.gemm = nmse(outputs, expected);
    found.outputs = Float32Array.of(...outputs);
  }
  const y = bench.output(padTo(N, 32));
  const gemv = await bindGemv(bench.compiler, "gemv", matrix, prologue ?? "none", { ...shared, run: bench.step(0, 1, T - 1), residual: bench.input(padRows(r.subarray((T - 1) * N), N)), y });
  const outputs = (await bench.run([gemv], 1, y, padTo(N, 32))).subarray(0, N);
  found.gemv = nmse(outputs, expected.subarray((T - 1) * N));
  found.outputs = Float32Array.of(...found.outputs, ...outputs);
  bench.gpu.dispose();
  return found;
}

const linearCases = formats.map(
  (format): ConformanceCase => ({
    name: `kernel: gemv and gemm of ${describeFormat(format)} agree with f64 on ragged shapes`,
    run: async (device) => {
      const tolerance = tolerances.kernelNmse[format.type === "f32" ? "f32" : "quantized"];
      let worst = 0;
      for (const shape of shapes) {
        const { gemm, gemv } = await linearError(device, { ...shape, format, activation: "none", residual: false });
        worst = Math.max(worst, gemm, gemv);
      }
      return requireAtMost("NMSE", worst, tolerance);
    },
  }),
);

/** Every variant once, and of each format what no other shows: software adapters take seconds to compile one. */
const int8Activations = ([
  { format: { type: "int8", mode: "absmax", granularity: "channel" }, all: [{ tuning: "hardware" }, { tuning: "software" }, { tuning: "software", lanes: 1 }] },
  { format: { type: "int8", mode: "zeropoint", granularity: "channel" }, all: [{ tuning: "hardware" }, { tuning: "software" }] },
  { format: { type: "int8", mode: "absmax", granularity: { group: 32 } }, all: [{ tuning: "software" }] },
  { format: { type: "int8", mode: "zeropoint", granularity: { group: 32 } }, all: [{ tuning: "hardware" }, { tuning: "software", lanes: 1 }] },
] as const).map(({ format, all }): ConformanceCase => {
  return {
    name: `kernel: quantize_rows, gemv, gemm and linear_tile of int8 activations and ${describeFormat(format)} agree with f64 in ${all.length} variants, and both dot products bit for bit`,
    run: async (device) => {
      let worst = 0;
      const product = { N: 130, K: 257, T: 37, format, activation: "none", residual: true, activations: "int8" } as const;
      for (const variants of all) {
        const packed = await linearError(device, { ...product, variants: { ...variants, dot4: "packed" } });
        const plain = await linearError(device, { ...product, variants: { ...variants, dot4: "plain" } });
        if (plain.outputs.some((value, i) => value !== packed.outputs[i])) throw new Error(`${JSON.stringify(variants)}: the two dot products differ`);
        const { gemv } = await linearError(device, { ...product, prologue: "layer_norm", variants });
        worst = Math.max(worst, packed.gemm, packed.gemv, plain.gemv, gemv);
      }
      return requireAtMost("NMSE", worst, tolerances.kernelNmse.quantized);
    },
  };
});

/** In as few variants as show each piece of the kernels: software adapters take seconds to compile one. */
const outlierCases = ([
  { format: { type: "int8", mode: "absmax", granularity: "channel" }, all: [{ tuning: "hardware" }, { tuning: "software" }] },
  { format: { type: "int8", mode: "zeropoint", granularity: { group: 32 } }, all: [{ tuning: "software", lanes: 1, dot4: "plain" }] },
] as const).map(({ format, all }): ConformanceCase => {
  return {
    name: `kernel: quantize_rows, gemv, gemm and linear_tile of int8 activations with static ranges and with outliers, meeting codes or f16 weights, and ${describeFormat(format)} agree with f64, and without an outlier bit for bit with kernels that know none`,
    run: async (device) => {
      let worst = 0;
      for (const variants of all) {
        const measure = async (coding: Pick<LinearCase, "inputRange" | "outlierThreshold" | "f16Columns" | "prologue">): Promise<Float32Array> => {
          const { gemm, gemv, outputs } = await linearError(device, { N: 130, K: 257, T: 37, format, activation: "none", residual: true, activations: "int8", variants, ...coding });
          worst = Math.max(worst, gemm, gemv);
          return outputs;
        };
        const without = await measure({ inputRange: 1.2 });
        const none = await measure({ inputRange: 1.2, outlierThreshold: 1e30 });
        if (none.some((value, i) => value !== without[i])) throw new Error(`${JSON.stringify(variants)}: a threshold that nothing reaches changes the products`);
        await measure({ outlierThreshold: 1.5, f16Columns: [0, 31, 100, 256] }); // with smaller values in these columns, too, and outliers in others
        await measure({ outlierThreshold: 1e-30 });
        if (variants.tuning === "hardware") await measure({ outlierThreshold: 1.5, f16Columns: [3, 64], prologue: "layer_norm" }); // the models below do it for software
      }
      return requireAtMost("NMSE", worst, tolerances.kernelNmse.quantized);
    },
  };
});

const epilogueCases = (["gelu_new", "gelu", "relu", "gelu_pytorch_tanh"] as const).map(
  (activation): ConformanceCase => ({
    name: `kernel: the ${activation} epilogue with bias and residual agrees with f64`,
    run: async (device) => {
      const { gemm, gemv } = await linearError(device, { N: 130, K: 100, T: 33, format: { type: "f32" }, activation, residual: true });
      return requireAtMost("NMSE", Math.max(gemm, gemv), tolerances.kernelNmse.activation);
    },
  }),
);

// ---------------------------------------------------------------- attention

async function attentionError(device: GPUDevice, { headSize: D, kv, S, variants }: { headSize: number; kv: KvFormat; S: number; variants?: Partial<Variants> }): Promise<{ prefill: number; decode: number }> {
  const bench = await Workbench.open(device, variants);
  const H = 2;
  const C = H * D;
  const form: AttentionForm = { heads: H, headSize: D, positions: S, kv };
  const qkv = gaussian(S * 3 * C, 1, 0, D + S);
  const scale = 1 / Math.sqrt(D);

  const rounded = (t: number, part: number, h: number): Float64Array => {
    const values = Float64Array.from(qkv.subarray(t * 3 * C + part * C + h * D, t * 3 * C + part * C + (h + 1) * D));
    if (part > 0) kvRoundings[kv](values);
    return values;
  };
  const expected = new Float64Array(S * C);
  for (let h = 0; h < H; h++) {
    const k = Array.from({ length: S }, (_, t) => rounded(t, 1, h));
    const v = Array.from({ length: S }, (_, t) => rounded(t, 2, h));
    for (let t = 0; t < S; t++) {
      const q = rounded(t, 0, h);
      const logP = logSoftmax(Array.from({ length: t + 1 }, (_, p) => scale * q.reduce((sum, value, d) => sum + value * k[p]![d]!, 0)));
      for (let d = 0; d < D; d++) expected[t * C + h * D + d] = logP.reduce((sum, lp, p) => sum + Math.exp(lp) * v[p]![d]!, 0);
    }
  }

  const bytes = cacheBytes(form);
  const strides = { qkv: padTo(3 * C, 32), y: padTo(C, 32) };
  const shared = {
    shape: bench.input(attentionShape(form, strides, scale), uniform),
    cache: bench.gpu.createBuffer("cache", bytes.cache, storage, "kvCache"),
    kvScales: bench.gpu.createBuffer("kvScales", Math.max(16, bytes.scales), storage, "kvCache"),
  };
  // The first tokens in one chunk, the last but one in another, the last by decode.
  const rows = padRows(qkv, 3 * C);
  const from = (t: number): GPUBuffer => bench.input(rows.slice(t * strides.qkv));
  const yLength = S * strides.y;
  const y = bench.output(yLength);
  const chunk = Math.max(1, S - 2);
  const prefill = await bindPrefillAttention(bench.compiler, "prefill", form, { ...shared, run: bench.step(0, chunk), qkv: from(0), y });
  const found = { prefill: nmse(unpadRows(await bench.run([prefill], chunk, y, yLength), chunk, C), expected.subarray(0, chunk * C)), decode: 0 };
  for (let t = chunk; t < S; t++) {
    if (t < S - 1) {
      const next = await bindPrefillAttention(bench.compiler, "prefill", form, { ...shared, run: bench.step(t, 1), qkv: from(t), y });
      found.prefill = Math.max(found.prefill, nmse((await bench.run([next], 1, y, yLength)).subarray(0, C), expected.subarray(t * C, (t + 1) * C)));
      continue;
    }
    const splits = Math.ceil((t + 1) / SPLIT_POSITIONS);
    const partials = bench.output(H * maxSplits(S) * (headChunks(D) + 1) * 4);
    const decode = await bindDecodeAttention(bench.compiler, "decode", form, { ...shared, run: bench.step(t, 1, 0, splits), qkv: from(t), y: partials }, () => splits);
    // The merge of the splits is a prologue of gemv; an identity matrix shows it bare.
    const identity = quantizeTensor(Float32Array.from({ length: C * C }, (_, i) => (i % (C + 1) === 0 ? 1 : 0)), [C, C], { type: "f32" });
    const matrix = await uploadMatrix(bench.gpu, "identity", packTensor(identity, 2 ** 27), "weights", { yStride: strides.y, biasBase: 0, epsilon: 0, headSize: D, maxSplits: maxSplits(S) });
    const none = bench.input(new Float32Array(strides.y));
    const merged = bench.output(strides.y);
    const merge = await bindGemv(bench.compiler, "merge", matrix, "merge", { run: bench.step(t, 1, 0, splits), x: partials, aux: none, residual: none, y: merged });
    found.decode = nmse((await bench.run([decode, merge], 1, merged, strides.y)).subarray(0, C), expected.subarray(t * C, (t + 1) * C));
  }
  bench.gpu.dispose();
  return found;
}

const attentionCases = (["f32", "f16", "int8"] as const).map(
  (kv): ConformanceCase => ({
    name: `kernel: kv_write, attention_prefill and attention_decode with an ${kv} cache agree with f64`,
    run: async (device) => {
      let worst = 0;
      // Head sizes 340 and 1 take the path without tiles and the padded chunk; 259 positions three splits.
      for (const [headSize, S] of [[1, 1], [1, 9], [20, 130], [64, 259], [80, 34], [340, 19]] as const) {
        const { prefill, decode } = await attentionError(device, { headSize, kv, S });
        worst = Math.max(worst, prefill, decode);
      }
      return requireAtMost("NMSE", worst, tolerances.kernelNmse[kv === "int8" ? "attentionInt8" : "attention"]);
    },
  }),
);

// ---------------------------------------------------------------- the rest

const otherCases: readonly ConformanceCase[] = [
  {
    name: "kernel: gemv with the layer_norm prologue agrees with f64",
    run: async (device) => {
      let worst = 0;
      for (const K of [1, 31, 100, 1600]) worst = Math.max(worst, (await linearError(device, { N: 70, K, T: 3, format: { type: "f32" }, activation: "none", residual: false, prologue: "layer_norm" })).gemv);
      return requireAtMost("NMSE", worst, tolerances.kernelNmse.layerNorm);
    },
  },
  {
    name: "kernel: gemv, gemm and linear_tile agree with f64 as tuned for hardware and for software adapters, with subgroups and without",
    run: async (device) => {
      let worst = 0;
      for (const variants of [{ tuning: "hardware" }, { tuning: "hardware", gemv: { stripes: 16, rowTiles: 1 } }, { tuning: "software" }, { tuning: "software", lanes: 1 }] as const) {
        for (const format of [{ type: "f16" }, { type: "int4", mode: "zeropoint", granularity: { group: 32 } }, { type: "nf4", block: 64 }] as const) {
          const { gemm, gemv } = await linearError(device, { N: 65, K: 100, T: 33, format, activation: "gelu_new", residual: true, variants });
          worst = Math.max(worst, gemm, gemv);
        }
      }
      return requireAtMost("NMSE", worst, tolerances.kernelNmse.quantized);
    },
  },
  {
    name: "kernel: attention_prefill and attention_rows agree with f64 as tuned for hardware and for software adapters, with subgroups and without",
    run: async (device) => {
      let worst = 0;
      for (const variants of [{ tuning: "hardware" }, { tuning: "software" }, { tuning: "software", lanes: 1 }] as const) {
        const { prefill, decode } = await attentionError(device, { headSize: 20, kv: "f16", S: 34, variants });
        worst = Math.max(worst, prefill, decode);
      }
      return requireAtMost("NMSE", worst, tolerances.kernelNmse.attention);
    },
  },
  {
    name: "kernel: gemv and gemm take zero points beyond the range of int8",
    run: async (device) => {
      const format: TensorFormat = { type: "int8", mode: "zeropoint", granularity: { group: 32 } };
      const { gemm, gemv } = await linearError(device, { N: 66, K: 70, T: 5, format, activation: "none", residual: false, weightMean: 9 });
      return requireAtMost("NMSE", Math.max(gemm, gemv), tolerances.kernelNmse.quantized);
    },
  },
  {
    name: "kernel: gelu_new stays finite and exact where tanh overflows",
    run: async (device) => {
      const bench = await Workbench.open(device);
      const inputs = Float32Array.of(0, 1e-6, 1, -1, 4, -4, 13.3, -13.3, 40, -40, 1e4, -1e4);
      const N = inputs.length;
      const matrix = await uploadMatrix(bench.gpu, "w", packTensor(quantizeTensor(inputs, [N, 1], { type: "f32" }), 2 ** 27), "weights", { form: { activation: "gelu_new", bias: false, residual: false }, yStride: 32, biasBase: 0, epsilon: 0 });
      const none = bench.input(new Float32Array(32));
      const y = bench.output(32);
      const op = await bindGemv(bench.compiler, "gelu", matrix, "none", { run: bench.step(0, 1), x: bench.input(padRows(Float32Array.of(1), 1)), aux: none, residual: none, y });
      const found = await bench.run([op], 1, y, 32);
      bench.gpu.dispose();
      const errors = [...inputs].map((x, i) => Math.abs(found[i]! - activate("gelu_new", x)) / Math.max(1, Math.abs(x)));
      return requireAtMost("error", errors.reduce((a, b) => (a >= b ? a : b)), tolerances.geluRelative);
    },
  },
  {
    name: "kernel: layer_norm of rows with one huge channel agrees with f64, in place and at its position",
    run: async (device) => {
      const found: string[] = [];
      for (const C of [1, 33, 100, 768]) {
        const bench = await Workbench.open(device);
        const T = 5;
        const epsilon = 1e-5;
        const x = gaussian(T * C, 1, 0, C);
        for (let t = 0; t < T; t++) x[t * C + (t % C)] = 3000; // as GPT-2's residual stream has
        const gamma = gaussian(C, 0.1, 1, 3);
        const beta = gaussian(C, 0.1, 0, 5);
        const expected = new Float64Array(T * C);
        for (let t = 0; t < T; t++) {
          const row = x.subarray(t * C, (t + 1) * C);
          const mean = row.reduce((a, b) => a + b, 0) / C;
          const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / C;
          row.forEach((value, c) => (expected[t * C + c] = ((value - mean) / Math.sqrt(variance + epsilon)) * gamma[c]! + beta[c]!));
        }
        const stride = padTo(C, 32);
        const matrix = await uploadMatrix(bench.gpu, "w", packTensor(quantizeTensor(new Float32Array(C), [1, C], { type: "f32" }), 2 ** 27), "weights", { yStride: 32, biasBase: 0, epsilon });
        const y = bench.output(2 * T * stride);
        const buffers = { run: bench.step(T, T), shape: matrix.parts[0]!.shape, x: bench.input(padRows(x, C)), aux: bench.input(Float32Array.from([...padRows(gamma, C), ...padRows(beta, C)])), y };
        const inPlace = await bindLayerNorm(bench.compiler, "norm", buffers, { keepPosition: false });
        const atPosition = await bindLayerNorm(bench.compiler, "norm", buffers, { keepPosition: true });
        const rows = unpadRows(await bench.run([inPlace, atPosition], T, y, 2 * T * stride), 2 * T, C);
        bench.gpu.dispose();
        requireAtMost(`C = ${C}`, nmse(rows.subarray(0, T * C), expected), tolerances.kernelNmse.layerNorm);
        found.push(requireAtMost(`C = ${C}`, nmse(rows.subarray(T * C), expected), tolerances.kernelNmse.layerNorm));
      }
      return found.join(", ");
    },
  },
  {
    name: "kernel: embed gathers dequantized rows of wte in parts and adds wpe",
    run: async (device) => {
      for (const format of [{ type: "f16" }, { type: "int8", mode: "absmax", granularity: "channel" }, { type: "nf4", block: 64, doubleQuantization: true }, { type: "int4", mode: "zeropoint", granularity: { group: 32 } }] as const satisfies readonly TensorFormat[]) {
        const bench = await Workbench.open(device);
        const [V, C, T, start] = [200, 70, 6, 2];
        const tensor = quantizeTensor(gaussian(V * C, 0.3, 0, 1), [V, C], format);
        const w = dequantizeTensor(tensor);
        const wpe = gaussian((start + T) * C, 0.1, 0, 2);
        const tokens = Uint32Array.of(0, 63, 64, 127, 199, 64);
        const matrix = await uploadMatrix(bench.gpu, "wte", packTensor(tensor, 1), "embedding", { yStride: padTo(V, 32), biasBase: 0, epsilon: 0 });
        if (matrix.parts.length !== 4) throw new Error(`${matrix.parts.length} parts; expected 4`);
        const x = bench.output(T * padTo(C, 32));
        const op = await bindEmbedding(bench.compiler, matrix, { run: bench.step(start, T), tokens: bench.input(tokens), wpe: bench.input(padRows(wpe, C)), x });
        const found = unpadRows(await bench.run([op], T, x, T * padTo(C, 32)), T, C);
        bench.gpu.dispose();
        const expected = Float64Array.from({ length: T * C }, (_, i) => w[tokens[Math.floor(i / C)]! * C + (i % C)]! + wpe[start * C + i]!);
        requireAtMost(describeFormat(format), nmse(found, expected), tolerances.kernelNmse.quantized);
      }
      return "4 formats";
    },
  },
  {
    name: "kernel: row_sums and row_divergence agree with f64 for far, close and very close distributions",
    run: async (device) => {
      const found: string[] = [];
      for (const V of [1, 255, 257, 5003]) {
        for (const deviation of [2, 0.2, 1e-3]) {
          const bench = await Workbench.open(device);
          const T = 3;
          const a = gaussian(T * V, 4, -30, V);
          const b = gaussian(T * V, deviation, 0.5, V + 1).map((value, i) => value + a[i]!);
          const stride = padTo(V, 32);
          const expectedTokens = Uint32Array.from({ length: T }, (_, t) => (t * 7919 + V - 1) % V);
          const open = (logits: Float32Array): RowSumsBuffers => ({
            rows: bench.input(Uint32Array.of(V, stride, 0, 0), uniform),
            logits: bench.input(padRows(logits, V)),
            expected: bench.input(expectedTokens),
            sums: bench.output(T * 4),
          });
          const [sumsA, sumsB] = [open(a), open(b)];
          const divergence = bench.output(T);
          const ops = [await bindRowSums(bench.compiler, sumsA), await bindRowSums(bench.compiler, sumsB), await bindRowDivergence(bench.compiler, sumsA, sumsB, divergence)];
          const kl = await bench.run(ops, T, divergence, T);
          const sums = await bench.run([], 0, sumsA.sums, T * 4);
          bench.gpu.dispose();
          for (let t = 0; t < T; t++) {
            const [rowA, rowB] = [a.subarray(t * V, (t + 1) * V), b.subarray(t * V, (t + 1) * V)];
            const [max, sum, logit, index] = sums.subarray(t * 4, t * 4 + 4);
            if (index !== rowA.indexOf(Math.max(...rowA))) throw new Error(`V = ${V}: index ${index} is not the largest logit's`);
            requireAtMost(`V = ${V} ln p`, Math.abs(logit! - max! - Math.log(sum!) - logSoftmax(rowA)[expectedTokens[t]!]!), tolerances.rowLogProb);
            const exact = klDivergence(rowA, rowB);
            found.push(requireAtMost(`V = ${V} KL`, Math.abs(kl[t]! - exact) / Math.max(exact, 1e-9), tolerances.rowDivergenceRelative));
          }
        }
      }
      return found.reduce((worst, each) => (Number(each.split(" ").at(-1)) > Number(worst.split(" ").at(-1)) ? each : worst));
    },
  },
  {
    name: "kernel: column_statistics and gram, in strips, add up two chunks as f64 does",
    run: async (device) => {
      let worst = 0;
      for (const { K, T } of [{ K: 1, T: 1 }, { K: 31, T: 33 }, { K: 257, T: 37 }]) {
        const bench = await Workbench.open(device);
        const x = gaussian(T * K, 1, 0.2, K).map((value, i) => (i % 5 === 0 ? 0 : value * 2 ** ((i % 40) - 22)));
        const stride = padTo(K, 32);
        const taker = await uploadMatrix(bench.gpu, "w", packTensor(quantizeTensor(new Float32Array(K), [1, K], { type: "f32" }), 2 ** 27), "weights", { yStride: 32, biasBase: 0, epsilon: 0 });
        const bound = { run: bench.step(0, T), shape: taker.parts[0]!.shape, x: bench.input(padRows(x, K)) };
        const statistics = bench.output(columnStatisticsWords(K));
        const op = await bindColumnStatistics(bench.compiler, "x", K, { ...bound, y: statistics });
        const words = (await bench.run([op, op], T, statistics, columnStatisticsWords(K))).buffer;
        const expected = inputStatistics(x, K);
        const [absmax, sumAbs, histogram] = [new Float32Array(words, 0, K), new Float32Array(words, 4 * K, K), new Uint32Array(words, 8 * K)];
        if (absmax.some((value, k) => value !== expected.absmax[k])) throw new Error(`K = ${K}: absmax differs`);
        if (histogram.some((count, bin) => count !== 2 * expected.histogram[bin]!)) throw new Error(`K = ${K}: the histogram differs`);
        worst = Math.max(worst, nmse(sumAbs, expected.meanAbs.map((mean) => 2 * T * mean)));
        const gram = new Float32Array(K * K);
        for (const { first, rows } of gramStrips(K, 8 * stride * 4)) {
          const y = bench.output(rows * stride);
          const gramOp = await bindGram(bench.compiler, "x", K, rows, { ...bound, strip: bench.input(Uint32Array.of(first, 0, 0, 0), uniform), y });
          const found = await bench.run([gramOp, gramOp], T, y, rows * stride);
          for (let j = first; j < Math.min(first + rows, K); j++) for (let k = j; k < K; k++) gram[j * K + k] = gram[k * K + j] = found[(j - first) * stride + k]!;
        }
        bench.gpu.dispose();
        worst = Math.max(worst, nmse(gram, expected.gram.map((mean) => 2 * T * mean)));
      }
      return requireAtMost("NMSE", worst, tolerances.kernelNmse.f32);
    },
  },
];

/** Log-sum-exp of W · x over logits that are never stored, in parts of W whose last slots stay unused, against f64. */
async function normalizerError(device: GPUDevice, format: TensorFormat, variants: Partial<Variants>): Promise<number> {
  const bench = await Workbench.open(device, variants);
  const [V, C, T, first] = [333, 70, 37, 2];
  const tensor = quantizeTensor(gaussian(V * C, 1, 0.5, 1), [V, C], format);
  const w = dequantizeTensor(tensor);
  const hidden = gaussian((first + T) * C, 1, -0.5, 2);
  const expectedTokens = Uint32Array.from({ length: T }, (_, t) => (t * 7919 + V - 1) % V);
  const matrix = await uploadMatrix(bench.gpu, "head", packTensor(tensor, V * C), "embedding", { yStride: padTo(V, 32), biasBase: 0, epsilon: 0 });
  const [found, sums] = [bench.output(T * normalizerWords(V)), bench.output(T * 4)];
  const op = await bindNormalizer(bench.compiler, "head", matrix, { run: bench.step(0, T, first), hidden: bench.input(padRows(hidden, C)), expected: bench.input(expectedTokens), found, sums });
  const rows = await bench.run([op], T, sums, T * 4);
  bench.gpu.dispose();
  let worst = 0;
  for (let t = 0; t < T; t++) {
    const logits = Array.from({ length: V }, (_, n) => w.subarray(n * C, (n + 1) * C).reduce((sum, value, k) => sum + value * hidden[(first + t) * C + k]!, 0));
    const [max, sum, logit, index] = rows.subarray(t * 4, t * 4 + 4);
    if (index !== logits.indexOf(Math.max(...logits))) throw new Error(`row ${t}: index ${index} is not the largest logit's`);
    worst = Math.max(worst, Math.abs(logit! - max! - Math.log(sum!) - logSoftmax(logits)[expectedTokens[t]!]!));
  }
  return worst;
}

const normalizerCases = ([{ type: "f32" }, { type: "int8", mode: "absmax", granularity: "channel" }, { type: "int4", mode: "zeropoint", granularity: { group: 32 } }] as const satisfies readonly TensorFormat[]).map(
  (format): ConformanceCase => ({
    name: `kernel: row_normalizer finds the log-sum-exp of ${describeFormat(format)} logits that are never stored, as f64 does, in every variant`,
    run: async (device) => {
      let worst = 0;
      const all: Partial<Variants>[] = [{ tuning: "software" }, { tuning: "software", lanes: 1 }];
      if (format.type === "f32") all.push({ tuning: "hardware" }); // takes software adapters seconds to compile
      for (const variants of all) worst = Math.max(worst, await normalizerError(device, format, variants));
      return requireAtMost("ln p", worst, tolerances.rowLogProb);
    },
  }),
);

export const kernelCases: readonly ConformanceCase[] = [...linearCases, ...int8Activations, ...outlierCases, ...epilogueCases, ...attentionCases, ...normalizerCases, ...otherCases];
