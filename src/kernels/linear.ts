import type { KernelCompiler } from "../gpu/pipeline.ts";
import type { Activation } from "../types.ts";
import { encodingConstants, type GpuMatrix } from "./matrix.ts";
import { dispatchOp, sequence, type Op } from "./op.ts";
import { kernels } from "./sources.ts";

/** Threads of a gemv workgroup: 8 rows × 8 stripes along K. */
const GEMV_THREADS = 64;
/** Tiles of 8 outputs per gemv workgroup; a prologue is repeated by every workgroup, so more rows share it. */
const GEMV_ROW_TILES = 2;
const GEMM_ROWS = 32;
const GEMM_COLUMNS = 64;
const WORKGROUP_MEMORY_BYTES = 16384;

export interface LinearBuffers {
  /** Uniform Step. */
  run: GPUBuffer;
  /** f32 [rows, K padded]; for the merge prologue what attention_decode wrote. */
  x: GPUBuffer;
  /** f32 gamma [K padded], beta [K padded] where a layer norm comes first, then bias [N padded]. */
  aux: GPUBuffer;
  /** f32 [rows, yStride]; any storage buffer where there is none. */
  residual: GPUBuffer;
  /** f32 [rows, yStride]; not x and not residual: WebGPU forbids reading and writing one buffer in a dispatch. */
  y: GPUBuffer;
}

export interface LinearForm {
  activation: Activation | "none";
  bias: boolean;
  residual: boolean;
}

export type Prologue = { type: "none" } | { type: "layer_norm" } | { type: "merge"; headSize: number; maxSplits: number };

/** A row of `columns` inputs that a prologue prepares must fit in workgroup memory beside the partial sums. */
export function fitsPrologue(columns: number): boolean {
  return Math.ceil(columns / 32) * 32 * 4 + GEMV_THREADS * (GEMV_ROW_TILES + 1) * 4 + 64 <= WORKGROUP_MEMORY_BYTES;
}

/** y = activate(W · prologue(x) + bias) + residual for one row of x. */
export async function bindGemv(compiler: KernelCompiler, label: string, matrix: GpuMatrix, form: LinearForm, prologue: Prologue, buffers: LinearBuffers): Promise<Op> {
  const kernel = await compiler.compile(kernels.gemv, {
    ...linearConstants(matrix, form),
    PROLOGUE: prologue.type,
    WG: GEMV_THREADS,
    ROW_TILES: GEMV_ROW_TILES,
    ...(prologue.type === "none" ? {} : { PREPARED: matrix.paddedColumns / 4 }),
    ...(prologue.type === "merge" ? { HEAD_SIZE: prologue.headSize, HEAD_CHUNKS: Math.ceil(prologue.headSize / 4), MAX_SPLITS: prologue.maxSplits } : {}),
  });
  const { run, x, aux, residual, y } = buffers;
  return sequence(
    matrix.parts.map((part) => {
      const group = kernel.bind(`${label}.gemv`, [run, part.shape, x, part.codes, part.scales, aux, residual, y]);
      return dispatchOp(kernel, group, () => [part.paddedRows / (8 * GEMV_ROW_TILES)]);
    }),
  );
}

/** The same for many rows of x, without a prologue. */
export async function bindGemm(compiler: KernelCompiler, label: string, matrix: GpuMatrix, form: LinearForm, buffers: LinearBuffers): Promise<Op> {
  const kernel = await compiler.compile(kernels.gemm, linearConstants(matrix, form));
  const { run, x, aux, residual, y } = buffers;
  return sequence(
    matrix.parts.map((part) => {
      const group = kernel.bind(`${label}.gemm`, [run, part.shape, x, part.codes, part.scales, aux, residual, y]);
      return dispatchOp(kernel, group, (rows) => [part.paddedRows / GEMM_COLUMNS, Math.ceil(rows / GEMM_ROWS)]);
    }),
  );
}

function linearConstants(matrix: GpuMatrix, { activation, bias, residual }: LinearForm): Record<string, string | number | boolean> {
  // gelu_pytorch_tanh is gelu_new by another name.
  return { ...encodingConstants(matrix.encoding), ACTIVATION: activation === "gelu_pytorch_tanh" ? "gelu_new" : activation, BIAS: bias, RESIDUAL: residual };
}
