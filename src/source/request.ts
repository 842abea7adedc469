import { throwIfAborted } from "../errors.ts";
import { readPieces } from "./readPieces.ts";
import { Fault, type RetryOptions } from "./retry.ts";

export interface Answer {
  readonly response: Response;
  /** The body; ends with the signal of the request too. Throws Fault when it breaks off or falls silent, signal.reason on abort. */
  pieces(signal: AbortSignal | undefined): AsyncGenerator<Uint8Array>;
  /** Ends the transfer of a body that nobody wants. */
  cancel(): void;
}

/** Asks one server, as one user. */
export class Client {
  constructor(
    private readonly fetch: typeof globalThis.fetch,
    /** Sent as Bearer; fetch itself drops it when a redirect leaves the origin. */
    private readonly token: string | undefined,
    private readonly retry: Readonly<RetryOptions>,
  ) {}

  /** Any answer is one, whatever its status. Throws Fault where there is none, signal.reason on abort. */
  async get(url: URL, extraHeaders: Readonly<Record<string, string>>, signal: AbortSignal | undefined): Promise<Answer> {
    throwIfAborted(signal);
    const headers = { ...(this.token ? { Authorization: `Bearer ${this.token}` } : {}), ...extraHeaders };
    const silence = new AbortController();
    const either = anyOf(signal, silence.signal);
    /** Runs while something is awaited from the server, not while the reader is busy. */
    const watch = <T>(answer: Promise<T>): Promise<T> => {
      const { stallMs, after } = this.retry;
      const cancel = after(stallMs, () => silence.abort(new Fault(`sent nothing for ${stallMs / 1000} s`)));
      return answer.finally(cancel);
    };
    const { fetch } = this; // a page's own refuses to be called as a method of anything else
    const response = await watch((async () => fetch(url, { headers, signal: either }))()).catch((cause: unknown) => {
      throwIfAborted(either);
      if (!/^https?:/.test(url.protocol)) return new Response(null, { status: 404 }); // no server: of an extension's files, the fetch of one that is not there fails
      throw new Fault(`could not be reached: ${cause instanceof Error ? cause.message : String(cause)}`, { cause, isUnreachable: true });
    });
    const cancel = (): void => void response.body?.cancel().catch(() => undefined); // what is being read, its reader cancels
    return {
      response,
      cancel,
      pieces: async function* (readerSignal) {
        try {
          if (response.body) yield* readPieces(response.body, anyOf(either, readerSignal), (cause) => new Fault("broke off", { cause }), watch);
        } finally {
          cancel();
        }
      },
    };
  }
}

function anyOf(...signals: (AbortSignal | undefined)[]): AbortSignal {
  return AbortSignal.any(signals.filter((signal) => signal !== undefined));
}

/** Without query and credentials, which may hold secrets. */
export function showUrl(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname}`; // not its origin, which is "null" for an extension's files in Firefox
}
