import type { BackendOptions } from "../backend.ts";
import { Input } from "./input.ts";
import { BLOCK_ROWS, type CpuKernels, createScratch, LANES, roundUp, type Scratch } from "./kernels.ts";
import { KvCache } from "./kvCache.ts";

/** Tokens that go through the layers together: restoring a quantized row costs about as much as three products with it. */
export function chunkTokensOf(contextLength: number): number {
  return Math.min(128, contextLength);
}

/** Arrays that a model works in, made together. C = nEmbd, H = nHead, D = C / H, S = contextLength; T ≤ chunkTokens rows are in use. */
export interface Arrays {
  keys: KvCache;
  values: KvCache;
  x: Float32Array; // f32 [chunkTokens, C], the residual stream
  normed: Float32Array; // f32 [chunkTokens, C]; attention's output too
  projected: Float32Array; // f32 [chunkTokens, C], what a sublayer adds to x
  qkv: Float32Array; // f32 [chunkTokens, 3C]
  inner: Float32Array; // f32 [chunkTokens, nInner]
  scores: Float32Array; // f32 [chunkTokens, S padded], of one head
  cached: Float32Array; // f32 [S padded, D padded], one head's keys, then its values, restored
  input: Input; // up to chunkTokens rows as the next matrix takes them
  scratch: Scratch;
  logits: Float32Array; // f32 [V], of the last token
  blockLogits: Float32Array; // f32 [chunkTokens, BLOCK_ROWS]
  otherLogits: Float32Array; // as blockLogits, of a model that this one is compared with
}

export function createCaches(kernels: CpuKernels, { config: { nLayer: L, nHead: H, nEmbd: C }, contextLength: S, kvCache }: BackendOptions): Pick<Arrays, "keys" | "values"> {
  const shape = { L, H, S, D: C / H };
  return { keys: new KvCache(kernels, shape, kvCache, "keys"), values: new KvCache(kernels, shape, kvCache, "values") };
}

export function createArrays(kernels: CpuKernels, options: BackendOptions): Arrays {
  const { config: { nHead: H, nEmbd: C, nInner, vocabSize: V }, contextLength: S } = options;
  const T = chunkTokensOf(S);
  const longestRow = Math.max(C, nInner);
  const floats = (length: number): Float32Array => kernels.allocate(Float32Array, length);
  return {
    ...createCaches(kernels, options),
    x: floats(T * C),
    normed: floats(T * C),
    projected: floats(T * C),
    qkv: floats(T * 3 * C),
    inner: floats(T * nInner),
    scores: floats(T * roundUp(S, LANES)),
    cached: floats(roundUp(S, LANES) * roundUp(C / H, LANES)),
    input: new Input(kernels, T, longestRow),
    scratch: createScratch(kernels, T, longestRow),
    logits: floats(V),
    blockLogits: floats(T * BLOCK_ROWS),
    otherLogits: floats(T * BLOCK_ROWS),
  };
}
