import { EngineError } from "../errors.ts";
import type { Backend, ObserveOptions, RowComparison, SampledToken } from "../model/backend.ts";
import type { InputStatistics } from "../quantize/inputStatistics.ts";
import type { SamplingOptions } from "../kernels/sampling.ts";
import type { AdapterSummary, LoadOptions, MemoryReport, QuantizedTensor } from "../types.ts";

/** A device lost so often within so long will be lost again: what we do there may be what kills it. */
const MAX_LOSSES = 3;
const LOSSES_WITHIN_MS = 60_000;

/** Counts the devices that one model, or one comparison, has lost. */
export class LossCounter {
  readonly #isLast: boolean;
  readonly #nowMs: () => number;
  readonly #recentMs: number[] = [];
  #count = 0;

  /** device: one of the caller's, which cannot be made again. */
  constructor({ device }: Pick<LoadOptions, "device"> = {}, nowMs = () => performance.now()) {
    this.#isLast = device !== undefined;
    this.#nowMs = nowMs;
  }

  /** Returns where there may be another device. @throws the error where it is no loss, or the third loss within a minute */
  note(error: unknown): void {
    if (!this.mayRetry(error)) throw error;
    this.#count++;
    const nowMs = this.#nowMs();
    this.#recentMs.push(nowMs);
    if (this.#recentMs.length > MAX_LOSSES) this.#recentMs.shift();
    if (this.#recentMs.length === MAX_LOSSES && nowMs - this.#recentMs[0]! < LOSSES_WITHIN_MS) throw error;
  }

  /** Whether the error is the loss of a device that we can make again. */
  mayRetry(error: unknown): boolean {
    return !this.#isLast && isLoss(error);
  }

  /** The summary with a notice of the losses, where there were any. */
  noticed(adapter: AdapterSummary): AdapterSummary {
    const count = this.#count;
    return count === 0 ? adapter : { ...adapter, notices: [...adapter.notices, `The device was lost and made again, ${count} time${count === 1 ? "" : "s"}.`] };
  }

  /** Does work that makes its own device, and again from its start after each loss. */
  async retry<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await work();
      } catch (error) {
        this.note(error);
      }
    }
  }
}

function isLoss(error: unknown): error is EngineError {
  return error instanceof EngineError && error.code === "deviceLost";
}

/** A call to a backend that can be made again on another. */
type Call<T> = (backend: Backend, signal: AbortSignal | undefined) => Promise<T>;

export interface RecoveringBackendParts {
  backend: Backend;
  /** Makes the same backend on another device. */
  rebuild: (signal: AbortSignal) => Promise<Backend>;
  /** Those of loading are in it. */
  losses: LossCounter;
}

/**
 * A backend that outlives its device. When a call finds the device lost, the backend is built again, the calls that made the KV cache or the window are
 * made again, one by one with the same kernels so that every bit is the same, and then the call itself: who called sees a pause and nothing else.
 * It ends with the third loss within a minute, or when it cannot be built: `lost` resolves, and every call rejects with `deviceLost`.
 */
export class RecoveringBackend implements Backend {
  readonly lost: Promise<EngineError>;
  readonly #rebuild: RecoveringBackendParts["rebuild"];
  readonly #losses: LossCounter;
  readonly #disposal = new AbortController();
  #backend: Backend;
  #isLost = false;
  /** What made the state that the next call may need. */
  #history: readonly Call<unknown>[] = [];
  #failure: EngineError | null = null;
  #end!: (failure: EngineError) => void;

  constructor({ backend, rebuild, losses }: RecoveringBackendParts) {
    this.#backend = backend;
    this.#rebuild = rebuild;
    this.#losses = losses;
    this.lost = new Promise((resolve) => (this.#end = resolve));
  }

  get adapter(): AdapterSummary {
    return this.#losses.noticed(this.#backend.adapter);
  }

  get memory(): MemoryReport {
    return this.#backend.memory;
  }

  forward(tokens: readonly number[], start: number, signal?: AbortSignal): Promise<Float32Array> {
    return this.#remember(start === 0 ? [] : this.#history, signal, (backend, signal) => backend.forward(tokens, start, signal));
  }

  decode(tokens: readonly number[], options: SamplingOptions, limit: number, signal?: AbortSignal): AsyncGenerator<SampledToken, void, undefined> | null {
    return this.#backend.decode?.(tokens, options, limit, signal) ? this.#decode(tokens, options, limit, signal) : null;
  }

  encodeWindow(tokens: readonly number[], signal?: AbortSignal, windowTokens?: number): Promise<void> {
    return this.#remember([], signal, (backend, signal) => backend.encodeWindow(tokens, signal, windowTokens));
  }

  windowsAtOnce(windowTokens: number): number {
    return this.#backend.windowsAtOnce?.(windowTokens) ?? 1;
  }

  score(from: number, targets: readonly number[], signal?: AbortSignal): Promise<Float32Array> {
    return this.#run(signal, (backend, signal) => backend.score(from, targets, signal));
  }

  /** The baseline does not recover with it: both live on one device, which comparisons make again as a whole. */
  compare(baseline: Backend, from: number, targets: readonly number[], signal?: AbortSignal): Promise<RowComparison> {
    return this.#backend.compare(baseline, from, targets, signal);
  }

  observe(windows: readonly (readonly number[])[], names: readonly string[], options: ObserveOptions): Promise<Map<string, InputStatistics>> {
    this.#history = [];
    return this.#run(options.signal, (backend) => backend.observe(windows, names, options));
  }

  readTensor(name: string, signal?: AbortSignal): Promise<QuantizedTensor | Float32Array> {
    return this.#run(signal, (backend, signal) => backend.readTensor(name, signal));
  }

  dispose(): void {
    this.#disposal.abort(new EngineError("disposed", "The model was disposed while it was at work."));
    this.#backend.dispose();
  }

  async *#decode(tokens: readonly number[], options: SamplingOptions, limit: number, signal: AbortSignal | undefined): AsyncGenerator<SampledToken, void, undefined> {
    const drawn: number[] = [];
    this.#history = [];
    for (;;) {
      try {
        const backend = await this.#live(signal);
        for await (const token of backend.decode!(tokens, options, limit, signal, drawn)!) {
          drawn.push(token.id);
          yield token;
        }
        return;
      } catch (error) {
        this.#note(error, signal);
      }
    }
  }

  /** Runs a call that goes on from what `history` made. */
  async #remember<T>(history: readonly Call<unknown>[], signal: AbortSignal | undefined, call: Call<T>): Promise<T> {
    this.#history = history;
    const result = await this.#run(signal, call);
    this.#history = [...history, call];
    return result;
  }

  async #run<T>(signal: AbortSignal | undefined, call: Call<T>): Promise<T> {
    for (;;) {
      try {
        return await call(await this.#live(signal), signal);
      } catch (error) {
        this.#note(error, signal);
      }
    }
  }

  /** The backend, after a loss another one in the state that the lost one was in. */
  async #live(signal: AbortSignal | undefined): Promise<Backend> {
    if (this.#failure) throw this.#failure;
    if (this.#isLost) {
      const backend = await this.#rebuild(AbortSignal.any([this.#disposal.signal, ...(signal ? [signal] : [])]));
      this.#backend = backend;
      if (this.#disposal.signal.aborted) backend.dispose();
      this.#isLost = false;
      for (const call of this.#history) await call(backend, signal);
    }
    return this.#backend;
  }

  /** Returns where the call should be made again. @throws why not */
  #note(error: unknown, signal: AbortSignal | undefined): void {
    this.#disposal.signal.throwIfAborted();
    signal?.throwIfAborted(); // a loss beside it is found again by the next call
    if (this.#failure || (!this.#isLost && !isLoss(error))) throw error;
    this.#isLost = true;
    this.#backend.dispose();
    try {
      this.#losses.note(error);
    } catch {
      const message = isLoss(error) ? `${error.message} It was lost ${MAX_LOSSES} times within a minute.` : `The GPU device was lost and could not be made again: ${(error as Error).message}`;
      this.#failure = new EngineError("deviceLost", message, {}, { cause: error });
      this.#end(this.#failure);
      throw this.#failure;
    }
  }
}
