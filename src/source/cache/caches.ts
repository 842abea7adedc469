import type { CacheEntry } from "../../types.ts";
import { openOpfsCache } from "./opfs.ts";

/**
 * The models that loadModel() keeps in the browser's private file system (`cache: "opfs"`), of all pages and tabs of the origin; none where there is no such
 * file system. What is in use stays usable: a loaded model has left the cache. All reject with `storage` where the browser keeps it shut.
 */
export const caches = {
  /** Those that are whole, used last first. */
  list: async (): Promise<CacheEntry[]> => (await openOpfsCache())?.list() ?? [],
  /** Resolves with whether there was one. */
  delete: async (key: string): Promise<boolean> => (await openOpfsCache())?.delete(key) ?? false,
  /** Deletes all of them, and what broken-off loads left. */
  clear: async (): Promise<void> => (await openOpfsCache())?.clear(),
} as const;
