import { EngineError, show } from "../errors.ts";
import { Sha256 } from "./sha256.ts";
import type { CheckpointSource, SourceFile } from "./types.ts";

export interface IntegrityOptions {
  /** File name -> "sha256-" and 64 hexadecimal digits. */
  integrity?: Readonly<Record<string, string>>;
  /** Called often while hashing, which blocks: the place to let a page paint. */
  breathe?: (signal: AbortSignal | undefined) => Promise<void>;
}

/** A source whose files are compared with hashes as they are read: those of the caller, else those that the server states. */
export interface VerifiedSource extends CheckpointSource {
  /** Throws TypeError for a hash whose file was not opened and is not among those that will be. */
  expectNames(unopened: readonly string[]): void;
  /** Reads what was opened and has not been compared yet, which for a file read to its end is nothing. @throws EngineError `integrity` */
  finish(signal: AbortSignal | undefined): Promise<void>;
}

/** Hashed between two breaths: 5 ms. */
const sliceBytes = 2 ** 20;

/** @throws TypeError for a malformed hash. A file's last piece is handed out before its end throws `integrity`, with both hashes. */
export function verifiedSource(source: CheckpointSource, { integrity = {}, breathe }: IntegrityOptions): VerifiedSource {
  const expected = parseIntegrity(integrity);
  const openedNames = new Set<string>();
  const verified = new Set<string>();
  const unverified = new Map<string, SourceFile>();

  async function* hashed(file: SourceFile, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
    const { name } = file;
    const stated = expected.has(name) ? null : file.statedSha256?.(signal);
    stated?.catch(() => undefined); // it rejects when this stream does
    const hash = new Sha256();
    for await (const piece of file.stream({ signal })) {
      for (let at = 0; at < piece.length; at += sliceBytes) {
        hash.update(piece.subarray(at, at + sliceBytes));
        await breathe?.(signal);
      }
      yield piece;
    }
    const found = hash.digest();
    const wanted = expected.get(name) ?? (await stated) ?? found;
    if (wanted !== found) {
      const message = `${name} has the SHA-256 ${found}; ${expected.has(name) ? "integrity" : "the server"} says ${wanted}.`;
      throw new EngineError("integrity", message, { file: name, found, expected: wanted });
    }
    verified.add(name);
    unverified.delete(name);
  }

  return {
    ...source,
    async open(name, options) {
      const file = await source.open(name, options);
      if (!file) return null;
      openedNames.add(name);
      const isDone = source.isLocal && verified.has(name);
      if (isDone || !(expected.has(name) || file.statedSha256)) return file;
      const verifying: SourceFile = {
        name,
        get sizeBytes() {
          return file.sizeBytes;
        },
        stream: ({ signal } = options ?? {}) => hashed(file, signal),
      };
      if (!verified.has(name)) unverified.set(name, verifying);
      return verifying;
    },
    expectNames(unopened) {
      const missing = [...expected.keys()].find((name) => !openedNames.has(name) && !unopened.includes(name));
      if (missing === undefined) return;
      throw new TypeError(`integrity names ${show(missing)}, which this load does not open; it opens ${[...new Set([...openedNames, ...unopened])].join(", ")}.`);
    },
    async finish(signal) {
      for (const file of unverified.values()) for await (const _piece of file.stream({ signal }));
    },
  };
}

function parseIntegrity(integrity: Readonly<Record<string, string>>): Map<string, string> {
  if (typeof integrity !== "object" || integrity === null) throw new TypeError(`integrity is ${integrity === null ? "null" : typeof integrity}; expected an object of hashes by file name.`);
  const parse = ([name, value]: [string, unknown]): [string, string] => {
    const hex = typeof value === "string" ? /^sha256-([0-9a-f]{64})$/i.exec(value)?.[1] : undefined;
    if (hex) return [name, hex.toLowerCase()];
    throw new TypeError(`integrity[${show(name)}] is ${show(value)}; expected "sha256-" and 64 hexadecimal digits.`);
  };
  return new Map(Object.entries(integrity).map(parse));
}
