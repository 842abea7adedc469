import { EngineError } from "../../errors.ts";
import type { CacheEntry, ModelCache } from "../../types.ts";
import { readPieces } from "../readPieces.ts";

/** The few things that the cache asks of a file system. Names have no folders in them. */
export interface Folder {
  names(): Promise<string[]>;
  /** null where there is none. */
  read(name: string): Promise<Blob | null>;
  /** Replaces the file. Where the pieces throw, it throws the same; what it leaves then, nobody reads. */
  write(name: string, pieces: AsyncIterable<Uint8Array>): Promise<void>;
  /** Nothing where there is none. */
  remove(name: string): Promise<void>;
}

export interface FolderCacheParts {
  folder: Folder;
  /** As navigator.storage.estimate(). */
  estimate: () => Promise<StorageEstimate>;
  /** Shared by all that use the folder: navigator.locks. */
  locks: Pick<LockManager, "request">;
  nowMs?: () => number;
}

/** The content of KEY.json. An entry counts from the moment that this small file is written, last. */
interface Marker extends Pick<CacheEntry, "source" | "recipe" | "bytes"> {
  /** The file with the body; never the same twice, so that an entry can be replaced while it is read. */
  file: string;
  lastUsedMs: number;
}

/** Left to the page and to what the estimate does not count yet. */
const SPARE_BYTES = 16 * 2 ** 20;

/**
 * A ModelCache in a folder that several tabs share. A body is written to a file of its own, then its marker: what breaks off in between does not count and
 * is removed by sweep(). Who writes an entry holds its lock; another tab that comes with the same one meanwhile lets it be.
 */
export class FolderCache implements ModelCache {
  readonly #parts: Required<FolderCacheParts>;

  constructor(parts: FolderCacheParts) {
    this.#parts = { nowMs: Date.now, ...parts };
  }

  async match(key: string): Promise<Response | undefined> {
    const marker = await this.#marker(key);
    const body = marker && (await this.#parts.folder.read(marker.file));
    if (body?.size !== marker?.bytes) await this.delete(key);
    if (!marker || body?.size !== marker.bytes) return undefined;
    await this.#ifFree(key, () => this.#mark(key, { ...marker, lastUsedMs: this.#parts.nowMs() })).catch(() => undefined); // only its age is lost
    return new Response(body);
  }

  /** @throws EngineError `storage` where there is no room, having removed all others; what broke the body off */
  async put(key: string, { body }: Response, { source, recipe, bytes: expectedBytes }: Pick<CacheEntry, "source" | "recipe" | "bytes">): Promise<void> {
    const { folder, nowMs } = this.#parts;
    const write = async (): Promise<void> => {
      await this.#makeRoom(key, expectedBytes);
      const before = await this.#marker(key);
      const file = `${key}.${nowMs().toString(36)}${Math.random().toString(36).slice(2)}.weights`;
      let bytes = 0;
      const counted = async function* (): AsyncGenerator<Uint8Array> {
        for await (const piece of readPieces(body!, undefined, (cause) => cause)) {
          bytes += piece.length;
          yield piece;
        }
      };
      try {
        await folder.write(file, counted());
        await this.#mark(key, { source, recipe, bytes, file, lastUsedMs: nowMs() });
      } catch (cause) {
        await folder.remove(file).catch(() => undefined); // else sweep() does
        if (!isQuotaExceeded(cause)) throw cause;
        throw new EngineError("storage", `The browser's storage is full: ${bytes} bytes of a model were written.`, { bytes }, { cause });
      }
      if (before) await folder.remove(before.file);
    };
    await this.#ifFree(key, write);
    await body?.cancel().catch(() => undefined); // of what another tab is writing
  }

  async delete(key: string): Promise<boolean> {
    const { folder } = this.#parts;
    const isThere = (await this.list()).some((entry) => entry.key === key); // no other name reaches the file system
    if (!isThere) return false;
    const marker = await this.#marker(key);
    await folder.remove(markerName(key));
    if (marker) await folder.remove(marker.file);
    return true;
  }

  /** Whole entries, used last first. */
  async list(): Promise<CacheEntry[]> {
    const entries: CacheEntry[] = [];
    for (const name of await this.#parts.folder.names()) {
      const key = name.slice(0, -markerName("").length);
      const marker = name === markerName(key) ? await this.#marker(key) : null;
      if (marker) entries.push({ key, source: marker.source, recipe: marker.recipe, bytes: marker.bytes, lastUsed: new Date(marker.lastUsedMs) });
    }
    return entries.sort((a, b) => b.lastUsed.getTime() - a.lastUsed.getTime());
  }

  async clear(): Promise<void> {
    for (const { key } of await this.list()) await this.delete(key);
    await this.sweep();
  }

  /** Removes what no marker names and nobody is writing. */
  async sweep(): Promise<void> {
    const { folder } = this.#parts;
    for (const name of await folder.names()) {
      const [key = ""] = name.split(".");
      await this.#ifFree(key, async () => {
        const marker = await this.#marker(key);
        const isKept = marker !== null && (name === markerName(key) || name === marker.file);
        if (!isKept) await folder.remove(name);
      });
    }
  }

  /** null where there is none, and where it was not written to its end. */
  async #marker(key: string): Promise<Marker | null> {
    const file = await this.#parts.folder.read(markerName(key));
    try {
      return file && (JSON.parse(await file.text()) as Marker);
    } catch {
      return null;
    }
  }

  async #mark(key: string, marker: Marker): Promise<void> {
    const bytes = new TextEncoder().encode(JSON.stringify(marker));
    await this.#parts.folder.write(markerName(key), (async function* () { yield bytes; })());
  }

  /** Removes entries, those that were used longest ago first, and before them the one that is to be replaced. */
  async #makeRoom(key: string, bytes: number): Promise<void> {
    const { quota = Infinity, usage = 0 } = await this.#parts.estimate();
    const evictable = (await this.list()).sort((a, b) => Number(a.key === key) - Number(b.key === key));
    let freeBytes = quota - usage - SPARE_BYTES; // counted on: an estimate may lag behind
    while (freeBytes < bytes) {
      const last = evictable.pop();
      if (!last) throw new EngineError("storage", `The browser grants this site ${quota} bytes, of which ${usage} were in use; a cached model needs about ${bytes}.`, { quota, usage, bytes });
      await this.delete(last.key);
      freeBytes += last.bytes;
    }
  }

  /** Works on an entry that nobody writes. */
  async #ifFree(key: string, work: () => Promise<void>): Promise<void> {
    await this.#parts.locks.request(`nibble-webgpu.cache.${key}`, { ifAvailable: true }, async (lock) => {
      if (lock) await work();
    });
  }
}

function markerName(key: string): string {
  return `${key}.json`;
}

function isQuotaExceeded(error: unknown): boolean {
  return error instanceof DOMException && error.name === "QuotaExceededError";
}
