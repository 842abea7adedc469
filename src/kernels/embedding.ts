import type { KernelCompiler } from "../gpu/pipeline.ts";
import { encodingConstants, type GpuMatrix } from "./matrix.ts";
import { dispatchOp, sequence, type Op } from "./op.ts";
import { kernels } from "./sources.ts";

export interface EmbeddingBuffers {
  /** Uniform Step. */
  run: GPUBuffer;
  /** u32 [rows] */
  tokens: GPUBuffer;
  /** f32 [positions, C padded] */
  wpe: GPUBuffer;
  /** f32 [rows, C padded] */
  x: GPUBuffer;
}

/** x[t] = wte[token[t]] + wpe[start + t]; a dispatch per part of wte, each for the tokens that lie in it. */
export async function bindEmbedding(compiler: KernelCompiler, wte: GpuMatrix, { run, tokens, wpe, x }: EmbeddingBuffers): Promise<Op> {
  const kernel = await compiler.compile(kernels.embed, encodingConstants(wte.encoding));
  const groups = Math.ceil(wte.paddedColumns / 4 / 64);
  return sequence(
    wte.parts.map((part) => dispatchOp(kernel, kernel.bind("wte.embed", [run, part.shape, tokens, part.codes, part.scales, wpe, x]), (rows) => [groups, rows])),
  );
}
