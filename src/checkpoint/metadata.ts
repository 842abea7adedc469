import { EngineError, show } from "../errors.ts";
import { sha256 } from "../source/sha256.ts";

/** What an exported file says of itself in `__metadata__`, beside `format`. */
export const metadataKeys = {
  /** The recipe in JSON. */
  recipe: "nibble.recipe",
  /** JSON: name of a tensor in the file -> SHA-256 of its bytes, hex. */
  hashes: "nibble.sha256",
  version: "nibble.version",
  /** JSON: name of a matrix -> static range of its inputs, for int8 activations. */
  ranges: "nibble.inputRanges",
  /** Where the checkpoint came from. */
  source: "nibble.source",
  /** In words, which way round matrices lie. */
  layout: "nibble.layout",
} as const;

/** The hashes that a file brings, by tensor; none where it says nothing. @throws EngineError `checkpoint` for anything but an object of hashes */
export function parseHashes(metadata: ReadonlyMap<string, string>, file: string): ReadonlyMap<string, string> {
  const text = metadata.get(metadataKeys.hashes);
  if (text === undefined) return new Map();
  const hashes = parseJson(text, metadataKeys.hashes, file);
  const entries = typeof hashes === "object" && hashes !== null ? Object.entries(hashes) : [["", null] as const];
  const wrong = entries.find(([, hash]) => typeof hash !== "string" || !/^[0-9a-f]{64}$/.test(hash));
  if (wrong) throw new EngineError("checkpoint", `${file}: ${metadataKeys.hashes}[${show(wrong[0])}] is ${show(wrong[1])}; expected 64 hexadecimal digits.`, { file, tensor: wrong[0] });
  return new Map(entries as [string, string][]);
}

export function parseJson(text: string, what: string, file: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new EngineError("checkpoint", `${file}: ${what} is ${show(text)}; expected JSON.`, { file }, { cause });
  }
}

/** Compares a tensor's bytes with the hash that its file brings. @throws EngineError `integrity` naming both */
export async function verifyHash(expected: string | undefined, bytes: Uint8Array<ArrayBuffer>, tensor: string, file: string): Promise<void> {
  if (expected === undefined) return;
  const found = await sha256(bytes);
  if (found === expected) return;
  throw new EngineError("integrity", `Tensor "${tensor}" of ${file} has the SHA-256 ${found}; its metadata says ${expected}.`, { tensor, file, found, expected });
}
