import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { create } from "webgpu";
import { BufferUsage } from "../../src/gpu/constants.ts";
import { Gpu } from "../../src/gpu/device.ts";
import { KernelCompiler, type KernelSource, type Tuning } from "../../src/gpu/pipeline.ts";
import { bindDecodeAttention, bindPrefillAttention } from "../../src/kernels/attention.ts";
import { bindEmbedding } from "../../src/kernels/embedding.ts";
import { bindColumnStatistics, bindGram } from "../../src/kernels/inputStatistics.ts";
import { bindLayerNorm } from "../../src/kernels/layerNorm.ts";
import { bindGemm, bindGemv, fitsPrologue } from "../../src/kernels/linear.ts";
import { uploadMatrix, type GpuMatrix, type LinearForm, type MatrixUse } from "../../src/kernels/matrix.ts";
import { bindNormalizer } from "../../src/kernels/normalizer.ts";
import { bindRowDivergence, bindRowSums } from "../../src/kernels/rows.ts";
import { bindSampling } from "../../src/kernels/sampling.ts";
import { quantizeTensor } from "../../src/quantize/nearest.ts";
import { packTensor } from "../../src/quantize/pack.ts";
import type { Activation, TensorFormat } from "../../src/types.ts";
import { requireGpu } from "../gpu.ts";

const { storage, uniform, copyDst } = BufferUsage;

/** One format for each way in which a matrix is read; `mean` moves its zero points out of the range of int8. */
const encodings: readonly { format: TensorFormat; mean?: number }[] = [
  { format: { type: "f32" } },
  { format: { type: "f16" } },
  ...(["int8", "int4"] as const).flatMap((type) =>
    (["tensor", "channel", { group: 32 }] as const).flatMap((granularity) => [
      { format: { type, mode: "absmax", granularity } as const },
      { format: { type, mode: "zeropoint", granularity } as const },
      { format: { type, mode: "zeropoint", granularity } as const, mean: 40 },
    ]),
  ),
  { format: { type: "nf4", block: 64 } },
  { format: { type: "nf4", block: 64, doubleQuantization: true } },
];
const activations: readonly (Activation | "none")[] = ["none", "gelu_new", "gelu", "gelu_pytorch_tanh", "relu"];

/** Dawn ends the process when a GPU is collected. */
const kept: GPU[] = [];

/** Dawn's null backend has WebGPU's default limits, and checks WGSL and pipelines against them without a driver. */
describe.each<Tuning>(["hardware", "software"])("on a device of default limits, tuned for %s", (tuning) => {
  let gpu: Gpu;
  let compiler: KernelCompiler;
  let matrixOf: (rows: number, columns: number, format: TensorFormat, mean?: number, form?: LinearForm, activations?: Pick<MatrixUse, "activations" | "outlierThreshold">) => Promise<GpuMatrix>;
  let buffers: Record<"run" | "shape" | "rows" | "input" | "output" | "cache" | "kvScales" | "codes", GPUBuffer>;

  beforeAll(async () => {
    requireGpu(); // sets WebGPU's globals
    const nullGpu = create(["backend=null"]);
    kept.push(nullGpu);
    gpu = await Gpu.open({ gpu: nullGpu, largestTensorBytes: 0 });
    compiler = new KernelCompiler(gpu, { tuning });
    const buffer = (usage: number) => gpu.createBuffer("any", 1024, usage | copyDst, "activations");
    buffers = { run: buffer(uniform), shape: buffer(uniform), rows: buffer(uniform), input: buffer(storage), output: buffer(storage), cache: buffer(storage), kvScales: buffer(storage), codes: buffer(storage) };
    matrixOf = async (rows, columns, format, mean = 0, form = { activation: "none", bias: true, residual: false }, activations = {}) => {
      const weights = quantizeTensor(Float32Array.from({ length: rows * columns }, (_, i) => mean + Math.sin(i)), [rows, columns], format);
      return uploadMatrix(gpu, "matrix", packTensor(weights, 2 ** 27), "weights", { form, yStride: 32, biasBase: 0, epsilon: 1e-5, headSize: 1, maxSplits: 1, ...activations });
    };
  });
  afterAll(() => gpu.dispose());

  async function compileLinear(matrix: GpuMatrix): Promise<void> {
    const { run, input, output } = buffers;
    const bound = { run, x: input, xCodes: buffers.codes, aux: input, residual: input, y: output };
    await Promise.all([
      bindGemm(compiler, "any", matrix, bound),
      bindNormalizer(compiler, "any", matrix, { run, hidden: input, hiddenCodes: buffers.codes, expected: input, found: output, sums: buffers.cache }),
      ...(["none", "layer_norm", "merge"] as const).map((prologue) => bindGemv(compiler, "any", matrix, prologue, bound)),
    ]);
  }

  test("a WGSL mistake and workgroup memory beyond 16 KiB are found here, too", async () => {
    const kernel = (name: string, wgsl: string): KernelSource => ({ name, wgsl: `@group(0) @binding(0) var<storage, read_write> y: array<f32>;\n${wgsl}`, pieces: {}, bindings: ["write"] });
    const words = (count: number): KernelSource => kernel(`words${count}`, `var<workgroup> w: array<f32, ${count}>;\n@compute @workgroup_size(1) fn main() { y[0] = w[1]; }`);
    await compiler.compile(words(4096), {}); // control case: 16 KiB
    await expect(compiler.compile(words(4097), {})).rejects.toMatchObject({ code: "shader" });
    await expect(compiler.compile(kernel("mistake", "@compute @workgroup_size(1) fn main() { y[0] = x; }"), {})).rejects.toMatchObject({ code: "shader", details: { line: 2 } });
  });

  test("gemm, the normalizer, gemv with each prologue, embed and sample compile for every encoding", async () => {
    const seen = new Set<string>();
    for (const { format, mean } of encodings) {
      const matrix = await matrixOf(3, 64, format, mean);
      seen.add(JSON.stringify(matrix.encoding));
      await compileLinear(matrix);
      const { run, rows, input, output, cache, kvScales } = buffers;
      await bindEmbedding(compiler, matrix, { run, tokens: input, wpe: input, x: output });
      const sample = { run, sampling: rows, logits: input, counts: cache, wpe: input, y: kvScales, x: output };
      await bindSampling(compiler, matrix, { ...sample, candidates: null });
      if (tuning === "software") continue;
      await bindSampling(compiler, matrix, { ...sample, candidates: input });
      await bindGemv(compiler, "head", matrix, "layer_norm", { run, x: input, aux: input, residual: input, y: output }, { sampling: rows, counts: input, candidates: cache });
    }
    expect(seen.size).toBe(encodings.length);
    await gpu.settle();
  });

  test("gemm and gemv compile with every epilogue", async () => {
    for (const activation of activations) {
      for (const bias of [true, false]) {
        for (const residual of [true, false]) await compileLinear(await matrixOf(3, 64, { type: "f32" }, 0, { activation, bias, residual }));
      }
    }
    await gpu.settle();
  });

  test("gemv compiles for the widest row that fits its prologue", async () => {
    let columns = 32;
    while (fitsPrologue(columns + 32)) columns += 32;
    expect(columns).toBeGreaterThanOrEqual(1600); // GPT-2 XL's
    for (const format of [{ type: "f32" }, { type: "nf4", block: 64 }] as const) await compileLinear(await matrixOf(1, columns, format));
    await gpu.settle();
  });

  test.each([{}, { outlierThreshold: 6 }])("products of int8 activations with %j compile for every encoding of int8, up to the widest row that fits a prologue", async (outliers) => {
    const coding = { activations: "int8", ...outliers } as const;
    let columns = 32;
    while (fitsPrologue(columns + 32, coding)) columns += 32;
    expect(columns).toBeGreaterThanOrEqual(1600);
    for (const { format, mean } of encodings) {
      if (format.type !== "int8") continue;
      const matrix = await matrixOf(1, columns, format, mean, undefined, coding);
      await compileLinear(matrix);
      const { run, rows, input, output, cache } = buffers;
      if (tuning === "hardware") await bindGemv(compiler, "head", matrix, "layer_norm", { run, x: input, aux: input, residual: input, y: output }, { sampling: rows, counts: input, candidates: cache });
    }
    await gpu.settle();
  });

  test("layer norm, row sums, row divergence, column statistics and gram compile", async () => {
    const { run, shape, rows, input, output } = buffers;
    for (const keepPosition of [true, false]) await bindLayerNorm(compiler, "any", { run, shape, x: input, aux: input, y: output }, { keepPosition });
    const sums = { rows, logits: input, expected: input, sums: output };
    await bindRowSums(compiler, sums);
    await bindRowDivergence(compiler, { ...sums, sums: input }, { ...sums, sums: input }, output);
    await bindColumnStatistics(compiler, "any", 3, { run, shape, x: input, y: output });
    await bindGram(compiler, "any", 3, 32, { run, shape, strip: rows, x: input, y: output });
    await gpu.settle();
  });

  test.each(["f32", "f16", "int8"] as const)("attention compiles for %s caches, head sizes that are multiples of nothing, and those too large for tiles", async (kv) => {
    const { run, shape, input, output, cache, kvScales } = buffers;
    const bound = { run, shape, qkv: input, cache, kvScales, y: output };
    for (const headSize of [1, 2, 20, 25, 64, 80, 128, 340, 768]) {
      const form = { heads: 1, headSize, positions: 1024, kv };
      await bindDecodeAttention(compiler, "any", form, bound, () => 1);
      await bindPrefillAttention(compiler, "any", form, bound);
    }
    await gpu.settle();
  });
});
