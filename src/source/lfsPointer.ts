import type { Client } from "./request.ts";

/** Three lines; the rest of a file that is no pointer is not wanted. */
const maxPointerBytes = 1024;

/**
 * The SHA-256 in the Git LFS pointer at this address, hex; null where there is none. This is how a page learns a file's hash from the hub: the header
 * X-Linked-ETag stands on the redirect, which fetch does not show, and the ETag behind it is the CDN's own. Rejects on abort only.
 */
export async function readLfsPointer(client: Client, url: URL, signal: AbortSignal | undefined): Promise<string | null> {
  try {
    const answer = await client.get(url, {}, signal);
    if (!answer.response.ok) {
      answer.cancel();
      return null;
    }
    const decoder = new TextDecoder();
    let text = "";
    for await (const piece of answer.pieces(signal)) {
      text += decoder.decode(piece, { stream: true });
      if (text.length > maxPointerBytes) break;
    }
    return /^version https:\/\/git-lfs\.github\.com\/spec\/v1\n(?:.*\n)*?oid sha256:([0-9a-f]{64})\n/.exec(text)?.[1] ?? null;
  } catch (error) {
    if (signal?.aborted) throw error;
    return null;
  }
}
