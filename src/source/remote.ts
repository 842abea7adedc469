import type { SourceOptions } from "./openSource.ts";
import { readLfsPointer } from "./lfsPointer.ts";
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

/** Who only wants to know whether a file has changed waits no longer for a server that is silent. */
const PATIENCE_MS = 5_000;

/** Files over HTTP; see RemoteFile. */
export function remoteSource(folder: RemoteFolder, options: Pick<SourceOptions, "fetch" | "signal" | "retry">): CheckpointSource {
  const retry = { ...defaultRetry, ...options.retry };
  const pointerUrl = (name: string): URL | null => (name.endsWith(".safetensors") && folder.pointerUrl?.(name)) || null; // the rest is small, and plain Git
  const ask: typeof fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
  const client = new Client(ask, folder.token, retry);
  return {
    description: folder.description,
    safetensorsNames: folder.safetensorsNames,
    isLocal: false,
    open: async (name, { signal = options.signal } = {}) => RemoteFile.open({ name, url: folder.fileUrl(name), pointerUrl: pointerUrl(name), client, retry, signal }),
    cacheName: async () => folder.fileUrl("").href, // with its query, which may choose the model
    currentVersions: async (name, signal = options.signal) => {
      const once = { ...retry, attempts: 1, firstAttempts: 1, stallMs: Math.min(retry.stallMs, PATIENCE_MS) };
      const client = new Client(ask, folder.token, once);
      const pointer = pointerUrl(name);
      const sha256 = pointer && (await readLfsPointer(client, pointer, signal));
      if (sha256) return [`sha256-${sha256}`];
      const file = await RemoteFile.open({ name, url: folder.fileUrl(name), pointerUrl: null, client, retry: once, signal });
      file?.close();
      return file && file.versions(signal);
    },
  };
}
