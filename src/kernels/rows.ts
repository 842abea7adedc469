import type { KernelCompiler } from "../gpu/pipeline.ts";
import { dispatchOp, type Op } from "./op.ts";
import { inspectionKernels } from "./inspectionSources.ts";

export interface RowSumsBuffers {
  /** Uniform Rows of row_softmax.wgsl: vocabulary, stride. */
  rows: GPUBuffer;
  /** f32 [rows, stride] */
  logits: GPUBuffer;
  /** u32 [rows]: the expected token of each */
  expected: GPUBuffer;
  /** vec4<f32> [rows]: max, Σ e^(l − max), logit of the expected token, index of the max */
  sums: GPUBuffer;
}

export async function bindRowSums(compiler: KernelCompiler, { rows, logits, expected, sums }: RowSumsBuffers): Promise<Op> {
  const kernel = await compiler.compile(inspectionKernels.rowSums, {});
  return dispatchOp(kernel, kernel.bind("rowSums", [rows, logits, expected, sums]), (count) => [count]);
}

/** y[i] = KL(a ‖ b) of row i, nats, from the logits of both and what rowSums wrote for each. y: f32 [rows] */
export async function bindRowDivergence(compiler: KernelCompiler, a: RowSumsBuffers, b: RowSumsBuffers, y: GPUBuffer): Promise<Op> {
  const kernel = await compiler.compile(inspectionKernels.rowDivergence, {});
  return dispatchOp(kernel, kernel.bind("rowDivergence", [a.rows, a.logits, a.sums, b.logits, b.sums, y]), (count) => [count]);
}
