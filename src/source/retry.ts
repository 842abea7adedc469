import { throwIfAborted } from "../errors.ts";

/** How patient transfers are. */
export interface RetryOptions {
  /** Requests in a row that brought no new byte, after which a file is given up. */
  attempts: number;
  /** The same where the server never answered: a wrong address and a page that may not ask it look like a lost connection. */
  firstAttempts: number;
  /** The second request waits so long, each later one twice as long, with a random part of up to a half taken off. */
  firstDelayMs: number;
  maxDelayMs: number;
  /** A server whose Retry-After asks for more is not waited for. */
  maxRetryAfterMs: number;
  /** Without a byte for so long, a request is taken for dead. */
  stallMs: number;
  /** 0…1 */
  random: () => number;
  /** Calls back after so many milliseconds, unless what it returns is called before. */
  after: (delayMs: number, call: () => void) => () => void;
}

export const defaultRetry: Readonly<RetryOptions> = {
  attempts: 6,
  firstAttempts: 3,
  firstDelayMs: 500,
  maxDelayMs: 8000,
  maxRetryAfterMs: 60_000,
  stallMs: 30_000,
  random: Math.random,
  after: (delayMs, call) => {
    const timer = setTimeout(call, delayMs);
    return () => clearTimeout(timer);
  },
};

/** A failure that another request may mend. */
export class Fault {
  constructor(
    /** Goes on after the address: "broke off". */
    readonly problem: string,
    readonly options: { cause?: unknown; status?: number; isUnreachable?: boolean; retryAfterMs?: number } = {},
  ) {}
}

/** How far one reading of a file has come, and how often in a row it failed there. */
export class Patience {
  loadedBytes = 0;
  /** Requests in a row that brought no byte, the present one included. */
  attempts = 1;
  /** Of these, requests in a row that had no answer. */
  unreachable = 0;
  private hasAnswered = false;

  constructor(private readonly options: Readonly<RetryOptions>) {}

  advance(bytes: number): void {
    this.loadedBytes += bytes;
    this.attempts = 1;
    this.unreachable = 0;
    this.hasAnswered = true;
  }

  /** Resolves with true when it is time for another request, with false where there should be none. @throws signal.reason at once when it fires */
  async wait({ options: { isUnreachable = false, retryAfterMs = 0 } }: Fault, signal: AbortSignal | undefined): Promise<boolean> {
    const { attempts, firstAttempts, firstDelayMs, maxDelayMs, maxRetryAfterMs, random, after } = this.options;
    throwIfAborted(signal);
    this.hasAnswered ||= !isUnreachable;
    if (this.attempts >= (this.hasAnswered ? attempts : firstAttempts) || retryAfterMs > maxRetryAfterMs) return false;
    const backOffMs = Math.min(maxDelayMs, firstDelayMs * 2 ** (this.attempts - 1)) * (1 - random() / 2);
    this.attempts++;
    this.unreachable = isUnreachable ? this.unreachable + 1 : 0;
    return new Promise((resolve, reject) => {
      const cancel = after(Math.max(retryAfterMs, backOffMs), () => {
        signal?.removeEventListener("abort", abort);
        resolve(true);
      });
      const abort = (): void => {
        cancel();
        reject(signal!.reason);
      };
      signal?.addEventListener("abort", abort, { once: true });
    });
  }
}

/** Answers that may be others a moment later. */
export function isTransient(status: number): boolean {
  return [408, 429, 500, 502, 503, 504].includes(status);
}

/** Retry-After in milliseconds, 0 without one: seconds, or the date to wait for. Pages can read it only where the server says so. */
export function retryAfterMs(headers: Headers, nowMs = Date.now()): number {
  const value = headers.get("retry-after") ?? "";
  if (/^\d+$/.test(value)) return 1000 * Number(value);
  return Math.max(0, Date.parse(value) - nowMs || 0);
}
