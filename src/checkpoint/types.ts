import type { Dtype, SafetensorsEntry } from "../safetensors/index.ts";
import type { Gpt2Config, QuantizedTensor } from "../types.ts";

/** One tensor of the model as the engine sees it. */
export interface CheckpointTensor {
  /** Checkpoint name without `transformer.`: "wte.weight", "h.0.attn.c_attn.weight", "ln_f.bias", "lm_head.weight". */
  readonly name: string;
  /** linear: a block's Conv1D matrix, given transposed as [outputs, inputs]; embedding: wte, lm_head [V, C]; position: wpe; vector: biases and norms. */
  readonly kind: "linear" | "embedding" | "position" | "vector";
  /** As delivered: [rows, columns] for matrices, [1, length] for vectors. */
  readonly shape: readonly [rows: number, columns: number];
}

/** How far the weight files have been read, one after the other. */
export interface BytesRead {
  /** The one at work, and what has come of it. */
  file: string;
  fileBytes: number;
  fileTotalBytes: number | null;
  /** Over all files. */
  loadedBytes: number;
  totalBytes: number | null;
}

export interface ReadOptions {
  signal?: AbortSignal;
  onBytes?: (soFar: BytesRead) => void;
}

export interface ReadBlocksOptions extends ReadOptions {
  /** Buffers that nobody wants any more, which matrices are read into; the receiver of a block gives its buffer back here, or does not. */
  spare?: ArrayBuffer[];
}

export interface ReadTensor {
  readonly tensor: CheckpointTensor;
  /** f32 [rows, columns], row-major, owned by the caller. Of a stored matrix restored when it is first asked for. */
  readonly values: Float32Array<ArrayBuffer>;
  /** The matrix as the file has it, where that is quantized. */
  readonly stored?: QuantizedTensor;
}

/** Consecutive rows of a tensor as the file has them; see decodeBlock(). Embeddings come in several blocks, any other tensor in one. */
export interface RawBlock {
  readonly tensor: CheckpointTensor;
  /** Of the file. */
  readonly entry: Pick<SafetensorsEntry, "name" | "dtype" | "shape">;
  readonly firstRow: number;
  /** No rows follow. */
  readonly isLast: boolean;
  /** Owned by the receiver. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** One tensor of a safetensors file. */
export interface StoredEntry {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** The several tensors that a file has of one quantized matrix, by what follows its name: "" the codes, ".absmax", "_scale"… */
export type StoredEntries = ReadonlyMap<string, StoredEntry>;

/** Makes a matrix of its entries; throws `checkpoint` for malformed ones, `unsupported` for what no format of the engine can hold. */
export type RestoreStored = (tensor: CheckpointTensor, entries: StoredEntries) => ReadTensor;

/** Gives what restores, when the first stored matrix has been read. Rejects with signal.reason on abort. */
export type FetchRestore = (signal: AbortSignal | undefined) => Promise<RestoreStored>;

/** What the headers of a checkpoint's files tell. */
export interface WeightHeaders {
  /** `__metadata__` of all files together. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Dtype and shape of every entry of every matrix, by the matrix's name and the entry's suffix. */
  readonly matrices: ReadonlyMap<string, ReadonlyMap<string, Pick<StoredEntry, "dtype" | "shape">>>;
}

/** A GPT-2 checkpoint that was found and whose config was validated; weights have not been read. */
export interface Checkpoint {
  readonly config: Gpt2Config;
  /** Where it came from, for messages. */
  readonly description: string;
  /** Texts of the tokenizer files that the checkpoint brings, by name: tokenizer.json, or vocab.json with merges.txt. */
  readonly tokenizerFiles: Readonly<Record<string, string>>;
  /** Names of the .safetensors that read() reads. */
  readonly weightFiles: readonly string[];
  /** Of those files; null where no server has told it, short by the headers where only an index has. */
  readonly weightBytes: number | null;
  /** Every tensor that the model needs, in an order of the engine's own. */
  readonly tensors: readonly CheckpointTensor[];
  /** What the headers say where matrices are stored quantized; null where none is, which an index tells by its names alone. */
  readHeaders(signal?: AbortSignal): Promise<WeightHeaders | null>;
  /**
   * Reads the weights in one pass, in the order of the file, holding one tensor at a time (and of quantized ones the scales that come before their codes).
   * Every tensor of `tensors` comes exactly once, or the pass throws `checkpoint`; `integrity` where the file brings hashes and one differs.
   */
  read(options?: ReadOptions): AsyncGenerator<ReadTensor>;
  /** The same pass for those who decode bytes elsewhere, or want less than a tensor in memory; whole tensors where the file's bytes are not its weights. */
  readBlocks(options?: ReadBlocksOptions): AsyncGenerator<RawBlock | ReadTensor>;
}
