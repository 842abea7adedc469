import { EngineError } from "../errors.ts";
import type { CheckpointSource, SourceFile } from "./types.ts";

export interface PinnedSource extends CheckpointSource {
  /** SourceFile.versions() of every file that was opened, by name. */
  versions(signal?: AbortSignal): Promise<Record<string, readonly string[]>>;
  /** Takes files for opened that were loaded in another way. */
  pin(versions: Readonly<Record<string, readonly string[]>>): void;
}

/**
 * A source that does not change: where a file is opened again, for another pass or on another device, and its server states another version than before,
 * that rejects with `network`. Of a file without versions nothing is known.
 */
export function pinnedSource(source: CheckpointSource): PinnedSource {
  const opened = new Map<string, Pick<SourceFile, "versions">>();
  return {
    ...source,
    async open(name, options) {
      const file = await source.open(name, options);
      const first = opened.get(name);
      if (file && !first) opened.set(name, file);
      if (!file || !first) return file;
      const [before = [], now = []] = await Promise.all([first, file].map(async (each) => (await each.versions?.(options?.signal)) ?? []));
      if (before.length === 0 || now.length === 0 || isSameVersion(before, now)) return file;
      for await (const _piece of file.stream(options)) break; // ends its transfer
      throw new EngineError("network", `${name} of ${source.description} is not what was loaded before: it was ${before.join(", ")}, now it is ${now.join(", ")}.`, { file: name, before, now });
    },
    async versions(signal) {
      const versions = Array.from(opened, async ([name, file]) => [name, (await file.versions?.(signal)) ?? []] as const);
      return Object.fromEntries(await Promise.all(versions));
    },
    pin(versions) {
      for (const [name, words] of Object.entries(versions)) opened.set(name, { versions: async () => words });
    },
  };
}

/** Whether one word of a version, a hash or a date, is one of another's. */
export function isSameVersion(a: readonly string[], b: readonly string[]): boolean {
  return a.some((word) => b.includes(word));
}
