import type { Kernel, KernelCompiler, KernelSource, Variants } from "../gpu/pipeline.ts";
import type { ShaderConstants } from "../gpu/preprocess.ts";
import { COLUMN_PADDING, padTo } from "../quantize/pack.ts";
import { fetchInt8Sources, fetchSoftwareSources } from "./fetchSources.ts";
import { encodingConstants, type GpuMatrix, type GpuMatrixPart, type MatrixUse } from "./matrix.ts";
import { dispatchOp, sequence, type Op } from "./op.ts";
import { kernels, withPieces } from "./sources.ts";

/** What a gemv workgroup of the largest shape needs beside a prepared row: partial sums, sums over its threads, candidates, a table. */
const GEMV_MEMORY_BYTES = 8 * 4 * 32 * 4 + 2 * 256 * 4 + 8 * 4 * 16 + 64;
/** Rows of x and outputs of a gemm workgroup. */
const GEMM_ROWS = 32;
const GEMM_OUTPUTS = 64;
/** Threads of a linear_tile workgroup, each with a tile of 8 outputs, and rows of x that it takes at once. */
const TILE_THREADS = 16;
const TILE_ROWS_OF_X = 8;
const WORKGROUP_MEMORY_BYTES = 16384;

/** Bytes of one row of activations as int8 codes, its scale and the marks of its outliers behind it: code_rows.wgsl. */
export function codeRowBytes(columns: number, outliers: boolean): number {
  return padTo(columns, COLUMN_PADDING) + 16 + (outliers ? 16 * Math.ceil(columns / 128) : 0);
}

export interface LinearBuffers {
  /** Uniform Step. */
  run: GPUBuffer;
  /** f32 [rows, K padded]; for the merge prologue what attention_decode wrote. */
  x: GPUBuffer;
  /** f32 gamma [K padded], beta [K padded] where a layer norm comes first, then bias [N padded]. */
  aux: GPUBuffer;
  /** f32 [rows, yStride]; any storage buffer where there is none. */
  residual: GPUBuffer;
  /** Rows of codeRowBytes() for x as codes, as many as x has: for many rows of x and a matrix with int8 activations. */
  xCodes?: GPUBuffer;
  /** f32 [rows, yStride]; not x and not residual: WebGPU forbids reading and writing one buffer in a dispatch. */
  y: GPUBuffer;
}

/** What happens to x first. "merge" joins what attention_decode wrote; its matrix was uploaded with that attention in its shape. */
export type Prologue = "none" | "layer_norm" | "merge";

/** A row of `columns` inputs that a prologue prepares must fit in workgroup memory beside the partial sums and the candidates. */
export function fitsPrologue(columns: number, { activations = "float", outlierThreshold }: Pick<MatrixUse, "activations" | "outlierThreshold"> = {}): boolean {
  const codeBytes = activations === "float" ? 0 : outlierThreshold === undefined ? 4 : 4.5; // of 4 columns; an outlier's mark is a bit
  return preparedChunks(padTo(columns, COLUMN_PADDING)) * (16 + codeBytes) + GEMV_MEMORY_BYTES <= WORKGROUP_MEMORY_BYTES;
}

/** vec4s of workgroup memory for a row; at least 1 KB, so that small models of different widths share a kernel. */
function preparedChunks(paddedColumns: number): number {
  return Math.max(64, paddedColumns / 4);
}

/** Where the head's product leaves what the sample kernel needs of it. */
export interface CandidateBuffers {
  /** Uniform Sampling. */
  sampling: GPUBuffer;
  /** u32 [V] */
  counts: GPUBuffer;
  /** vec4<f32> [workgroups][2], see candidates.wgsl; bytes: candidateBytes() */
  candidates: GPUBuffer;
}

/** Bytes of CandidateBuffers.candidates, 0 where the head has no candidates to give: barriers cost software adapters more than a second look at the logits. */
export function candidateBytes({ variants }: { variants: Pick<Variants, "tuning" | "gemv"> }, head: { rows: number; parts: ArrayLike<unknown> }): number {
  return variants.tuning === "software" || head.parts.length > 1 ? 0 : Math.ceil(head.rows / (8 * variants.gemv.rowTiles)) * 32;
}

/** y = activate(W · prologue(x) + bias) + residual for one row of x. */
export async function bindGemv(compiler: KernelCompiler, label: string, matrix: GpuMatrix, prologue: Prologue, buffers: LinearBuffers, extra?: CandidateBuffers): Promise<Op> {
  const constants = {
    ...linearConstants(compiler, matrix),
    PROLOGUE: prologue,
    ...(prologue === "none" ? {} : { PREPARED: preparedChunks(matrix.paddedColumns) }),
    ...(matrix.int8Activations ? { INPUT_CODES: preparedChunks(matrix.paddedColumns) / 4 } : {}),
  };
  if (compiler.variants.tuning === "software") return bindTile(compiler, `${label}.gemv`, matrix, buffers, { ...constants, ROWS: 1, READS: 1, LANES: 1 });
  const { stripes, rowTiles } = compiler.variants.gemv;
  const source = extra ? kernels.head : kernels.gemv;
  const kernel = await compileFor(matrix, compiler, source, { ...constants, WG: 8 * stripes, ROW_TILES: rowTiles, STRIPES: stripes, EPILOGUE: extra ? "candidates" : "constant" });
  const more = extra ? [extra.sampling, extra.counts, extra.candidates] : [];
  return bindParts(kernel, `${label}.gemv`, matrix, buffers, more, (part) => [Math.ceil(part.rows / (8 * rowTiles))]);
}

/** The same for many rows of x, without a prologue. */
export function bindGemm(compiler: KernelCompiler, label: string, matrix: GpuMatrix, buffers: LinearBuffers): Promise<Op> {
  return bindRows(compiler, label, matrix, buffers, linearConstants(compiler, matrix));
}

export async function bindRows(compiler: KernelCompiler, label: string, matrix: GpuMatrix, buffers: LinearBuffers, constants: ShaderConstants): Promise<Op> {
  if (matrix.int8Activations) {
    const { run, x, xCodes } = buffers;
    if (!xCodes) throw new TypeError(`${label}: int8 activations need a buffer for codes.`);
    const { quantizeRows } = await fetchInt8Sources();
    const kernel = await compiler.compile(quantizeRows, { WG: 64, OUTLIERS: matrix.outliers });
    const quantize = dispatchOp(kernel, kernel.bind(`${label}.codes`, [run, matrix.parts[0]!.shape, x, xCodes]), (rows) => [rows]);
    const product = await bindProduct(compiler, label, matrix, { ...buffers, x: xCodes }, { ...constants, PROLOGUE: "codes" }, matrix.outliers ? [x] : []);
    return sequence([quantize, product]);
  }
  return bindProduct(compiler, label, matrix, buffers, { ...constants, PROLOGUE: "none" }, []);
}

/** outlierRows: where x is rows of codes, the f32 rows that their outliers are read from. */
async function bindProduct(compiler: KernelCompiler, label: string, matrix: GpuMatrix, buffers: LinearBuffers, constants: ShaderConstants, outlierRows: readonly GPUBuffer[]): Promise<Op> {
  const { tuning, lanes } = compiler.variants;
  if (tuning === "software") return bindTile(compiler, `${label}.gemm`, matrix, buffers, { ...constants, ROWS: TILE_ROWS_OF_X, READS: TILE_ROWS_OF_X / lanes, LANES: lanes }, outlierRows);
  const kernel = await compileFor(matrix, compiler, outlierRows.length > 0 ? kernels.gemmOutliers : kernels.gemm, constants);
  return bindParts(kernel, `${label}.gemm`, matrix, buffers, outlierRows, (part, rows) => [Math.ceil(part.rows / GEMM_OUTPUTS), Math.ceil(rows / GEMM_ROWS)]);
}

async function bindTile(compiler: KernelCompiler, label: string, matrix: GpuMatrix, buffers: LinearBuffers, constants: ShaderConstants & { ROWS: number }, outlierRows: readonly GPUBuffer[] = []): Promise<Op> {
  const TABLE = compiler.variants.lanes === 8 && matrix.encoding.code === "lut4" ? "lanes" : "memory";
  const { linearTile, linearTileOutliers } = await fetchSoftwareSources();
  const kernel = await compileFor(matrix, compiler, outlierRows.length > 0 ? linearTileOutliers : linearTile, { ...constants, WG: TILE_THREADS, TABLE, SUBGROUPS: Number(constants.LANES) > 1 || TABLE === "lanes" });
  return bindParts(kernel, label, matrix, buffers, outlierRows, (part, rows) => [Math.ceil(part.rows / (8 * TILE_THREADS)), constants.ROWS === 1 ? 1 : Math.ceil(rows / constants.ROWS)]);
}

async function compileFor({ int8Activations }: GpuMatrix, compiler: KernelCompiler, source: KernelSource, constants: ShaderConstants): Promise<Kernel> {
  return compiler.compile(int8Activations ? withPieces(source, (await fetchInt8Sources()).int8Pieces) : source, constants);
}

/** One dispatch for each part of the matrix; `more`: what its kernel binds beyond the rest. */
function bindParts(kernel: Kernel, label: string, matrix: GpuMatrix, { run, x, aux, residual, y }: LinearBuffers, more: readonly GPUBuffer[], grid: (part: GpuMatrixPart, rows: number) => [x: number, y?: number]): Op {
  return sequence(
    matrix.parts.map((part) => {
      const group = kernel.bind(label, [run, part.shape, x, part.codes, part.scales, aux, residual, y, ...more]);
      return dispatchOp(kernel, group, (rows) => grid(part, rows));
    }),
  );
}

export function linearConstants({ variants }: KernelCompiler, { encoding, form, int8Activations, outliers }: GpuMatrix): Record<string, string | number | boolean> {
  // gelu_pytorch_tanh is gelu_new by another name.
  const ACTIVATION = form.activation === "gelu_pytorch_tanh" ? "gelu_new" : form.activation;
  const reading = { ...encodingConstants(encoding), ACTIVATIONS: int8Activations ? "int8" : "float", OUTLIERS: outliers, DOT4: variants.dot4 };
  // Software adapters take longer to compile one more kernel than to ask a uniform what to do.
  if (variants.tuning === "software") return { ...reading, ROLLED: true, EPILOGUE: "uniform", ACTIVATION: ACTIVATION === "none" ? "gelu_new" : ACTIVATION };
  return { ...reading, ROLLED: false, EPILOGUE: "constant", ACTIVATION, BIAS: form.bias, RESIDUAL: form.residual };
}
