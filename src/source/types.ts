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
  /**
   * What tells this version of the file from others, each word by itself: "sha256-" and the hash that the server states, its ETag (a weak one too) or
   * Last-Modified. Empty where it states none of them; absent for files that cannot change. Rejects on abort only.
   */
  versions?(signal?: AbortSignal): Promise<readonly string[]>;
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
  /** Finds what was cached of it on another visit: where the source is; of local files what they are, by name, size and date, or the hash of bytes that have no date. */
  cacheName(signal?: AbortSignal): Promise<string>;
  /**
   * As SourceFile.versions() of the file that is there now, by one request that is not made again; null where none is there. Absent where cacheName() says
   * it all. Rejects with `network`, and `status` in its details where the server answered.
   */
  currentVersions?(name: string, signal?: AbortSignal): Promise<readonly string[] | null>;
}
