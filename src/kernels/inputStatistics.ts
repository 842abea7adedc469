import type { KernelCompiler } from "../gpu/pipeline.ts";
import { FIRST_MAGNITUDE_BIN, MAGNITUDE_BIN_SHIFT, MAGNITUDE_BINS } from "../quantize/inputStatistics.ts";
import { COLUMN_PADDING, padTo } from "../quantize/pack.ts";
import { dispatchOp, type Op } from "./op.ts";
import { inspectionKernels } from "./inspectionSources.ts";

const WG = 64;

export interface ColumnStatisticsBuffers {
  /** Uniform Step. */
  run: GPUBuffer;
  /** Uniform Shape of the matrix that takes x. */
  shape: GPUBuffer;
  /** f32 [rows, K padded] */
  x: GPUBuffer;
  /** u32 [columnStatisticsWords(K)], zeros at first: bits of f32 max |x| [K], bits of f32 Σ |x| [K], counts [MAGNITUDE_BINS] */
  y: GPUBuffer;
}

export function columnStatisticsWords(columns: number): number {
  return 2 * columns + MAGNITUDE_BINS;
}

/** Adds rows of x to its statistics. */
export async function bindColumnStatistics(compiler: KernelCompiler, label: string, columns: number, { run, shape, x, y }: ColumnStatisticsBuffers): Promise<Op> {
  const kernel = await compiler.compile(inspectionKernels.columnStatistics, { WG, BIN_SHIFT: MAGNITUDE_BIN_SHIFT, FIRST_BIN: FIRST_MAGNITUDE_BIN, BINS: MAGNITUDE_BINS });
  const groups = Math.ceil(columns / WG);
  return dispatchOp(kernel, kernel.bind(`${label}.statistics`, [run, shape, x, y]), () => [groups]);
}

export interface GramBuffers extends Omit<ColumnStatisticsBuffers, "y"> {
  /** Uniform, 16 bytes: u32 first row of the strip. */
  strip: GPUBuffer;
  /** f32 [rows of the strip, K padded], zeros at first */
  y: GPUBuffer;
}

/** A gram's rows come in strips, each a buffer within the binding limit: their first rows and how many they have, multiples of 4. */
export function gramStrips(columns: number, maxBytes: number): { first: number; rows: number }[] {
  const padded = padTo(columns, COLUMN_PADDING);
  const rowsPerStrip = Math.max(4, Math.floor(maxBytes / (padded * 4) / 4) * 4);
  return Array.from({ length: Math.ceil(padded / rowsPerStrip) }, (_, i) => ({ first: i * rowsPerStrip, rows: Math.min(rowsPerStrip, padded - i * rowsPerStrip) }));
}

/** Adds rows of x to a strip of Σ x · xᵀ, from the diagonal to the right. */
export async function bindGram(compiler: KernelCompiler, label: string, columns: number, rows: number, { run, shape, strip, x, y }: GramBuffers): Promise<Op> {
  const kernel = await compiler.compile(inspectionKernels.gram, { WG });
  const grid = [Math.ceil(padTo(columns, COLUMN_PADDING) / 8 / WG), rows / 4] as const;
  return dispatchOp(kernel, kernel.bind(`${label}.gram`, [run, shape, strip, x, y]), () => grid);
}
