import type { Gpt2Config, MemoryReport } from "nibble-webgpu";

export interface TokenTraffic {
  /** Codes and scales of every matrix, the head included, biases and norms. */
  weightsBytes: number;
  /** K and V of all cached positions read, and one position written. */
  kvCacheBytes: number;
  /** f32 vectors between the kernels, each written once and read once. */
  activationsBytes: number;
  totalBytes: number;
}

/**
 * Bytes that decoding one token at `position` moves at least: each weight once, the cache once, each activation there and back.
 * Weights and cache count as they lie in memory, padding included; the memory report must be one of the whole context.
 * Only for a tied head (wte is read whole, as the head); caches of the processor are not taken into account.
 */
export function tokenTraffic(config: Gpt2Config, memory: MemoryReport, position: number): TokenTraffic {
  if (!config.tieWordEmbeddings) throw new RangeError("config.tieWordEmbeddings is false; expected a tied head, whose bytes the memory report counts as embedding.");
  const { nLayer: L, nEmbd: C, nInner, nPositions, vocabSize: V } = config;
  const positionEmbeddingBytes = nPositions * C * 4; // one row of it is read
  const weightsBytes = memory.weights + memory.scales + memory.embedding - positionEmbeddingBytes + C * 4;
  const kvCacheBytes = Math.round((memory.kvCache / nPositions) * (position + 1));
  const valuesPerLayer = 3 * C /* q, k, v */ + C /* attention */ + C /* residual */ + nInner + C; /* residual */
  const activationsBytes = 2 * 4 * (L * valuesPerLayer + C + V);
  return { weightsBytes, kvCacheBytes, activationsBytes, totalBytes: weightsBytes + kvCacheBytes + activationsBytes };
}
