import { throwIfAborted } from "../../errors.ts";

/** One frame: rarer would be felt, and more often would cost, since browsers clamp timers to some milliseconds. */
const INTERVAL_MS = 16;

/** Lets the event loop run now and then during a long computation. */
export class Pacer {
  private lastRestMs = -Infinity;

  isDue(): boolean {
    return performance.now() - this.lastRestMs >= INTERVAL_MS;
  }

  /** Gives way to one round of the event loop. @throws signal.reason */
  async rest(signal?: AbortSignal): Promise<void> {
    throwIfAborted(signal);
    await nextTask();
    this.lastRestMs = performance.now();
    throwIfAborted(signal);
  }
}

/** A message, because setTimeout waits 4 ms when nested. The ports are closed so that Node can exit. */
function nextTask(): Promise<void> {
  if (typeof MessageChannel === "undefined") return new Promise((resolve) => setTimeout(resolve, 0));
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
