import { localFile } from "./local.ts";
import type { CheckpointSource, SourceFile } from "./types.ts";

export interface MaterializeOptions {
  signal?: AbortSignal;
  /** Bytes of one file downloaded so far. */
  onBytes?: (progress: { file: string; loadedBytes: number; totalBytes: number | null }) => void;
}

/** How much is gathered in memory before it becomes a Blob, which a browser may keep on disk. */
const foldBytes = 32 * 2 ** 20;

/** The same source with every file downloaded at most once, when it is first opened, whole, into a Blob. A local source is returned as it is. */
export async function materialize(source: CheckpointSource, options: MaterializeOptions = {}): Promise<CheckpointSource> {
  if (source.isLocal) return source;
  const downloads = new Map<string, Promise<Blob | null>>();

  async function download(name: string, signal: AbortSignal | undefined): Promise<Blob | null> {
    const file = await source.open(name, { signal });
    return file && readBlob(file, signal, options.onBytes);
  }

  return {
    ...source,
    isLocal: true,
    async open(name, { signal = options.signal } = {}) {
      let pending = downloads.get(name);
      if (!pending) {
        pending = download(name, signal);
        downloads.set(name, pending);
        pending.catch(() => downloads.delete(name)); // the next opening tries again
      }
      const blob = await pending;
      return blob && localFile(name, blob, options.signal);
    },
  };
}

async function readBlob(file: SourceFile, signal: AbortSignal | undefined, onBytes: MaterializeOptions["onBytes"]): Promise<Blob> {
  const blobs: Blob[] = [];
  let pieces: Uint8Array<ArrayBuffer>[] = [];
  let piecesBytes = 0;
  let loadedBytes = 0;
  for await (const piece of file.stream({ signal })) {
    pieces.push(piece.slice());
    piecesBytes += piece.length;
    loadedBytes += piece.length;
    if (piecesBytes >= foldBytes) {
      blobs.push(new Blob(pieces));
      pieces = [];
      piecesBytes = 0;
    }
    onBytes?.({ file: file.name, loadedBytes, totalBytes: file.sizeBytes });
  }
  return new Blob([...blobs, ...pieces]);
}
