import { EngineError } from "../errors.ts";
import { samplerOf } from "../generate/generation.ts";
import { openModel } from "../load/loadModel.ts";
import { adapterOf, LoadedModel, type ModelParts } from "../load/model.ts";
import { planModel } from "../load/planModel.ts";
import { ENGINE_VERSION } from "../load/version.ts";
import { fetchPart } from "../parts.ts";
import type { ComparisonRow, ComparisonRun } from "../types.ts";
import type { BackendState, Call, Calls, PageMessage, SentRow, WorkerMessage } from "./protocol.ts";
import { sendError } from "./sentError.ts";

/** The part of a worker's global scope, or of a MessagePort, that the server speaks through. */
export interface ServerPort {
  postMessage(message: WorkerMessage, transfer: Transferable[]): void;
  addEventListener(type: "message", listener: (event: MessageEvent<PageMessage>) => void): void;
}

/** Answers the calls of one page: at most one model, one call after the other. */
export function serve(port: ServerPort): void {
  const runs = new Map<number, Run>();
  let parts: ModelParts | null = null;
  let turn = Promise.resolve();
  const post = (message: WorkerMessage, transfer: Transferable[] = []): void => port.postMessage(message, transfer);
  const state = (): BackendState | null => parts && { memory: parts.backend.memory, adapter: adapterOf(parts) };

  const answer = async (id: number, call: Call, run: Run): Promise<void> => {
    const watching = { signal: run.signal, onProgress: (progress: unknown) => post({ type: "progress", id, progress }) };
    const loaded = (): ModelParts => {
      if (parts) return parts;
      throw new EngineError("worker", `The worker was asked for "${call.name}" and has no model.`, { call: call.name });
    };
    const perform = async (): Promise<Calls[Call["name"]]["result"]> => {
      switch (call.name) {
        case "load": {
          parts = await openModel(call.source, { ...call.options, ...watching });
          void parts.backend.lost.then((error) => post({ type: "lost", error: sendError(error) }));
          const { config, contextLength, tokenizerFiles, quantization, description } = parts;
          return { config, contextLength, tokenizerFiles, quantization, description };
        }
        case "forward":
          return loaded().backend.forward(call.tokens, call.start, run.signal);
        case "encodeWindow":
          return loaded().backend.encodeWindow(call.tokens, run.signal, call.windowTokens);
        case "score":
          return loaded().backend.score(call.from, call.targets, run.signal);
        case "readTensor":
          return loaded().backend.readTensor(call.tensor, run.signal);
        case "perplexity":
          return new LoadedModel(loaded()).perplexity(call.text, { ...call.options, ...watching });
        case "sample": {
          const { backend, config } = loaded();
          return give(samplerOf(backend, config.vocabSize)(call.prompt, call.sampling, call.limit, run.signal), (item) => post({ type: "item", id, item }));
        }
        case "compare": {
          const { compareQuantizations } = await fetchPart("The comparison", () => import("../load/compareQuantizations.ts"), run.signal);
          let shared: ComparisonRun;
          const beforeWindow = call.asks ? () => run.asked(() => post({ type: "ask", id })) : undefined;
          const comparing = compareQuantizations(call.source, { ...call.options, ...watching, beforeWindow, onStart: (given) => (shared = given) });
          const { rows: _, ...comparison } = await give(comparing, (row) => post({ type: "item", id, item: { row: sendRow(row), run: shared } }, samplesOf(row)));
          return comparison;
        }
        case "fit": {
          const { fitToBudget } = await fetchPart("The fit to a budget", () => import("../load/fitToBudget.ts"), run.signal);
          return fitToBudget(call.source, { ...call.options, ...watching });
        }
        case "inspect": {
          const { inspectTensor } = await fetchPart("The inspection of a tensor", () => import("../load/inspectTensor.ts"), run.signal);
          return inspectTensor(call.source, call.tensor, { ...call.options, ...watching });
        }
        case "plan":
          return planModel(call.source, { ...call.options, signal: run.signal });
      }
    };
    /** Posts the items of a stream as the page allows. */
    const give = async <Item, Result>(stream: AsyncGenerator<Item, Result, unknown>, item: (item: Item) => void): Promise<Result> => {
      try {
        for (;;) {
          await run.allowed();
          const { done, value } = await stream.next();
          if (done) return value;
          item(value);
        }
      } finally {
        await stream.return(undefined as Result);
      }
    };
    try {
      run.signal.throwIfAborted();
      const result = await perform();
      post({ type: "result", id, result, state: state() }, buffersOf(result));
    } catch (error) {
      post({ type: "failure", id, error: sendError(error), state: state() });
    } finally {
      runs.delete(id);
    }
  };

  port.addEventListener("message", ({ data: message }) => {
    switch (message.type) {
      case "hello":
        // Before any answer, so that the page that has one watches the lock.
        turn = holdLock(message.lock).then((holdsLock) => post({ type: "hello", version: ENGINE_VERSION, holdsLock }));
        break;
      case "call": {
        const run = new Run();
        runs.set(message.id, run);
        turn = turn.then(() => answer(message.id, message.call, run));
        break;
      }
      case "pull":
        runs.get(message.id)?.allow(message.count);
        break;
      case "goOn":
        runs.get(message.id)?.goOn();
        break;
      case "end":
        runs.get(message.id)?.end();
    }
  });
}

/** One call at work: whether the page still wants it, and how many items. */
class Run {
  readonly #controller = new AbortController();
  #count = 0;
  #wake: () => void = () => undefined;
  #goOn: () => void = () => undefined;

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  allow(count: number): void {
    this.#count += count;
    this.#wake();
  }

  /** Waits, having asked, until the page says to go on; whoever ends the call ends the waiting. */
  asked(ask: () => void): Promise<void> {
    ask();
    return new Promise((resolve) => (this.#goOn = resolve));
  }

  goOn(): void {
    this.#goOn();
  }

  end(): void {
    this.#controller.abort();
    this.#wake();
  }

  /** Waits until one more item may go. Rejects when the call was ended. */
  async allowed(): Promise<void> {
    while (this.#count === 0 && !this.signal.aborted) await new Promise<void>((resolve) => (this.#wake = resolve));
    this.signal.throwIfAborted();
    this.#count--;
  }
}

/** Takes the lock that is free again when this worker ends, however it does. Resolves to whether it could. */
function holdLock(name: string | null): Promise<boolean> {
  const { locks } = (globalThis as Partial<Pick<typeof globalThis, "navigator">>).navigator ?? ({} as Partial<Navigator>);
  if (name === null || !locks) return Promise.resolve(false);
  return new Promise((resolve) => {
    const hold = (): Promise<never> => (resolve(true), new Promise(() => undefined));
    locks.request(name, hold).catch(() => resolve(false)); // an opaque origin has none
  });
}

/** What need not be copied: logits, scores and codes are made for the one who asked. */
function buffersOf(result: Calls[Call["name"]]["result"]): Transferable[] {
  if (result instanceof Float32Array) return [result.buffer as ArrayBuffer];
  return typeof result === "object" && "scales" in result ? [result.codes.buffer as ArrayBuffer] : [];
}

function sendRow({ error, ...row }: ComparisonRow): SentRow {
  return error ? { ...row, error: sendError(error) } : row;
}

/** The buffers of a row that nobody needs any more when it was given. */
function samplesOf({ samples }: ComparisonRow): Transferable[] {
  const arrays: readonly (Float32Array | Uint8Array)[] = samples ? Object.values(samples) : [];
  return [...new Set(arrays.map(({ buffer }) => buffer as ArrayBuffer))]; // the baseline's own NLLs are those of the baseline
}
