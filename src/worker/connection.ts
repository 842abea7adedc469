import { EngineError, show } from "../errors.ts";
import { ENGINE_VERSION } from "../load/version.ts";
import type { BackendState, Call, CallName, Calls, PageMessage, WorkerMessage } from "./protocol.ts";
import { restoreError } from "./sentError.ts";

/** The part of a Worker that a connection needs. */
export interface WorkerPort {
  postMessage(message: PageMessage, transfer: Transferable[]): void;
  addEventListener(type: "message" | "messageerror" | "error", listener: (event: Event) => void): void;
  terminate(): void;
}

/** A script that has not answered by then is none of ours: ours is some hundred kB, and does nothing before it answers. */
const START_LIMIT_MS = 60_000;

export interface CallOptions<Progress> {
  signal?: AbortSignal;
  onProgress?: (progress: Progress) => void;
  /** What a call that asks before it goes on waits for. */
  onAsk?: () => void | Promise<void>;
  transfer?: Transferable[];
}

/** What is known on the page of a call at work. */
interface Pending {
  progress(progress: unknown): void;
  item(item: unknown): void;
  ask(): void;
  /** The worker's last word on it. */
  answered(end: { result: unknown } | { error: unknown }): void;
  /** The connection is gone. */
  failed(error: EngineError): void;
}

/** The page's end of a worker that serve()s. When either end is gone, every call at work and every later one rejects, and the worker is terminated. */
export class Connection {
  /** Resolves when the device is gone for good, or the worker; not when the connection is closed. */
  readonly lost: Promise<EngineError>;
  readonly #worker: WorkerPort;
  readonly #pending = new Map<number, Pending>();
  readonly #ended = new AbortController();
  readonly #startLimit: ReturnType<typeof setTimeout>;
  /** Held by the worker as long as it lives; a context that is not secure has no locks. */
  readonly #lock = globalThis.isSecureContext ? `nibble-worker ${crypto.randomUUID()}` : null;
  #resolveLost!: (error: EngineError) => void;
  #callCount = 0;
  #failure: EngineError | null = null;
  #state: BackendState | null = null;

  /** script: address of the worker's, where it is known, for messages. */
  constructor(worker: WorkerPort, script: string | null) {
    this.#worker = worker;
    this.lost = new Promise((resolve) => (this.#resolveLost = resolve));
    worker.addEventListener("message", (event) => this.#receive((event as MessageEvent<unknown>).data));
    worker.addEventListener("messageerror", () => this.#crash("The worker sent a message that could not be read."));
    worker.addEventListener("error", (event) => {
      event.preventDefault(); // whoever calls gets to know
      const { message, filename, lineno: line } = event as Partial<ErrorEvent>;
      if (message) this.#crash(`The worker failed: ${message}`, { message, filename, line });
      else this.#crash(`The worker could not be started; its script ${script === null ? "" : `${show(script)} `}is missing, blocked or no JavaScript.`, { script });
    });
    this.#startLimit = setTimeout(() => this.#crash(`The worker did not answer within ${START_LIMIT_MS / 1000} s; expected a script that imports "nibble-webgpu/worker".`), START_LIMIT_MS);
    this.#post({ type: "hello", lock: this.#lock });
  }

  /** What the model's backend reported with the last call that ended. */
  get state(): BackendState | null {
    return this.#state;
  }

  async call<Name extends CallName>(call: Call & { name: Name }, options: CallOptions<Calls[Name]["progress"]>): Promise<Calls[Name]["result"]> {
    return (await this.stream(call, options).next()).value as Calls[Name]["result"]; // nothing is pulled, so no item comes first
  }

  /**
   * A call that gives items. The worker works up to `ahead` items ahead of who takes them, and waits then. Leaving the loop ends the call, in the worker too.
   * Rejects with signal.reason at once, with the worker's own error, or with what ended the connection.
   */
  async *stream<Name extends CallName>(call: Call & { name: Name }, { signal, onProgress, onAsk, transfer = [], ahead = 0 }: CallOptions<Calls[Name]["progress"]> & { ahead?: number }): AsyncGenerator<Calls[Name]["item"], Calls[Name]["result"], undefined> {
    signal?.throwIfAborted();
    if (this.#failure) throw this.#failure;
    const id = this.#callCount++;
    const items: unknown[] = [];
    let end = null as { result: unknown } | { error: unknown } | null;
    let isOver = false; // in the worker
    let wake = (): void => undefined;
    const fail = (error: unknown): void => {
      items.length = 0;
      end = { error };
      wake();
    };
    const abort = (): void => fail(signal?.reason);
    this.#pending.set(id, {
      progress(progress) {
        try {
          onProgress?.(progress as Calls[Name]["progress"]);
        } catch (error) {
          fail(error);
        }
      },
      item(item) {
        items.push(item);
        wake();
      },
      ask: () => {
        const answer = async (): Promise<void> => onAsk?.();
        answer().then(() => this.#pending.has(id) && this.#post({ type: "goOn", id }), fail);
      },
      answered(how) {
        isOver = true;
        end ??= how;
        wake();
      },
      failed: fail,
    });
    signal?.addEventListener("abort", abort);
    let allowed = 0; // items that the worker may still send, or that wait here
    try {
      this.#post({ type: "call", id, call }, transfer);
      for (;;) {
        if (allowed <= ahead / 2 && allowed < ahead) {
          this.#post({ type: "pull", id, count: ahead - allowed });
          allowed = ahead;
        }
        while (items.length === 0 && !end) await new Promise<void>((resolve) => (wake = resolve));
        if (items.length > 0) {
          allowed--;
          yield items.shift() as Calls[Name]["item"];
        } else if (end && "error" in end) throw end.error;
        else return end!.result as Calls[Name]["result"];
      }
    } finally {
      signal?.removeEventListener("abort", abort);
      this.#pending.delete(id);
      if (!isOver && !this.#failure) this.#post({ type: "end", id });
    }
  }

  /** Terminates the worker; calls at work and later ones reject with the error. */
  close(error: EngineError): void {
    if (this.#failure) return;
    this.#failure = error;
    clearTimeout(this.#startLimit);
    this.#ended.abort();
    this.#worker.terminate();
    for (const call of this.#pending.values()) call.failed(error);
  }

  #crash(message: string, details?: EngineError["details"]): void {
    const error = new EngineError("worker", message, details);
    this.#resolveLost(error);
    this.close(error);
  }

  #post(message: PageMessage, transfer: Transferable[] = []): void {
    try {
      this.#worker.postMessage(message, transfer);
    } catch (cause) {
      throw new TypeError(`What was given cannot be sent to a worker: ${(cause as Error).message}`, { cause }); // a function, a framework's proxy, a detached buffer
    }
  }

  #receive(received: unknown): void {
    if (this.#failure) return;
    if (!isWorkerMessage(received, this.#callCount)) {
      return this.#crash(`The worker sent ${show(received)}; expected a message of Nibble's, whose worker speaks of nothing else.`);
    }
    switch (received.type) {
      case "hello":
        clearTimeout(this.#startLimit);
        if (received.version !== ENGINE_VERSION) this.#crash(`The worker is of version ${show(received.version)}; expected ${ENGINE_VERSION}, as the page's.`, { found: received.version, expected: ENGINE_VERSION });
        else if (received.holdsLock) this.#watchLock();
        break;
      case "lost":
        this.#resolveLost(restoreError(received.error) as EngineError);
        break;
      case "progress":
        this.#pending.get(received.id)?.progress(received.progress);
        break;
      case "item":
        this.#pending.get(received.id)?.item(received.item);
        break;
      case "ask":
        this.#pending.get(received.id)?.ask();
        break;
      case "result":
      case "failure":
        this.#state = received.state ?? this.#state;
        this.#pending.get(received.id)?.answered(received.type === "result" ? { result: received.result } : { error: restoreError(received.error) });
    }
  }

  /** A worker that is terminated by others says nothing, but its lock becomes free. */
  #watchLock(): void {
    navigator.locks.request(this.#lock!, { signal: this.#ended.signal }, () => this.#crash("The worker has ended; the browser or the page terminated it.")).catch(() => undefined); // the connection was closed first
  }
}

/** callCount: ids below it were given out. */
function isWorkerMessage(message: unknown, callCount: number): message is WorkerMessage {
  if (typeof message !== "object" || message === null) return false;
  const { type, id, error } = message as Partial<Record<string, unknown>>;
  const hasError = typeof error === "object" && error !== null;
  if (type === "hello") return true;
  if (type === "lost") return hasError;
  return ["progress", "item", "ask", "result", "failure"].includes(type as string) && typeof id === "number" && id >= 0 && id < callCount && (type !== "failure" || hasError);
}
