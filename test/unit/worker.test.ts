import { afterEach, describe, expect, test, vi } from "vitest";
import {
  compareQuantizations,
  compareQuantizationsInWorker,
  EngineError,
  exportSafetensors,
  fitToBudget,
  fitToBudgetInWorker,
  loadModel,
  loadModelInWorker,
  type Comparison,
  type ComparisonRow,
  type EngineErrorCode,
  type Model,
  type ModelSource,
  planModel,
  planModelInWorker,
  type PerplexityProgress,
  type WorkerLoadOptions,
} from "../../src/index.ts";
import { restoreError, sendError } from "../../src/worker/sentError.ts";
import { leavings } from "../conformance/modelCases.ts";
import { byteVocabulary } from "../fixtures/byteTokenizer.ts";
import { seededCheckpoint } from "../fixtures/seededCheckpoint.ts";
import { PairedWorker, pairedWorker, type Tap } from "../fixtures/workerPair.ts";

const V = 257;
const files = { ...seededCheckpoint({ nLayer: 1, nHead: 2, nEmbd: 8, nPositions: 64, vocabSize: V, seed: 77 }), ...byteVocabulary };
const tokens = [46, 111, 37, 46, 13, 31, 32, 256];
const text = "the dog ran over the hill";

/** The model behind a worker, and the worker. */
async function open(options: WorkerLoadOptions = {}, tap?: Tap): Promise<{ model: Model; worker: PairedWorker } & Disposable> {
  const worker = pairedWorker(tap);
  const model = await loadModelInWorker(files, { backend: "cpu", quantization: "int8", worker, ...options });
  return { model, worker, [Symbol.dispose]: () => model.dispose() };
}
const openDirect = (): Promise<Model> => loadModel(files, { backend: "cpu", quantization: "int8" });

/** A port with nobody behind it that a test speaks through, once the page has made its first call. */
function puppet(): { worker: Worker & PairedWorker; say: (message: unknown) => void } {
  const worker = new PairedWorker() as Worker & PairedWorker;
  return { worker, say: (message) => worker.dispatchEvent(new MessageEvent("message", { data: message })) };
}

const untimed = ({ quantizeMs: _, prefillTokensPerSecond: __, decodeTokensPerSecond: ___, ...row }: ComparisonRow): object => row;

afterEach(() => {
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

describe("a model in a worker", () => {
  test("has the config, the report, the memory and the adapter of the direct one", async () => {
    using direct = await openDirect();
    using opened = await open();
    const { model } = opened;
    expect(model.config).toEqual(direct.config);
    expect({ ...model.quantization, quantizeMs: 0 }).toEqual({ ...direct.quantization, quantizeMs: 0 });
    expect(model.adapter).toEqual(direct.adapter);
    expect(model.memory).toEqual(direct.memory);
    expect(model.decode(model.encode(text))).toBe(text);
  });

  test("gives the direct one's logits, log-probabilities, perplexity and texts, bit for bit", async () => {
    using direct = await openDirect();
    using opened = await open();
    const { model } = opened;
    expect(await model.logits(tokens)).toEqual(await direct.logits(tokens));
    expect(await model.tokenLogProbs(tokens)).toEqual(await direct.tokenLogProbs(tokens));
    for (const given of [text, tokens]) expect(await model.perplexity(given, { windowTokens: 6 })).toEqual(await direct.perplexity(given, { windowTokens: 6 }));
    for (const options of [{ temperature: 0 }, { seed: 3, topK: 40, repetitionPenalty: 1.3 }, { seed: 4, logProbs: 2, logitBias: { 26: 2, 11: -Infinity } }, { seed: 5, stop: ["a"] }]) {
      const [here, there] = [await direct.complete(text, { maxTokens: 20, ...options }), await model.complete(text, { maxTokens: 20, ...options })];
      expect({ ...there, prefillMs: 0, decodeMs: 0 }).toEqual({ ...here, prefillMs: 0, decodeMs: 0 });
    }
  });

  test("reports memory as of the last call, and none once disposed of", async () => {
    using opened = await open();
    const { model } = opened;
    const before = model.memory;
    await model.perplexity(tokens); // keeps the window's hidden states from here on
    expect(model.memory.total).toBeGreaterThan(before.total);
    const { peakBytes } = model.memory;
    model.dispose();
    expect(model.memory).toMatchObject({ total: 0, weights: 0, peakBytes });
  });

  test("uses the tokenizer that the checkpoint brings, and GPT-2's where it brings none", async () => {
    using direct = await openDirect();
    using opened = await open();
    expect(opened.model.encode("the")).toEqual(direct.encode("the"));
    const { "vocab.json": _, "merges.txt": __, ...others } = files;
    using gpt2 = await loadModelInWorker(others, { backend: "cpu", worker: pairedWorker() }); // control case
    expect(gpt2.encode("the")).not.toEqual(direct.encode("the"));
  });

  test("exports the same file", async () => {
    using direct = await openDirect();
    using opened = await open();
    const bytes = async (model: Model): Promise<Uint8Array> => new Uint8Array(await new Response(exportSafetensors(model) as ReadableStream<Uint8Array<ArrayBuffer>>).arrayBuffer());
    expect(Buffer.compare(await bytes(opened.model), await bytes(direct))).toBe(0);
  });
});

describe("loadModelInWorker", () => {
  test("rejects with signal.reason, the very object, when aborted before or while it loads, and ends the worker", async () => {
    const reason = { because: "enough" };
    const worker = pairedWorker();
    await expect(loadModelInWorker(files, { worker, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(worker.terminations).toBe(0); // it was not taken yet
    const controller = new AbortController();
    await expect(loadModelInWorker(files, { backend: "cpu", worker, signal: controller.signal, onProgress: () => controller.abort(reason) })).rejects.toBe(reason);
    expect(worker.terminations).toBe(1);
  });

  test("rejects with what onProgress throws, and ends the worker", async () => {
    const worker = pairedWorker();
    const thrown = new Error("mine");
    const onProgress = (): void => {
      throw thrown;
    };
    await expect(loadModelInWorker(files, { backend: "cpu", worker, onProgress })).rejects.toBe(thrown);
    expect(worker.terminations).toBe(1);
  });

  test.each<[what: string, source: unknown, options: object]>([
    ["an unknown preset", files, { quantization: "int9" }],
    ["a backend of another name", files, { backend: "gpu" }],
    ["a context beyond the model's positions", files, { contextLength: 65 }],
    ["an onProgress that is no function", files, { onProgress: 7 }],
    ["a number as the source", 7, {}],
    ["nothing as the source", null, {}],
    ["bytes without a name", files["model.safetensors"], {}],
    ["a list of other things than files", ["config.json"], {}],
    ["a text that is neither hub id nor address", "gpt2 small", {}],
    ["a checkpoint without weights", { "config.json": files["config.json"] }, {}],
    ["a config that is no JSON", { ...files, "config.json": bytesOf("<html>") }, {}],
  ])("rejects %s with the error of loadModel()", async (_, source, options) => {
    const errorOf = (load: Promise<unknown>): Promise<Error> => load.then(() => Promise.reject(new Error("it loaded")), (error: Error) => error);
    const direct = await errorOf(loadModel(source as ModelSource, { backend: "cpu", ...options }));
    const worker = pairedWorker();
    const behind = await errorOf(loadModelInWorker(source as ModelSource, { backend: "cpu", worker, ...options }));
    expect(behind).toBeInstanceOf(direct.constructor);
    expect({ ...behind, message: behind.message }).toEqual({ ...direct, message: direct.message });
  });

  test.each<[option: string, value: unknown]>([
    ["fetch", () => undefined],
    ["gpu", {}],
    ["device", {}],
    ["cache", { match: () => undefined }],
  ])("throws TypeError for %s, which cannot be sent, and names it", async (option, value) => {
    await expect(open({ [option]: value })).rejects.toThrow(expect.objectContaining({ name: "TypeError", message: expect.stringMatching(new RegExp(`^${option} cannot be sent to a worker`)) as string }));
    using _ = await open({ [option]: undefined }); // control case
  });

  test("throws TypeError for what no message can hold", async () => {
    const quantization = { linear: { type: "f16" }, name: () => "mine" } as unknown as "f16";
    await expect(open({ quantization })).rejects.toThrow(/^What was given cannot be sent to a worker: /);
  });

  test.each<[what: string, worker: unknown, message: RegExp]>([
    ["an object that is none", {}, /worker is an object; expected a Worker/],
    ["null", null, /worker is an object; expected a Worker/],
  ])("throws TypeError for %s as the worker", async (_, worker, message) => {
    await expect(loadModelInWorker(files, { worker: worker as Worker })).rejects.toThrow(message);
  });

  test("takes a function that starts the worker, and a worker only once", async () => {
    const worker = pairedWorker();
    using _ = await loadModelInWorker(files, { backend: "cpu", worker: () => worker });
    await expect(loadModelInWorker(files, { backend: "cpu", worker })).rejects.toThrow("worker serves, or served, another call");
  });

  test("rejects as `unsupported` where there are no workers", async () => {
    vi.stubGlobal("Worker", undefined);
    await expect(loadModelInWorker(files)).rejects.toMatchObject({ name: "EngineError", code: "unsupported" });
  });

  test("rejects as `worker` where the browser refuses the script", async () => {
    const refusal = new DOMException("other origin", "SecurityError");
    vi.stubGlobal("Worker", function () {
      throw refusal;
    });
    await expect(loadModelInWorker(files, { worker: "https://elsewhere.test/worker.js" })).rejects.toMatchObject({ name: "EngineError", code: "worker", cause: refusal, details: { script: "https://elsewhere.test/worker.js" } });
  });

  test("moves buffers where `transfer` is true, copies them where it is not, and leaves alone what is around a view", async () => {
    const given = (): Record<string, Uint8Array<ArrayBuffer>> => ({ "config.json": files["config.json"].slice(), "model.safetensors": files["model.safetensors"].slice() });
    const kept = given();
    using _ = await loadModelInWorker(kept, { backend: "cpu", worker: pairedWorker() });
    expect(kept["model.safetensors"]!.byteLength).toBe(files["model.safetensors"].byteLength);
    const moved = given();
    using __ = await loadModelInWorker(moved, { backend: "cpu", worker: pairedWorker(), transfer: true });
    expect(Object.values(moved).map(({ byteLength }) => byteLength)).toEqual([0, 0]);
    const whole = new Uint8Array(files["config.json"].length + 8);
    const part = whole.subarray(8);
    part.set(files["config.json"]);
    using ___ = await loadModelInWorker({ ...given(), "config.json": part }, { backend: "cpu", worker: pairedWorker(), transfer: true });
    expect(whole.byteLength).toBe(files["config.json"].length + 8);
  });

  /** The first call of a load on a page at http://page.test/app/, which then ends. */
  const firstCall = async (source: ModelSource, options: WorkerLoadOptions = {}): Promise<{ source: unknown; options: WorkerLoadOptions }> => {
    vi.stubGlobal("document", { baseURI: "http://page.test/app/index.html" });
    const controller = new AbortController();
    const seen: unknown[] = [];
    const toWorker = (message: object): void => {
      if (!("call" in message)) return;
      seen.push(message.call);
      controller.abort();
    };
    await expect(loadModelInWorker(source, { ...options, worker: new PairedWorker({ toWorker }) as Worker & PairedWorker, signal: controller.signal })).rejects.toThrow();
    return seen[0] as { source: unknown; options: WorkerLoadOptions };
  };

  test.each<[given: string | URL, sent: string]>([
    ["models/mine/", "http://page.test/app/models/mine/"],
    ["/models/mine.safetensors", "http://page.test/models/mine.safetensors"],
    [new URL("https://a.test/b/"), "https://a.test/b/"],
    ["https://a.test/b/", "https://a.test/b/"],
    ["openai-community/gpt2@main", "openai-community/gpt2@main"],
  ])("sends %s as %s, since a worker has another base", async (given, sent) => {
    expect((await firstCall(given)).source).toBe(sent);
  });

  test.each<[given: string, sent: string]>([
    ["mirror", "http://page.test/app/mirror"],
    ["/mirror/", "http://page.test/mirror/"],
    ["https://mirror.test", "https://mirror.test/"],
    ["http://[", "http://["], // the worker says what is wrong with it, as loadModel() does
  ])("sends hub.endpoint %s as %s, with what else the hub needs", async (endpoint, sent) => {
    const hub = { endpoint, revision: "v1", token: "secret" };
    expect((await firstCall("owner/name", { hub })).options.hub).toEqual({ ...hub, endpoint: sent });
  });
});

describe("a generation in a worker", () => {
  const leave: typeof leavings = {
    ...leavings,
    async return(model, prompt) {
      const generation = model.generate(prompt, { seed: 1 });
      const tokens = generation[Symbol.asyncIterator]();
      await tokens.next();
      await tokens.return!();
      expect(await tokens.next()).toEqual({ done: true, value: undefined });
      return generation.summary;
    },
  };

  test.each(Object.keys(leave))("that is left by %s ends the worker's run, and the next one is whole", async (way) => {
    const ended: unknown[] = [];
    using opened = await open({}, { toWorker: (message) => message.type === "end" && ended.push(message) });
    const expected = await opened.model.complete(text, { maxTokens: 12, seed: 2 });
    const before = ended.length;
    expect(await leave[way]!(opened.model, text)).toMatchObject({ finishReason: "cancelled", newTokens: 1, promptTokens: opened.model.encode(text).length });
    expect(ended).toHaveLength(before + 1);
    expect((await opened.model.complete(text, { maxTokens: 12, seed: 2 })).tokens).toEqual(expected.tokens);
  });

  test("never runs further ahead than it was asked to, however slow its reader, and does not ask for each token", async () => {
    let asked = 0;
    let came = 0;
    let pulls = 0;
    const tap: Tap = {
      toWorker: (message) => {
        if (!("count" in message)) return;
        asked += message.count as number;
        pulls++;
      },
      toPage: (message) => {
        if (message.type === "item") expect(++came).toBeLessThanOrEqual(asked);
      },
    };
    using opened = await open({}, tap);
    let taken = 0;
    for await (const _ of opened.model.generate(text, { maxTokens: 40, seed: 6 })) {
      taken++;
      expect(asked - taken).toBeLessThanOrEqual(16);
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve)); // in which the worker could run ahead
    }
    expect({ taken, pulls }).toEqual({ taken: 40, pulls: 5 });
  });

  test("throws at once for wrong options, as the direct one does", async () => {
    using opened = await open();
    expect(() => opened.model.generate(text, { temperature: -1 })).toThrow(RangeError);
    expect(() => opened.model.generate([V])).toThrow(/prompt\[0\]/);
    const generation = opened.model.generate(text, { maxTokens: 1 });
    for await (const _ of generation);
    expect(() => generation[Symbol.asyncIterator]()).toThrow(TypeError);
  });
});

test("perplexity in a worker reports progress up to all tokens, and ends with what onProgress throws", async () => {
  using opened = await open();
  const seen: PerplexityProgress[] = [];
  const report = await opened.model.perplexity(text.repeat(20), { onProgress: (progress) => seen.push(progress) });
  expect(seen.at(-1)).toEqual({ scoredTokens: report.scoredTokens, totalTokens: report.scoredTokens, perplexity: expect.closeTo(report.perplexity, 9) as number });
  const thrown = new Error("mine");
  const onProgress = (): void => {
    throw thrown;
  };
  await expect(opened.model.perplexity(text.repeat(20), { onProgress })).rejects.toBe(thrown);
  await expect(opened.model.perplexity(text, { protocol: "none" as "strided" })).rejects.toThrow(RangeError);
  await expect(opened.model.perplexity(tokens)).resolves.toMatchObject({ scoredTokens: tokens.length - 1 });
});

describe("dispose()", () => {
  test("ends the worker once, rejects the call at work, those in the queue and later ones as `disposed`", async () => {
    const { model, worker } = await open();
    const calls = [model.complete(text), model.logits(tokens), model.perplexity(text)];
    const results = Promise.allSettled(calls);
    await using also = model; // disposed of again at the end of the block
    expect(also).toBe(model);
    model.dispose();
    model.dispose();
    for (const result of await results) expect(result).toMatchObject({ status: "rejected", reason: { name: "EngineError", code: "disposed" } });
    await expect(model.logits(tokens)).rejects.toMatchObject({ code: "disposed" });
    expect(worker.terminations).toBe(1);
  });
});

describe("a worker that ends", () => {
  const nonsense: [what: string, message: unknown][] = [
    ["text", "hello"],
    ["nothing", null],
    ["a message of another kind", { type: "ready" }],
    ["an answer to a call that nobody made", { type: "result", id: 99, result: 1, state: null }],
    ["a failure without an error", { type: "failure", id: 0, state: null }],
    ["another version", { type: "hello", version: "0.0.1", holdsLock: false }],
  ];

  test.each<[what: string, end: (worker: PairedWorker) => void]>([
    ["throws", (worker) => worker.dispatchEvent(Object.assign(new Event("error", { cancelable: true }), { message: "boom" }))],
    ["cannot be started", (worker) => worker.dispatchEvent(new Event("error", { cancelable: true }))],
    ["sends what cannot be read", (worker) => worker.dispatchEvent(new MessageEvent("messageerror"))],
    ...nonsense.map(([what, data]): [string, (worker: PairedWorker) => void] => [`sends ${what}`, (worker) => worker.dispatchEvent(new MessageEvent("message", { data }))]),
  ])("because it %s rejects calls at work and later ones as `worker`, and the model is lost", async (_, end) => {
    const { model, worker } = await open();
    await expect(model.logits(tokens)).resolves.toHaveLength(V); // control case
    const running = expect(model.complete(text, { maxTokens: 50 })).rejects.toMatchObject({ name: "EngineError", code: "worker" });
    const waiting = expect(model.perplexity(text)).rejects.toMatchObject({ code: "worker" });
    end(worker);
    await Promise.all([running, waiting]);
    await expect(model.logits(tokens)).rejects.toMatchObject({ code: "worker" });
    await expect(model.lost).resolves.toMatchObject({ code: "worker" });
    expect(worker.terminations).toBe(1);
    model.dispose();
  });

  test("before the model is loaded rejects the load", async () => {
    const { worker, say } = puppet();
    const load = expect(loadModelInWorker(files, { worker })).rejects.toMatchObject({ code: "worker", message: expect.stringContaining('"0.0.1"') as string, details: { found: "0.0.1" } });
    say({ type: "hello", version: "0.0.1", holdsLock: false });
    await load;
  });

  test("rejects the load where the script does not answer for a minute", async () => {
    vi.useFakeTimers();
    const load = expect(loadModelInWorker(files, { worker: puppet().worker })).rejects.toMatchObject({ code: "worker", message: expect.stringContaining("nibble-webgpu/worker") as string });
    await vi.advanceTimersByTimeAsync(60_000);
    await load;
  });

  test("is noticed from the first answer on: none comes before the lock is held that tells of its end", async () => {
    let grant = (): void => undefined;
    const request = (_: string, hold: () => Promise<never>): Promise<never> => new Promise((resolve) => (grant = () => resolve(hold())));
    vi.stubGlobal("navigator", { locks: { request } });
    const types: string[] = [];
    const worker = pairedWorker({ toPage: ({ type }) => types.push(type) });
    worker.postMessage({ type: "hello", lock: "mine" }, []);
    worker.postMessage({ type: "call", id: 0, call: { name: "readTensor", tensor: "wte.weight" } }, []);
    const received = new Set<unknown>();
    worker.inside.addEventListener("message", ({ data }) => received.add(data));
    await vi.waitFor(() => expect(received.size).toBe(2)); // by then an answer would be on its way
    grant();
    await vi.waitFor(() => expect(types).toEqual(["hello", "failure"]));
    worker.terminate();
  });

  test("or whose device is lost for good says so", async () => {
    const { model, worker } = await open();
    worker.dispatchEvent(new MessageEvent("message", { data: { type: "lost", error: sendError(new EngineError("deviceLost", "gone")) } }));
    await expect(model.lost).resolves.toMatchObject({ name: "EngineError", code: "deviceLost", message: "gone" });
    await expect(model.logits(tokens)).resolves.toHaveLength(V); // it is the worker's model that knows
    model.dispose();
  });
});

describe("an error that crosses", () => {
  const codes = Object.keys({ unsupported: 0, network: 0, checkpoint: 0, integrity: 0, quantize: 0, shader: 0, outOfMemory: 0, promptTooLong: 0, deviceLost: 0, storage: 0, disposed: 0, worker: 0 } satisfies Record<EngineErrorCode, 0>) as EngineErrorCode[];
  const cross = (error: unknown): Error => restoreError(structuredClone(sendError(error)));

  test.each(codes)("as EngineError %s keeps code, message, details, stack and cause", (code) => {
    const error = new EngineError(code, "what happened", { tensor: "wte.weight", bytes: [1, 2] }, { cause: new EngineError("network", "why", { status: 404 }) });
    const crossed = cross(error);
    expect(crossed).toBeInstanceOf(EngineError);
    expect(crossed).toMatchObject({ name: "EngineError", code, message: "what happened", details: { tensor: "wte.weight", bytes: [1, 2] }, cause: { name: "EngineError", code: "network", details: { status: 404 } } });
    expect(crossed.stack).toBe(error.stack);
  });

  test.each<[what: string, error: Error, type: typeof Error]>([
    ["TypeError", new TypeError("wrong"), TypeError],
    ["RangeError", new RangeError("wrong"), RangeError],
    ["Error", new Error("wrong"), Error],
    ["AbortError", new DOMException("wrong", "AbortError"), Error],
  ])("as %s stays one", (name, error, type) => {
    const crossed = cross(error);
    expect(crossed).toBeInstanceOf(type);
    expect(crossed).toMatchObject({ name, message: "wrong" });
  });

  test("crosses with details that no message can hold as text, causes that turn in a circle, and things that are no errors", () => {
    const circular = new EngineError("shader", "round", { callback: () => 1, count: 3 });
    circular.cause = circular;
    expect(cross(circular)).toMatchObject({ code: "shader", details: { callback: "a function", count: 3 }, cause: { code: "shader" } });
    expect(cross("thrown text").message).toBe('"thrown text"');
  });
});

describe("compareQuantizationsInWorker", () => {
  const options = { text, recipes: ["int8", { name: "broken", linear: { type: "int8", mode: "absmax", granularity: "channel" }, activations: { type: "int8", ranges: "dynamic" }, outlierThreshold: 1e-30 }], windowTokens: 8, backend: "cpu", samples: true } as const;
  const collect = async (rows: AsyncGenerator<ComparisonRow, Comparison>): Promise<{ rows: ComparisonRow[]; comparison: Comparison }> => {
    const all: ComparisonRow[] = [];
    for (;;) {
      const { done, value } = await rows.next();
      if (done) return { rows: all, comparison: value };
      all.push(value);
    }
  };

  test("gives the rows, samples and comparison of the direct one, and ends its worker", async () => {
    const worker = pairedWorker();
    const direct = await collect(compareQuantizations(files, options));
    const behind = await collect(compareQuantizationsInWorker(files, { ...options, worker }));
    expect(behind.rows.map(untimed)).toEqual(direct.rows.map(untimed));
    expect({ ...behind.comparison, rows: [] }).toEqual({ ...direct.comparison, rows: [] });
    expect(behind.comparison.rows).toEqual(behind.rows);
    expect(worker.terminations).toBe(1);
  });

  test("rests while no row is asked for, and ends its worker when the loop is left", async () => {
    const asked: string[] = [];
    const worker = pairedWorker({ toWorker: ({ type }) => asked.push(type), toPage: ({ type }) => type === "item" && asked.push(type) });
    const rows = compareQuantizationsInWorker(files, { ...options, worker });
    expect((await rows.next()).value).toMatchObject({ name: "f32", ratio: 1 });
    expect(asked).toEqual(["hello", "call", "pull", "item"]);
    await rows.return(undefined as never);
    expect(worker.terminations).toBe(1);
  });

  test("waits before each window for the page, ends at once when aborted meanwhile, and says at the start what rows share", async () => {
    const { comparison } = await collect(compareQuantizations(files, options));
    const { rows: _, ...shared } = comparison;
    const given: unknown[] = [];
    let waits = 0;
    const beforeWindow = async (): Promise<void> => void waits++;
    const behind = await collect(compareQuantizationsInWorker(files, { ...options, worker: pairedWorker(), beforeWindow, onStart: (run) => given.push(run) }));
    expect(behind.rows.map(untimed)).toEqual(comparison.rows.map(untimed));
    expect(given).toEqual([{ ...shared, plannedRows: 3 }]);
    expect(waits).toBeGreaterThan(comparison.windows);

    const reason = { because: "enough" };
    const controller = new AbortController();
    const never = (): Promise<void> => {
      queueMicrotask(() => controller.abort(reason));
      return new Promise(() => undefined);
    };
    const worker = pairedWorker();
    await expect(collect(compareQuantizationsInWorker(files, { ...options, worker, beforeWindow: never, signal: controller.signal }))).rejects.toBe(reason);
    expect(worker.terminations).toBe(1);
    const failing = (): Promise<void> => Promise.reject(new Error("no more"));
    await expect(collect(compareQuantizationsInWorker(files, { ...options, worker: pairedWorker(), beforeWindow: failing }))).rejects.toThrow("no more");
    await expect(collect(compareQuantizationsInWorker(files, { ...options, worker: pairedWorker(), beforeWindow: 1 as never }))).rejects.toThrow("beforeWindow is 1; expected a function.");
  });

  test("rejects with signal.reason, reports progress, and throws for wrong options as the direct one", async () => {
    const controller = new AbortController();
    const reason = { because: "enough" };
    const names: string[] = [];
    const onProgress = ({ name, stage }: { name: string; stage: string }): void => {
      names.push(name);
      if (stage === "score") controller.abort(reason);
    };
    await expect(collect(compareQuantizationsInWorker(files, { ...options, worker: pairedWorker(), signal: controller.signal, onProgress }))).rejects.toBe(reason);
    expect(new Set(names)).toEqual(new Set(["f32"]));
    await expect(collect(compareQuantizationsInWorker(files, { ...options, recipes: ["int9" as "int8"], worker: pairedWorker() }))).rejects.toThrow(/Recipe "int9"/);
  });
});

test("fitToBudgetInWorker finds the recipe that fitToBudget() finds", async () => {
  const options = { text, bitsPerWeight: 8, backend: "cpu", formats: [{ type: "f16" }, { type: "int4", mode: "absmax", granularity: "channel" }], refinements: 0, maxTokens: 16 } as const;
  const worker = pairedWorker();
  expect(await fitToBudgetInWorker(files, { ...options, worker })).toEqual(await fitToBudget(files, options));
  expect(worker.terminations).toBe(1);
});

test("planModelInWorker plans what planModel() plans, and ends its worker", async () => {
  const options = { backend: "cpu", quantization: "nf4", contextLength: 32 } as const;
  const worker = pairedWorker();
  expect(await planModelInWorker(files, { ...options, worker })).toEqual(await planModel(files, options));
  expect(worker.terminations).toBe(1);
});
