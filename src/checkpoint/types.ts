import type { Gpt2Config } from "../types.ts";

/** One tensor of the model as the engine sees it. */
export interface CheckpointTensor {
  /** Checkpoint name without `transformer.`: "wte.weight", "h.0.attn.c_attn.weight", "ln_f.bias", "lm_head.weight". */
  readonly name: string;
  /** linear: a block's Conv1D matrix, given transposed as [outputs, inputs]; embedding: wte, lm_head [V, C]; position: wpe; vector: biases and norms. */
  readonly kind: "linear" | "embedding" | "position" | "vector";
  /** As delivered: [rows, columns] for matrices, [1, length] for vectors. */
  readonly shape: readonly [rows: number, columns: number];
}

export interface ReadOptions {
  signal?: AbortSignal;
  /** Bytes of weight files read so far, over all files. */
  onBytes?: (progress: { file: string; loadedBytes: number; totalBytes: number | null }) => void;
}

/** A GPT-2 checkpoint that was found and whose config was validated; weights have not been read. */
export interface Checkpoint {
  readonly config: Gpt2Config;
  /** Where it came from, for messages. */
  readonly description: string;
  /** Texts of the tokenizer files that the checkpoint brings, by name: tokenizer.json, or vocab.json with merges.txt. */
  readonly tokenizerFiles: Readonly<Record<string, string>>;
  /** Every tensor that the model needs, in an order of the engine's own. */
  readonly tensors: readonly CheckpointTensor[];
  /**
   * Reads the weights in one pass, in the order of the file, holding one tensor at a time.
   * values: f32 [rows, columns], row-major, owned by the caller. Every tensor of `tensors` comes exactly once, or the pass throws `checkpoint`.
   */
  read(options?: ReadOptions): AsyncGenerator<{ tensor: CheckpointTensor; values: Float32Array<ArrayBuffer> }>;
}
