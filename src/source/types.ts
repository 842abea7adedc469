/** One file of a checkpoint, wherever it lives. Reading it twice is allowed (and downloads twice). */
export interface SourceFile {
  /** Base name: "config.json", "model.safetensors". */
  readonly name: string;
  /** null until a server has said it (Content-Length absent). */
  readonly sizeBytes: number | null;
  /** The bytes from the start, in order, in pieces of any size, each valid until the next is asked for. Leaving the loop cancels the transfer. */
  stream(options?: { signal?: AbortSignal }): AsyncIterable<Uint8Array>;
  /** SHA-256 that the server states for the file, hex; null where it states none. Rejects on abort only. */
  statedSha256?(signal?: AbortSignal): Promise<string | null>;
}

/** Opens the files of one checkpoint by name. */
export interface CheckpointSource {
  /** For messages: `https://…/`, `hub openai-community/gpt2@main`, `3 files`. Never holds a token. */
  readonly description: string;
  /** null where the source has no such file. Rejects with `network` for anything else that keeps it from being opened. */
  open(name: string, options?: { signal?: AbortSignal }): Promise<SourceFile | null>;
  /** Base names of the .safetensors that the caller named or that are known to exist; empty where only guessing is possible (then model.safetensors and the index are tried). */
  readonly safetensorsNames: readonly string[];
  /** The files are in memory or on disk: reading them again costs no download. */
  readonly isLocal: boolean;
}
