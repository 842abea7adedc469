import type { KernelCompiler } from "../gpu/pipeline.ts";
import { dispatchOp, type Op } from "./op.ts";
import { kernels } from "./sources.ts";

export interface LayerNormBuffers {
  /** Uniform Step. */
  run: GPUBuffer;
  /** Uniform Shape of the matrix behind it: columns, strides, epsilon. */
  shape: GPUBuffer;
  /** f32 [rows, C padded] */
  x: GPUBuffer;
  /** f32 gamma [C padded], beta [C padded] */
  aux: GPUBuffer;
  /** f32 [rows, C padded] */
  y: GPUBuffer;
}

/** y = (x − mean) / √(variance + ε) · gamma + beta, row by row. keepPosition: row t goes to row start + t of y. */
export async function bindLayerNorm(compiler: KernelCompiler, label: string, { run, shape, x, aux, y }: LayerNormBuffers, { keepPosition }: { keepPosition: boolean }): Promise<Op> {
  const kernel = await compiler.compile(kernels.layerNorm, { WG: 64, KEEP: keepPosition });
  return dispatchOp(kernel, kernel.bind(label, [run, shape, x, aux, y]), (rows) => [rows]);
}
