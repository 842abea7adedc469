import { EngineError } from "../../errors.ts";
import { FolderCache, type Folder } from "./folderCache.ts";

const FOLDER_NAME = "nibble-webgpu";

/** What Safari before 26 has instead of createWritable(), in workers only; TypeScript knows it there only, too. */
interface SyncAccessHandle {
  write(bytes: Uint8Array, options: { at: number }): number;
  truncate(bytes: number): void;
  flush(): void;
  close(): void;
}
type FileHandle = Omit<FileSystemFileHandle, "createWritable"> & { createWritable?: FileSystemFileHandle["createWritable"]; createSyncAccessHandle?: () => Promise<SyncAccessHandle> };

/**
 * The cache in the browser's private file system, swept of leftovers. null where there is none: in Node, in pages that are not secure.
 * @throws EngineError `storage` where the browser has one and keeps it shut, as Firefox does in private windows, or cannot write on this thread
 */
export async function openOpfsCache(): Promise<FolderCache | null> {
  const { storage, locks } = (globalThis.navigator ?? {}) as Partial<Navigator>;
  if (!storage?.getDirectory || !locks) return null;
  try {
    const root = await storage.getDirectory();
    const folder = new OpfsFolder(await root.getDirectoryHandle(FOLDER_NAME, { create: true }));
    const cache = new FolderCache({ folder, estimate: () => storage.estimate(), locks });
    await cache.sweep();
    return cache;
  } catch (cause) {
    throw new EngineError("storage", `The browser's private file system could not be opened: ${(cause as Error).message}`, {}, { cause });
  }
}

/** @param directory of the origin's private file system */
export class OpfsFolder implements Folder {
  constructor(private readonly directory: FileSystemDirectoryHandle) {}

  async names(): Promise<string[]> {
    const names: string[] = [];
    for await (const name of this.directory.keys()) names.push(name);
    return names;
  }

  async read(name: string): Promise<Blob | null> {
    return unlessMissing(this.directory.getFileHandle(name).then((handle) => handle.getFile()));
  }

  async write(name: string, pieces: AsyncIterable<Uint8Array>): Promise<void> {
    const handle: FileHandle = await this.directory.getFileHandle(name, { create: true });
    if (handle.createWritable) {
      const writable = await handle.createWritable();
      try {
        for await (const piece of pieces) await writable.write(piece as Uint8Array<ArrayBuffer>);
      } catch (error) {
        await writable.abort().catch(() => undefined);
        throw error;
      }
      return writable.close();
    }
    if (!handle.createSyncAccessHandle) throw new EngineError("storage", "This browser writes to its private file system in workers only.");
    const access = await handle.createSyncAccessHandle();
    try {
      let at = 0;
      for await (const piece of pieces) {
        const writtenBytes = access.write(piece, { at });
        if (writtenBytes < piece.length) throw new DOMException("The file could not grow.", "QuotaExceededError");
        at += writtenBytes;
      }
      access.truncate(at);
      access.flush();
    } finally {
      access.close();
    }
  }

  async remove(name: string): Promise<void> {
    await unlessMissing(this.directory.removeEntry(name));
  }
}

async function unlessMissing<T>(answer: Promise<T>): Promise<T | null> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof DOMException && error.name === "NotFoundError") return null;
    throw error;
  }
}
