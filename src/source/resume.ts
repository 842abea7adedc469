import { EngineError } from "../errors.ts";
import { readLfsPointer } from "./lfsPointer.ts";
import { type Answer, type Client, showUrl } from "./request.ts";
import { Fault, isTransient, Patience, retryAfterMs, type RetryOptions } from "./retry.ts";
import { Sha256 } from "./sha256.ts";
import type { SourceFile } from "./types.ts";

/** Where a file is, and who asks for it how. */
export interface RemoteAddress {
  name: string;
  url: URL;
  /** Of the file's Git LFS pointer, where the server may have one. */
  pointerUrl: URL | null;
  client: Client;
  retry: Readonly<RetryOptions>;
  /** For calls that bring none. */
  signal: AbortSignal | undefined;
}

/** What an answer says of the file behind its address. */
interface Version {
  /** A strong ETag, or else Last-Modified: the same means the same bytes. null without either. */
  validator: string | null;
  /** For messages. */
  etag: string | null;
  /** Of the whole file; null where no header tells it. */
  sizeBytes: number | null;
  /** The bytes are those of the server's file; of a compressed one ranges are no use. */
  isPlain: boolean;
  /** X-Linked-ETag, the SHA-256 of an LFS file. Redirects hide it; servers that stand in for the hub may show it. */
  sha256: string | null;
}

/** An answer, and the place in the file where its body begins. */
interface Transfer extends Answer {
  startBytes: number;
}

/** How the rest is asked for: if unchanged; in any case, for servers whose CORS rules refuse If-Range; or everything over again. */
const manners = ["ifRange", "range", "whole"] as const;
type Manner = (typeof manners)[number];

/**
 * A file on a server, read through however many requests it takes. Every byte is handed out once, and all come from one version of the file:
 * what goes on must have the validator of what was there, and what starts over without one must begin with the same bytes.
 */
export class RemoteFile implements SourceFile {
  readonly name: string;
  private version: Version = { validator: null, etag: null, sizeBytes: null, isPlain: false, sha256: null };
  private unread: Transfer | null = null;
  /** Until then another version may take the place of the first. */
  private isHandedOut = false;
  private hasRanges = true;
  private pointerSha256: string | null = null;

  private constructor(private readonly address: RemoteAddress) {
    this.name = address.name;
  }

  /** Sends the request; the first stream() takes the body of its answer, every later one asks again. null for 404. */
  static async open(address: RemoteAddress): Promise<RemoteFile | null> {
    const file = new RemoteFile(address);
    const patience = new Patience(address.retry);
    for (;;) {
      try {
        file.unread = await file.request(patience, address.signal);
        return file.unread && file;
      } catch (error) {
        await file.recover(error, patience, address.signal);
      }
    }
  }

  get sizeBytes(): number | null {
    return this.version.sizeBytes;
  }

  async statedSha256(signal = this.address.signal): Promise<string | null> {
    const { client, pointerUrl } = this.address;
    return this.version.sha256 ?? (this.pointerSha256 ??= pointerUrl && (await readLfsPointer(client, pointerUrl, signal)));
  }

  async versions(signal?: AbortSignal): Promise<string[]> {
    const sha256 = await this.statedSha256(signal);
    const { etag, validator } = this.version;
    const date = etag ?? validator;
    return [...(sha256 === null ? [] : [`sha256-${sha256}`]), ...(date === null ? [] : [date])];
  }

  /** Gives up the body that nobody read. */
  close(): void {
    this.unread?.cancel();
    this.unread = null;
  }

  async *stream({ signal = this.address.signal }: { signal?: AbortSignal } = {}): AsyncGenerator<Uint8Array> {
    const patience = new Patience(this.address.retry);
    const handedOut = new Sha256();
    let transfer = this.unread;
    this.unread = null;
    for (;;) {
      try {
        transfer ??= await this.request(patience, signal);
        if (!transfer) throw this.failure("answered 404; it was there before", patience, { status: 404 });
        for await (const piece of this.newPieces(transfer, patience, handedOut, signal)) {
          this.isHandedOut = true;
          patience.advance(piece.length);
          if (this.version.validator === null) handedOut.update(piece);
          yield piece;
        }
        if (patience.loadedBytes >= (this.sizeBytes ?? 0)) return;
        throw new Fault("broke off");
      } catch (error) {
        if (error instanceof Fault && patience.loadedBytes === this.sizeBytes) return; // it failed behind its last byte
        await this.recover(error, patience, signal);
        transfer = null;
      }
    }
  }

  /** Waits where another request may help; throws what the file has failed with where not. */
  private async recover(error: unknown, patience: Patience, signal: AbortSignal | undefined): Promise<void> {
    if (!(error instanceof Fault)) throw error;
    if (await patience.wait(error, signal)) return;
    const { cause, status, retryAfterMs = 0 } = error.options;
    const asksToWait = retryAfterMs > this.address.retry.maxRetryAfterMs ? `; it asks to wait ${Math.ceil(retryAfterMs / 1000)} s` : "";
    throw this.failure(error.problem + asksToWait, patience, { status }, cause);
  }

  /** The file from byte loadedBytes on, or from its start where that cannot be had. null for 404. */
  private async request(patience: Patience, signal: AbortSignal | undefined): Promise<Transfer | null> {
    const { client, url } = this.address;
    const { validator, isPlain } = this.version;
    const { loadedBytes, unreachable } = patience;
    const canResume = loadedBytes > 0 && validator !== null && isPlain && this.hasRanges;
    // Nobody tells a page whether the network failed or CORS refused a header.
    const manner = canResume ? manners[unreachable % manners.length]! : "whole";
    const headers = { ...(manner === "whole" ? {} : { Range: `bytes=${loadedBytes}-` }), ...(manner === "ifRange" ? { "If-Range": validator! } : {}) };
    const answer = await client.get(url, headers, signal);
    try {
      return this.accept(answer, manner, patience);
    } catch (error) {
      answer.cancel(); // nobody reads the error page
      throw error;
    }
  }

  private accept(answer: Answer, manner: Manner, patience: Patience): Transfer | null {
    const { loadedBytes } = patience;
    const { status, headers, ok } = answer.response;
    if (status === 404) {
      answer.cancel();
      return null;
    }
    if (isTransient(status)) throw new Fault(`answered ${status}: ${meaning(status)}`, { status, retryAfterMs: retryAfterMs(headers) });
    if (!ok || (status === 206 && manner === "whole")) throw this.failure(`answered ${status}: ${meaning(status)}`, patience, { status });

    const found = versionOf(answer.response, this.address.url);
    if (!this.isHandedOut) {
      this.version = found;
      return { ...answer, startBytes: 0 };
    }
    const { validator, sizeBytes } = this.version;
    const differ = <T>(before: T | null, after: T | null): boolean => before !== null && after !== null && before !== after;
    if (differ(validator, found.validator) || differ(sizeBytes, found.sizeBytes)) throw this.changed(found, patience);
    if (status === 206) {
      const isProven = (manner === "ifRange" || found.validator !== null) && found.isPlain;
      if (isProven && rangeStart(answer.response, sizeBytes) === loadedBytes) return { ...answer, startBytes: loadedBytes };
      this.hasRanges = false;
      throw new Fault(`answered bytes=${loadedBytes}- with ${headers.get("content-range") ?? "an unnamed range"}`, { status });
    }
    if (loadedBytes > 0 && validator !== null && found.validator === null) throw this.changed(found, patience);
    return { ...answer, startBytes: 0 };
  }

  /** What a transfer brings beyond the bytes that are loaded. Without a validator, those before must be what was handed out. */
  private async *newPieces(transfer: Transfer, patience: Patience, handedOut: Sha256, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
    const oldBytes = patience.loadedBytes;
    const skipped = this.version.validator === null ? new Sha256() : null;
    let atBytes = transfer.startBytes;
    for await (const piece of transfer.pieces(signal)) {
      const old = piece.subarray(0, Math.max(0, oldBytes - atBytes));
      atBytes += piece.length;
      if (this.sizeBytes !== null && atBytes > this.sizeBytes) throw this.failure(`sent more than the ${this.sizeBytes} bytes that it announced`, patience);
      skipped?.update(old);
      if (skipped && old.length > 0 && atBytes >= oldBytes && skipped.digest() !== handedOut.digest()) throw this.changed(this.version, patience);
      if (old.length < piece.length) yield piece.subarray(old.length);
    }
    if (this.sizeBytes === null && atBytes < oldBytes) throw this.changed(this.version, patience);
  }

  private changed({ etag, sizeBytes }: Version, patience: Patience): EngineError {
    const { etag: etagBefore, sizeBytes: bytesBefore } = this.version;
    const sizes = bytesBefore === sizeBytes ? "" : `; ${bytesBefore ?? "unknown"} bytes, then ${sizeBytes ?? "unknown"}`;
    return this.failure(`changed between two requests: ETag ${etagBefore ?? "none"}, then ${etag ?? "none"}${sizes}`, patience, { etags: [etagBefore, etag] });
  }

  private failure(problem: string, { attempts, loadedBytes }: Patience, details: Readonly<Record<string, unknown>> = {}, cause?: unknown): EngineError {
    const url = showUrl(this.address.url);
    const expectedBytes = this.sizeBytes;
    const message = `${url} ${problem} (${attempts} attempt${attempts === 1 ? "" : "s"}, ${loadedBytes}${expectedBytes === null ? "" : ` of ${expectedBytes}`} bytes loaded).`;
    return new EngineError("network", message, { url, ...details, attempts, loadedBytes, expectedBytes }, { cause });
  }
}

function versionOf(response: Response, url: URL): Version {
  const { headers } = response;
  const etag = headers.get("etag");
  const lastModified = headers.get("last-modified") ?? "";
  const sentMs = Date.parse(headers.get("date") ?? "") || Date.now();
  const isSettled = Date.parse(lastModified) + 1000 <= sentMs; // a file can change twice within a second (RFC 9110, 8.8.2.2)
  const strongEtag = etag !== null && /^"[^"]*"$/.test(etag) ? etag : null;
  // A server of another origin may hide that it compressed. Weights are the exception, nobody compresses them on the way.
  const isPlain = !headers.has("content-encoding") && (response.type !== "cors" || url.pathname.endsWith(".safetensors"));
  const length = response.status === 206 ? /\/(\d+)$/.exec(headers.get("content-range") ?? "")?.[1] : headers.get("content-length");
  return {
    validator: strongEtag ?? (isSettled ? lastModified : null),
    etag,
    sizeBytes: isPlain && length && /^\d+$/.test(length) ? Number(length) : null,
    isPlain,
    sha256: /^"([0-9a-f]{64})"$/.exec(headers.get("x-linked-etag") ?? "")?.[1] ?? null,
  };
}

/** Where a 206 begins. A page of another origin may not see Content-Range, but always Content-Length. */
function rangeStart({ headers }: Response, sizeBytes: number | null): number {
  const range = headers.get("content-range");
  if (range !== null) return Number(/^bytes (\d+)-/.exec(range)?.[1]);
  return (sizeBytes ?? NaN) - Number(headers.get("content-length") ?? NaN);
}

function meaning(status: number): string {
  if (status === 401) return "it does not exist, or needs a token with access (hub.token)";
  if (status === 403) return "access is refused; a gated model needs a token of an account that accepted its terms (hub.token)";
  if (status === 416) return "its file is shorter than it announced";
  if (status === 429) return "too many requests; try again later";
  if (isTransient(status)) return "the server failed; try again later";
  return "expected 200";
}
