import { EngineError, throwIfAborted } from "../errors.ts";

interface Waiter {
  enter: () => void;
  leave: (reason: unknown) => void;
}

/** A lock that lets one holder in at a time, in the order of asking. */
export class Turnstile {
  readonly #waiters: Waiter[] = [];
  #taken = false;
  #disposed = false;

  /**
   * Waits for its turn; the function it gives lets the next one in, and calling it again does nothing.
   * Rejects with signal.reason when aborted while waiting, with `disposed` after dispose().
   */
  async acquire(signal?: AbortSignal): Promise<() => void> {
    throwIfAborted(signal);
    if (this.#disposed) throw disposedError();
    if (this.#taken) await this.#wait(signal);
    this.#taken = true;
    let released = false;
    return () => {
      if (released) return;
      released = true;
      const next = this.#waiters.shift();
      if (next) next.enter(); // stays taken, so that nobody slips in before the woken waiter runs
      else this.#taken = false;
    };
  }

  /** Rejects everyone who waits or comes later with `disposed`; the holder keeps its turn until it releases. */
  dispose(): void {
    this.#disposed = true;
    for (const waiter of this.#waiters.splice(0)) waiter.leave(disposedError());
  }

  #wait(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiters.splice(this.#waiters.indexOf(waiter), 1);
        waiter.leave(signal?.reason);
      };
      const waiter: Waiter = {
        enter: () => {
          signal?.removeEventListener("abort", onAbort);
          resolve();
        },
        leave: (reason) => {
          signal?.removeEventListener("abort", onAbort);
          reject(reason);
        },
      };
      signal?.addEventListener("abort", onAbort);
      this.#waiters.push(waiter);
    });
  }
}

function disposedError(): EngineError {
  return new EngineError("disposed", "The model was disposed; load it again to use it.");
}
