import type { KernelCompiler } from "../gpu/pipeline.ts";
import { COLUMN_PADDING, padTo } from "../quantize/pack.ts";
import { inspectionKernels } from "./inspectionSources.ts";
import { bindRows, linearConstants } from "./linear.ts";
import type { GpuMatrix } from "./matrix.ts";
import { dispatchOp, sequence, type Op } from "./op.ts";

export interface NormalizerBuffers {
  /** Uniform Step; its row is the first of `hidden`. */
  run: GPUBuffer;
  /** f32 [rows, K padded] */
  hidden: GPUBuffer;
  /** As LinearBuffers.xCodes. */
  hiddenCodes?: GPUBuffer;
  /** u32 [rows]: the expected token of each */
  expected: GPUBuffer;
  /** vec4<f32> [rows][⌈N / 64⌉], for what is found on the way */
  found: GPUBuffer;
  /** vec4<f32> [rows]: max, Σ e^(l − max), logit of the expected token, index of the max, of each row's logits l = W · hidden; as row_sums has it */
  sums: GPUBuffer;
}

/** Words of NormalizerBuffers.found per row. */
export function normalizerWords(outputs: number): number {
  return 4 * Math.ceil(padTo(outputs, COLUMN_PADDING) / 64);
}

/** Log-sum-exp over the outputs of a product whose logits are never stored. */
export async function bindNormalizer(compiler: KernelCompiler, label: string, matrix: GpuMatrix, { run, hidden, hiddenCodes, expected, found, sums }: NormalizerBuffers): Promise<Op> {
  const constants = { ...linearConstants(compiler, matrix), EPILOGUE: "normalizer" };
  const [product, join] = await Promise.all([bindRows(compiler, `${label}.normalizer`, matrix, { run, x: hidden, xCodes: hiddenCodes, aux: expected, residual: expected, y: found }, constants), compiler.compile(inspectionKernels.rowNormalizer, { EPILOGUE: "constant" })]);
  return sequence([product, dispatchOp(join, join.bind(`${label}.rowNormalizer`, [matrix.parts[0]!.shape, found, sums]), (rows) => [rows])]);
}
