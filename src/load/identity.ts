import { sha256 } from "../checkpoint/metadata.ts";
import type { Checkpoint } from "../checkpoint/types.ts";
import type { TokensIdentity } from "../types.ts";

export async function identifyTokens(tokens: readonly number[]): Promise<TokensIdentity> {
  return { tokens: tokens.length, sha256: await sha256(Uint32Array.from(tokens)) };
}

/** A checkpoint that hashes its weights while they are read; sha256() is null until they were read to the end. Names, dtypes and files do not count, values do. */
export function hashedWhileRead(checkpoint: Checkpoint): { checkpoint: Checkpoint; sha256: () => string | null } {
  let hash: string | null = null;
  const read: Checkpoint["read"] = async function* (options) {
    const lines: string[] = [];
    for await (const item of checkpoint.read(options)) {
      lines.push(`${item.tensor.name} ${await sha256(item.values)}\n`);
      yield item;
    }
    hash = await sha256(new TextEncoder().encode(lines.sort().join("")));
  };
  return { checkpoint: { ...checkpoint, read, readBlocks: read }, sha256: () => hash };
}
