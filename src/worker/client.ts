import { EngineError, show } from "../errors.ts";
import { checkedTokens, checkWatching } from "../generate/options.ts";
import type { TensorInspection, WorkerInspectTensorOptions } from "../load/inspectTensor.ts";
import { LoadedModel, type ModelParts } from "../load/model.ts";
import { checkLoadOptions } from "../load/options.ts";
import { readTokenizer } from "../load/readTokenizer.ts";
import type { ModelBackend } from "../model/backend.ts";
import { absoluteAddress, absoluteUrl, openSource } from "../source/openSource.ts";
import type { Tokenizer } from "../tokenizer/types.ts";
import type {
  AdapterSummary,
  BudgetFit,
  Comparison,
  ComparisonRow,
  LoadOptions,
  MemoryReport,
  Model,
  ModelPlan,
  ModelSource,
  PerplexityOptions,
  PerplexityReport,
  QuantizedTensor,
  WorkerCompareOptions,
  WorkerFitOptions,
  WorkerLoadOptions,
  WorkerPlanOptions,
  WorkerStartOptions,
} from "../types.ts";
import { Connection, type WorkerPort } from "./connection.ts";
import type { SentModel, SentSource } from "./protocol.ts";
import { restoreError } from "./sentError.ts";

/** Tokens that the worker draws ahead of who takes them: enough that a fast reader never waits for a message to go and come. */
const TOKENS_AHEAD = 16;

/**
 * The same model as loadModel() gives, in a worker of its own: weights are quantized, texts scored and tokens drawn there, and the page stays free.
 * What it reports of itself at once (`memory`, `adapter`) is as of the last call that ended. encode() and decode() run on the page, which has the vocabulary, too.
 * While a generation runs, the worker draws up to 16 tokens ahead of the loop that takes them, then waits. dispose() terminates the worker.
 * Within the worker, recovery from a lost device and everything else is as loadModel() has it. When the worker itself ends, calls at work and later ones
 * reject with `worker`, and `lost` resolves; that others terminated it goes unnoticed in a page that is no secure context, where there are no locks to tell.
 * @throws as loadModel(); TypeError for options that cannot be sent to a worker; EngineError `worker` where it does not start, `unsupported` where there are no workers
 */
export async function loadModelInWorker(source: ModelSource, options: WorkerLoadOptions = {}): Promise<Model> {
  const { connection, sent, watching } = start(source, options);
  try {
    const model = await connection.call({ name: "load", ...sent }, watching);
    return new WorkerModel(model, await readTokenizer(model.tokenizerFiles, model.config, watching.signal), connection);
  } catch (error) {
    connection.close(disposed());
    throw error;
  }
}

/** As compareQuantizations(), in a worker of its own, which rests between rows until the next is asked for. Leaving the loop terminates it. */
export async function* compareQuantizationsInWorker(source: ModelSource, options: WorkerCompareOptions): AsyncGenerator<ComparisonRow, Comparison> {
  const { connection, sent, watching } = start(source, options);
  const { beforeWindow, onStart } = options;
  const rows: ComparisonRow[] = [];
  try {
    const stream = connection.stream({ name: "compare", ...sent, asks: beforeWindow !== undefined }, { ...watching, onAsk: beforeWindow, ahead: 1 });
    for (;;) {
      const { done, value } = await stream.next();
      if (done) return { ...value, rows };
      const { error, ...row } = value.row;
      if (rows.length === 0) onStart?.(value.run);
      rows.push(error ? { ...row, error: restoreError(error) as EngineError } : row);
      yield rows.at(-1)!;
    }
  } finally {
    connection.close(disposed());
  }
}

/** As fitToBudget(), in a worker of its own. */
export async function fitToBudgetInWorker(source: ModelSource, options: WorkerFitOptions): Promise<BudgetFit> {
  const { connection, sent, watching } = start(source, options);
  try {
    return await connection.call({ name: "fit", ...sent }, watching);
  } finally {
    connection.close(disposed());
  }
}

/** As planModel(), in a worker of its own: the page needs none of the engine to know what a model would take. */
export async function planModelInWorker(source: ModelSource, options: WorkerPlanOptions = {}): Promise<ModelPlan> {
  const { connection, sent, watching } = start(source, options);
  try {
    return await connection.call({ name: "plan", ...sent }, { ...watching, onProgress: undefined });
  } finally {
    connection.close(disposed());
  }
}

/** As inspectTensor(), in a worker of its own: what takes long leaves the page free. */
export async function inspectTensorInWorker(source: ModelSource, name: string, options: WorkerInspectTensorOptions = {}): Promise<TensorInspection> {
  const { connection, sent, watching } = start(source, options);
  try {
    return await connection.call({ name: "inspect", tensor: name, ...sent }, watching);
  } finally {
    connection.close(disposed());
  }
}

/** The face of a model whose weights are with the worker; texts are scored there as a whole. */
class WorkerModel extends LoadedModel {
  readonly #connection: Connection;

  constructor(sent: SentModel, tokenizer: Tokenizer, connection: Connection) {
    const parts: ModelParts = {
      ...sent,
      backend: new WorkerBackend(connection),
      tokenizer,
      sample: (prompt, sampling, limit, signal) => connection.stream({ name: "sample", prompt, sampling, limit }, { signal, ahead: TOKENS_AHEAD }),
    };
    super(parts);
    this.#connection = connection;
  }

  override async perplexity(text: string | readonly number[], { signal, onProgress, ...options }: PerplexityOptions = {}): Promise<PerplexityReport> {
    checkWatching({ signal, onProgress });
    const given = Array.isArray(text) ? checkedTokens("text", text, this.config.vocabSize) : text; // a copy: the caller may change the array while the call waits
    return this.inTurn(signal, () => this.#connection.call({ name: "perplexity", text: given, options }, { signal, onProgress }));
  }
}

class WorkerBackend implements ModelBackend {
  readonly lost: Promise<EngineError>;
  #memory: MemoryReport | null = null;

  constructor(private readonly connection: Connection) {
    this.lost = connection.lost;
  }

  get adapter(): AdapterSummary {
    return this.connection.state!.adapter;
  }

  get memory(): MemoryReport {
    return this.#memory ?? this.connection.state!.memory;
  }

  forward(tokens: readonly number[], start: number, signal?: AbortSignal): Promise<Float32Array> {
    return this.connection.call({ name: "forward", tokens, start }, { signal });
  }

  encodeWindow(tokens: readonly number[], signal?: AbortSignal, windowTokens?: number): Promise<void> {
    return this.connection.call({ name: "encodeWindow", tokens, windowTokens }, { signal });
  }

  score(from: number, targets: readonly number[], signal?: AbortSignal): Promise<Float32Array> {
    return this.connection.call({ name: "score", from, targets }, { signal });
  }

  readTensor(tensor: string, signal?: AbortSignal): Promise<QuantizedTensor | Float32Array> {
    return this.connection.call({ name: "readTensor", tensor }, { signal });
  }

  dispose(): void {
    this.#memory = { weights: 0, embedding: 0, scales: 0, kvCache: 0, activations: 0, staging: 0, total: 0, peakBytes: this.memory.peakBytes };
    this.connection.close(disposed());
  }
}

function disposed(): EngineError {
  return new EngineError("disposed", "The model was disposed while it was at work.");
}

/** Has a model already, or had one. */
const taken = new WeakSet<object>();

/** Starts the worker, having checked what must not cross, and splits the options into what is sent and what stays here. */
function start<Options extends (WorkerLoadOptions | WorkerCompareOptions | WorkerFitOptions | WorkerPlanOptions) & { onProgress?: unknown; beforeWindow?: unknown; onStart?: unknown }>(source: ModelSource, options: Options) {
  requireSendable(options);
  checkLoadOptions(options);
  const { signal, onProgress, beforeWindow: _, onStart: __, worker, transfer = false, ...sent } = options;
  if (typeof transfer !== "boolean") throw new TypeError(`transfer is ${show(transfer)}; expected a boolean.`);
  signal?.throwIfAborted();
  const crossing = sendSource(source, transfer);
  const connection = new Connection(startWorker(worker), typeof worker === "string" || worker instanceof URL ? absoluteUrl(String(worker)) : null);
  return {
    connection,
    sent: { source: crossing.source, options: absoluteHub(sent) },
    watching: { signal: signal as Options["signal"], onProgress: onProgress as Options["onProgress"], transfer: crossing.transfer },
  };
}

/** Options whose mirror is where the page has it: the worker's own addresses are relative to its script. */
function absoluteHub<Options extends Pick<LoadOptions, "hub">>(options: Options): Options {
  const { hub } = options;
  return hub?.endpoint === undefined ? options : { ...options, hub: { ...hub, endpoint: absoluteUrl(hub.endpoint) } };
}

/** Throws TypeError for an option that cannot cross; types keep such from TypeScript only. */
function requireSendable(options: Pick<LoadOptions, "fetch" | "gpu" | "device" | "cache" | "signal">): void {
  for (const name of ["fetch", "gpu", "device", "cache"] as const) {
    if (options[name] === undefined || typeof options[name] === "string") continue;
    throw new TypeError(`${name} cannot be sent to a worker; leave it out, or call loadModel() and the like, which can run in a worker of your own, too.`);
  }
}

/** What crosses, and the buffers of it that are moved and not copied. A view of a part of a buffer takes no more than that part along. */
function sendSource(given: ModelSource, moves: boolean): { source: SentSource; transfer: Transferable[] } {
  const files = typeof given === "object" && given !== null && Symbol.iterator in given && !ArrayBuffer.isView(given) ? Array.from(given) : null;
  openSource(files ?? given); // throws for what is none
  if (files) return { source: files, transfer: [] };
  if (typeof given === "string" || given instanceof URL) return { source: absoluteAddress(String(given)), transfer: [] };
  const transfer = new Set<Transferable>();
  const contents = Object.entries(given as Readonly<Record<string, Blob | ArrayBuffer | Uint8Array>>).map(([name, content]) => {
    const isPart = content instanceof Uint8Array && content.byteLength < content.buffer.byteLength;
    const sent = isPart ? new Uint8Array(content) : content;
    if ((isPart || moves) && !(sent instanceof Blob)) transfer.add((sent instanceof Uint8Array ? sent.buffer : sent) as ArrayBuffer);
    return [name, sent] as const;
  });
  return { source: Object.fromEntries(contents), transfer: [...transfer] };
}

function startWorker(given: WorkerStartOptions["worker"]): WorkerPort {
  const worker = typeof given === "function" ? given() : given;
  if (typeof worker !== "object" || worker instanceof URL) return launch(worker);
  if (!isWorkerPort(worker)) throw new TypeError("worker is an object; expected a Worker, the URL of its script, or a function that starts one.");
  if (taken.has(worker)) throw new TypeError("worker serves, or served, another call; expected one of its own.");
  taken.add(worker);
  return worker;
}

/** script: undefined for the package's own. */
function launch(script: string | URL | undefined): WorkerPort {
  if (typeof Worker === "undefined") throw new EngineError("unsupported", "There is no Worker here (Node and service workers have none); use loadModel(), or give something like a Worker as `worker`.");
  try {
    if (script === undefined) return new Worker(new URL("./engineWorker.ts", import.meta.url), { type: "module" });
    return new Worker(script, { type: "module" });
  } catch (cause) {
    throw new EngineError("worker", `The worker could not be started: ${(cause as Error).message} Its script must come from the page's own origin; \`worker\` can name a copy.`, { script: script === undefined ? null : String(script) }, { cause });
  }
}

function isWorkerPort(worker: object | null): worker is WorkerPort {
  return worker !== null && ["postMessage", "addEventListener", "terminate"].every((name) => typeof (worker as Record<string, unknown>)[name] === "function");
}
