import type { LoadedBytes, Shortage } from "../types.ts";

/** What a model will take when it is loaded, and what of it has no room. Zero points are taken to fit int8, as they do but where a group's values have one sign. */
export interface MemoryPlan {
  memory: LoadedBytes;
  shortages: readonly Shortage[];
}

export function noBytes(): LoadedBytes {
  return { weights: 0, embedding: 0, scales: 0, kvCache: 0, activations: 0, staging: 0, total: 0 };
}

export function withTotal(bytes: LoadedBytes): LoadedBytes {
  const { weights, embedding, scales, kvCache, activations, staging } = bytes;
  return { ...bytes, total: weights + embedding + scales + kvCache + activations + staging };
}
