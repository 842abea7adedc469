import { EngineError } from "../errors.ts";
import { Pacer } from "../model/cpu/pacer.ts";
import { buffersOf } from "../quantize/layout.ts";
import { fetchPart } from "../parts.ts";
import type { MatrixBlock, MatrixJob, QuantizedMatrix } from "../quantize/matrixQuantizer.ts";
import type { QuantizerReply, QuantizerRequest } from "../quantize/quantizerWorker.ts";

/** More would wait for the one that reads. */
const MAX_WORKERS = 3;
/** Fewer values are quantized before a worker has started. */
const WORTHWHILE_VALUES = 2 ** 20;

/** One matrix on its way; see MatrixQuantizer. */
interface Matrix {
  add(block: MatrixBlock): Promise<void>;
  finish(): Promise<QuantizedMatrix>;
}

/** Takes one matrix at a time. */
interface Quantizer {
  /** spare: where the buffers of blocks go that are done with. */
  start(job: MatrixJob, spare: ArrayBuffer[]): Matrix;
}

export interface QuantizerOptions {
  /** Of all matrices together. */
  values: number;
  /** @default "workers" */
  quantizer?: "workers" | "inline";
  signal: AbortSignal | undefined;
}

/**
 * Quantizes matrices in workers, or, where there is no Worker, none starts (a page's policy, file://, a bundler that left the script out) or the model is
 * tiny, on this thread with pauses. The results are the same to the last bit.
 */
export class Quantizers {
  /**
   * Buffers of blocks that are done with, to be read into again: what comes in a message is not freed before the message is collected, which engines do
   * late and in each thread for itself (measured: 400 MB of them).
   */
  readonly spare: ArrayBuffer[] = [];
  private readonly workers: WorkerQuantizer[] = [];
  private readonly free: Promise<Quantizer[]>;
  private readonly waiting: ((quantizer: Quantizer) => void)[] = [];
  private readonly signal: AbortSignal | undefined;
  private readonly abort = (): void => this.dispose(this.signal!.reason);

  constructor({ values, quantizer = "workers", signal }: QuantizerOptions) {
    this.signal = signal;
    signal?.addEventListener("abort", this.abort);
    const inline = async (): Promise<Quantizer[]> => [await inlineQuantizer(signal)];
    this.free = quantizer === "inline" || values < WORTHWHILE_VALUES ? inline() : this.startWorkers().catch(inline);
    this.free.catch(() => undefined); // thrown to whoever opens a matrix
  }

  /** A matrix to be filled, once a quantizer is free; it is free again when finish() has settled. */
  async open(job: MatrixJob): Promise<Matrix> {
    const free = await this.free;
    const quantizer = free.pop() ?? (await new Promise<Quantizer>((resolve) => this.waiting.push(resolve)));
    const release = (): void => {
      const next = this.waiting.shift();
      if (next) next(quantizer);
      else free.push(quantizer);
    };
    const matrix = quantizer.start(job, this.spare);
    return { add: (block) => matrix.add(block), finish: () => matrix.finish().finally(release) };
  }

  /** Ends the workers; what they are at rejects with the reason. Idempotent. */
  dispose(reason: unknown = new EngineError("disposed", "The load has ended.")): void {
    this.signal?.removeEventListener("abort", this.abort);
    for (const worker of this.workers) worker.end(reason);
  }

  private async startWorkers(): Promise<Quantizer[]> {
    const count = Math.max(1, Math.min(MAX_WORKERS, (globalThis.navigator?.hardwareConcurrency ?? 2) - 1));
    try {
      for (let i = 0; i < count; i++) this.workers.push(new WorkerQuantizer());
      await Promise.all(this.workers.map(({ ready }) => ready));
      return [...this.workers];
    } catch (error) {
      this.dispose();
      throw error;
    }
  }
}

async function inlineQuantizer(signal: AbortSignal | undefined): Promise<Quantizer> {
  const { MatrixQuantizer } = await fetchPart("The quantizer", () => import("../quantize/matrixQuantizer.ts"), signal);
  const pacer = new Pacer();
  return {
    start(job, spare) {
      const matrix = new MatrixQuantizer(job, () => pacer.rest(signal));
      const add = async (block: MatrixBlock): Promise<void> => keep(spare, await matrix.add(block));
      return { add, finish: () => matrix.finish() };
    },
  };
}

function keep(spare: ArrayBuffer[], buffer: ArrayBuffer | null): void {
  if (buffer) spare.push(buffer);
}

interface Call {
  resolve: (reply: QuantizerReply) => void;
  reject: (reason: unknown) => void;
}

class WorkerQuantizer implements Quantizer {
  /** Rejects where the script does not start. */
  readonly ready: Promise<unknown>;
  private readonly worker: Worker;
  /** In the order of the answers. */
  private readonly calls: Call[] = [];
  private failure: { reason: unknown } | null = null;

  /** @throws where there is no Worker, or the page's policy forbids it */
  constructor() {
    this.worker = new Worker(new URL("../quantize/quantizerWorker.ts", import.meta.url), { type: "module", name: "nibble quantizer" });
    this.ready = new Promise((resolve, reject) => this.calls.push({ resolve, reject }));
    this.ready.catch(() => undefined); // of several workers the first that fails is enough
    this.worker.onmessage = ({ data }: MessageEvent<QuantizerReply>) => this.settle(data);
    this.worker.onerror = (event) => {
      event.preventDefault(); // it is told by the load
      this.end(new EngineError("worker", `A worker that quantizes failed: ${event.message || "its script did not run"}`));
    };
    this.worker.onmessageerror = () => this.end(new EngineError("worker", "What a worker quantized could not be read."));
  }

  /** add() resolves when the worker is done with the block before, and has the block. */
  start(job: MatrixJob, spare: ArrayBuffer[]): Matrix {
    let last = this.call({ start: job });
    const settleLast = async (): Promise<void> => {
      const reply = await last;
      if ("spare" in reply) keep(spare, reply.spare);
    };
    return {
      add: async (block) => {
        await settleLast();
        last = this.call({ block });
      },
      finish: async () => {
        await settleLast();
        const reply = await this.call({ finish: true });
        return (reply as Extract<QuantizerReply, { matrix: unknown }>).matrix;
      },
    };
  }

  /** Idempotent. */
  end(reason: unknown): void {
    this.failure ??= { reason };
    this.worker.terminate();
    for (const { reject } of this.calls.splice(0)) reject(reason);
  }

  /** What it rejects with is told by whoever awaits it, or by no one where the load has ended before. */
  private call(request: QuantizerRequest): Promise<QuantizerReply> {
    const answer = new Promise<QuantizerReply>((resolve, reject) => {
      if (this.failure) return reject(this.failure.reason);
      this.calls.push({ resolve, reject });
      this.worker.postMessage(request, "block" in request ? buffersOf(request.block) : []);
    });
    answer.catch(() => undefined);
    return answer;
  }

  private settle(reply: QuantizerReply): void {
    const { resolve, reject } = this.calls.shift()!;
    if (!("failed" in reply)) return resolve(reply);
    const { message, code, details } = reply.failed;
    reject(code ? new EngineError(code, message, details) : new EngineError("worker", `A worker that quantizes failed: ${message}`));
  }
}
