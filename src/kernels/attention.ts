import type { KernelCompiler } from "../gpu/pipeline.ts";
import { fetchSoftwareSources } from "./fetchSources.ts";
import { dispatchOp, sequence, type Op } from "./op.ts";
import { kernels } from "./sources.ts";

/** Cached positions that one workgroup of decode attention works on. */
export const SPLIT_POSITIONS = 128;
/** What each tile of prefillTile() divides: windows side by side that begin at its multiples sum in the order in which each does alone, to the same bits. */
export const WINDOW_ALIGNMENT = 16;
const WORKGROUP_MEMORY_BYTES = 16384;

export type KvFormat = "f32" | "f16" | "int8";

export interface AttentionForm {
  heads: number;
  headSize: number;
  /** Positions the cache holds. */
  positions: number;
  kv: KvFormat;
}

export interface AttentionBuffers {
  /** Uniform Step. */
  run: GPUBuffer;
  /** Uniform Attention of kv_shape.wgsl. */
  shape: GPUBuffer;
  /** f32 [rows, 3C padded]: q, k, v */
  qkv: GPUBuffer;
  /** [2][H][positions][⌈D / 4⌉] chunks: vec4<f32>, two words of halves, or a word of int8 codes */
  cache: GPUBuffer;
  /** f32 [2][H][positions] for int8; else any storage buffer */
  kvScales: GPUBuffer;
  /** decode: vec4<f32> [H][splits][⌈D / 4⌉ + 1]; prefill: f32 [rows, C padded] */
  y: GPUBuffer;
}

/** Queries of an attention_rows workgroup, and the widest head, in chunks of four values, whose query and output it keeps in registers. */
const REGISTER_QUERIES = 16;
const MAX_REGISTER_CHUNKS = 32;

export function headChunks(headSize: number): number {
  return Math.ceil(headSize / 4);
}

export function maxSplits(positions: number): number {
  return Math.ceil(positions / SPLIT_POSITIONS);
}

/** Bytes of one layer's cache and of its scales. */
export function cacheBytes({ heads, headSize, positions, kv }: AttentionForm): { cache: number; scales: number } {
  const chunkBytes = kv === "f32" ? 16 : kv === "f16" ? 8 : 4;
  return { cache: 2 * heads * positions * headChunks(headSize) * chunkBytes, scales: kv === "int8" ? 2 * heads * positions * 4 : 0 };
}

/** Words of the uniform Attention. scale multiplies q · k. */
export function attentionShape({ heads, positions }: AttentionForm, strides: { qkv: number; y: number }, scale: number): Uint32Array<ArrayBuffer> {
  const words = new Uint32Array(8);
  words.set([heads, positions, strides.qkv, strides.y]);
  new Float32Array(words.buffer)[4] = scale;
  return words;
}

/** Appends the token's k and v, then one partial softmax per (head, split); gemv's merge prologue joins them. */
export async function bindDecodeAttention(compiler: KernelCompiler, label: string, form: AttentionForm, buffers: AttentionBuffers, splits: () => number): Promise<Op> {
  const kernel = await compiler.compile(kernels.attentionDecode, {
    ...headConstants(compiler, form),
    SPLIT: SPLIT_POSITIONS,
    MAX_SPLITS: maxSplits(form.positions),
    LANES: Math.min(64, headChunks(form.headSize)),
  });
  const { run, shape, qkv, cache, kvScales, y } = buffers;
  return dispatchOp(kernel, kernel.bind(label, [run, shape, qkv, cache, kvScales, y]), () => [form.heads, splits()]);
}

/** Appends the chunk's k and v, then attends over everything cached: in tiles, or, on software adapters with subgroups, query by query in registers. */
export async function bindPrefillAttention(compiler: KernelCompiler, label: string, form: AttentionForm, buffers: AttentionBuffers): Promise<Op> {
  const { tuning, lanes } = compiler.variants;
  const constants = headConstants(compiler, form);
  const chunks = headChunks(form.headSize);
  const inRegisters = tuning === "software" && lanes > 1 && chunks <= MAX_REGISTER_CHUNKS;
  const { tile, staged } = prefillTile(form.headSize);
  const [write, attend] = await Promise.all([
    compiler.compile(kernels.kvWrite, constants),
    inRegisters
      ? compiler.compile((await fetchSoftwareSources()).attentionRows, { ...constants, WG: REGISTER_QUERIES, LANES: lanes, READS: Math.ceil(chunks / lanes) })
      : compiler.compile(kernels.attentionPrefill, { ...constants, TILE: tile, STAGED: staged }),
  ]);
  const queries = inRegisters ? REGISTER_QUERIES : tile; // of one workgroup
  const { run, shape, qkv, cache, kvScales, y } = buffers;
  return sequence([
    dispatchOp(write, write.bind(`${label}.kvWrite`, [run, shape, qkv, cache, kvScales]), (rows) => [Math.ceil((2 * form.heads * rows) / 64)]),
    dispatchOp(attend, attend.bind(label, [run, shape, qkv, cache, kvScales, y]), (rows) => [form.heads, Math.ceil(rows / queries)]),
  ]);
}

function headConstants({ variants }: KernelCompiler, { headSize, kv }: AttentionForm): Record<string, string | number | boolean> {
  return { HEAD_SIZE: headSize, HEAD_CHUNKS: headChunks(headSize), KV: kv, ROLLED: variants.tuning === "software" };
}

/** The largest square of queries × positions whose q, k and v fit in workgroup memory; heads too large for any read them in place. */
function prefillTile(headSize: number): { tile: number; staged: boolean } {
  for (const tile of [16, 8, 4]) {
    if (3 * tile * headChunks(headSize) * 16 + tile * tile * 4 <= WORKGROUP_MEMORY_BYTES) return { tile, staged: true };
  }
  return { tile: 16, staged: false };
}
