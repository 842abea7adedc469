import type { SourceOptions } from "./openSource.ts";
import { Client } from "./request.ts";
import { RemoteFile } from "./resume.ts";
import { defaultRetry } from "./retry.ts";
import type { CheckpointSource } from "./types.ts";

/** A place on a server that holds the files of one checkpoint. */
export interface RemoteFolder {
  description: string;
  fileUrl: (name: string) => URL;
  /** Where the repository keeps the Git LFS pointers of its files. */
  pointerUrl?: (name: string) => URL;
  safetensorsNames: readonly string[];
  token: string | undefined;
}

/** Files over HTTP; see RemoteFile. */
export function remoteSource(folder: RemoteFolder, options: Pick<SourceOptions, "fetch" | "signal" | "retry">): CheckpointSource {
  const retry = { ...defaultRetry, ...options.retry };
  const client = new Client(options.fetch ?? ((input, init) => globalThis.fetch(input, init)), folder.token, retry);
  return {
    description: folder.description,
    safetensorsNames: folder.safetensorsNames,
    isLocal: false,
    open: async (name, { signal = options.signal } = {}) => {
      const pointerUrl = (name.endsWith(".safetensors") && folder.pointerUrl?.(name)) || null; // the rest is small, and plain Git
      return RemoteFile.open({ name, url: folder.fileUrl(name), pointerUrl, client, retry, signal });
    },
  };
}
