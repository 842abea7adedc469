import type { KernelCompiler } from "../gpu/pipeline.ts";
import type { Activation } from "../types.ts";
import { COLUMN_PADDING, padTo } from "../quantize/pack.ts";
import { encodingConstants, type GpuMatrix } from "./matrix.ts";
import { dispatchOp, sequence, type Op } from "./op.ts";
import { kernels } from "./sources.ts";

const GEMV_THREADS = 64;
/**
 * How a gemv workgroup is cut: tiles of 8 outputs, and threads that share a row. A prologue is repeated by every workgroup, so more rows share it.
 * On software adapters a row belongs to one thread: barriers and workgroup memory cost more there than anything else.
 */
const GEMV_SHAPES = { hardware: { ROW_TILES: 2, STRIPES: 8 }, software: { ROW_TILES: 8, STRIPES: 1 } } as const;
/** Rows of x and outputs of a gemm workgroup. */
const GEMM_ROWS = 32;
const GEMM_OUTPUTS = 64;
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

/** What happens to x first. "merge" joins what attention_decode wrote; its matrix was uploaded with that attention in its shape. */
export type Prologue = "none" | "layer_norm" | "merge";

/** A row of `columns` inputs that a prologue prepares must fit in workgroup memory beside the partial sums. */
export function fitsPrologue(columns: number): boolean {
  return preparedChunks(padTo(columns, COLUMN_PADDING)) * 16 + 2 * 8 * 8 * 4 + 2 * GEMV_THREADS * 4 + 64 <= WORKGROUP_MEMORY_BYTES;
}

/** vec4s of workgroup memory for a row; at least 1 KB, so that small models of different widths share a kernel. */
function preparedChunks(paddedColumns: number): number {
  return Math.max(64, paddedColumns / 4);
}

/** y = activate(W · prologue(x) + bias) + residual for one row of x. */
export async function bindGemv(compiler: KernelCompiler, label: string, matrix: GpuMatrix, form: LinearForm, prologue: Prologue, buffers: LinearBuffers): Promise<Op> {
  const shape = GEMV_SHAPES[compiler.tuning];
  const kernel = await compiler.compile(kernels.gemv, {
    ...linearConstants(compiler, matrix, form),
    PROLOGUE: prologue,
    WG: GEMV_THREADS,
    ...shape,
    ...(prologue === "none" ? {} : { PREPARED: preparedChunks(matrix.paddedColumns) }),
  });
  const { run, x, aux, residual, y } = buffers;
  return sequence(
    matrix.parts.map((part) => {
      const group = kernel.bind(`${label}.gemv`, [run, part.shape, x, part.codes, part.scales, aux, residual, y]);
      return dispatchOp(kernel, group, () => [Math.ceil(part.rows / (8 * shape.ROW_TILES))]);
    }),
  );
}

/** The same for many rows of x, without a prologue. */
export async function bindGemm(compiler: KernelCompiler, label: string, matrix: GpuMatrix, form: LinearForm, buffers: LinearBuffers): Promise<Op> {
  const kernel = await compiler.compile(kernels.gemm, linearConstants(compiler, matrix, form));
  const { run, x, aux, residual, y } = buffers;
  return sequence(
    matrix.parts.map((part) => {
      const group = kernel.bind(`${label}.gemm`, [run, part.shape, x, part.codes, part.scales, aux, residual, y]);
      return dispatchOp(kernel, group, (rows) => [Math.ceil(part.rows / GEMM_OUTPUTS), Math.ceil(rows / GEMM_ROWS)]);
    }),
  );
}

function linearConstants({ tuning }: KernelCompiler, matrix: GpuMatrix, { activation, bias, residual }: LinearForm): Record<string, string | number | boolean> {
  // gelu_pytorch_tanh is gelu_new by another name.
  return { ...encodingConstants(matrix.encoding), ACTIVATION: activation === "gelu_pytorch_tanh" ? "gelu_new" : activation, BIAS: bias, RESIDUAL: residual, ROLLED: tuning === "software" };
}
