import type { EngineError } from "../../src/errors.ts";
import { resolveGenerateOptions } from "../../src/generate/options.ts";
import { Sampler } from "../../src/generate/sampler.ts";
import { exportSafetensors } from "../../src/load/exportSafetensors.ts";
import { loadModel } from "../../src/load/loadModel.ts";
import { presets } from "../../src/quantize/recipes.ts";
import type { GenerateOptions, LoadProgress, Model, ModelSource, PerplexityProgress, PresetName, QuantizationRecipe, WorkerLoadOptions } from "../../src/types.ts";
import { byteVocabulary } from "../fixtures/byteTokenizer.ts";
import { outlierCheckpoint, seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";
import { kvRoundings, logSoftmax, referenceLogits, referencePerplexity } from "../reference/gpt2.ts";
import { maxAbsError } from "../reference/metrics.ts";
import { dequantizedWeights, inputRoundingOf, referenceCheckpoint } from "../reference/weights.ts";
import { tolerances } from "../tolerances.ts";
import { formulaTokens, rejectionOf, requireAtMost, requireEqual, type ConformanceCase, type Load } from "./case.ts";

// Cases over the public Model: the same for loadModel() and loadModelInWorker(), on the CPU and on WebGPU.
type ModelCase = ConformanceCase<Load>;
type Files = Readonly<Record<string, Uint8Array<ArrayBuffer>>>;

const context300 = seededCheckpoint(tinyCheckpoints.context300);
const endOfTextId = 7;
/** What most cases load: its kernels are compiled once, and a vocabulary of its own takes text. */
const files = { ...seededCheckpoint({ ...tinyCheckpoints.width100, eosTokenId: endOfTextId }), ...byteVocabulary };
const { vocabSize: V, nPositions } = tinyCheckpoints.width100;
const prompt = formulaTokens(20, V);
const text = "the dog ran over the hill";
const reason = { because: "enough" };

// ---------------------------------------------------------------- numbers

interface AgreementOptions {
  /** Of the text that is scored. */
  tokens: number;
  /** Of the prompt that is continued. */
  promptTokens: number;
  tolerance?: number;
}

/** Logits, log-probabilities, and the alternatives of each token that is drawn, against the oracle on the weights, roundings and ranges that the model reports. */
async function agreesWithOracle(load: Load, checkpoint: Files, options: WorkerLoadOptions, { tokens: count, promptTokens, tolerance = tolerances.logit }: AgreementOptions): Promise<string> {
  using model = await load(checkpoint, options);
  const { config, weights } = referenceCheckpoint(checkpoint);
  const { recipe, tensors } = model.quantization;
  const ranges = Object.fromEntries(tensors.flatMap(({ name, input }) => (input?.range === undefined ? [] : [[name, input.range]])));
  const restored = dequantizedWeights(weights, recipe);
  const roundings = { ...(options.kvCache && { kvRounding: kvRoundings[options.kvCache] }), ...(recipe.activations && { inputRounding: inputRoundingOf(recipe, ranges) }) };
  const oracle = (tokens: readonly number[]): Float64Array[] => {
    const logits = referenceLogits(config, restored, tokens, roundings);
    return tokens.map((_, t) => logits.subarray(t * config.vocabSize, (t + 1) * config.vocabSize));
  };

  const tokens = formulaTokens(count, config.vocabSize);
  const rows = oracle(tokens);
  const found: string[] = [];
  for (const length of [1, count]) found.push(requireAtMost(`logits after ${length}`, maxAbsError(await model.logits(tokens.slice(0, length)), rows[length - 1]!), tolerance));
  const scores = tokens.slice(1).map((token, t) => logSoftmax(rows[t]!)[token]!);
  found.push(requireAtMost("scores", maxAbsError(await model.tokenLogProbs(tokens), scores), 2 * tolerance));

  const written = tokens.slice(0, promptTokens);
  const ranked: { id: number; logProb: number }[][] = [];
  for await (const { id, logProb, top } of model.generate(written.slice(), { temperature: 0, logProbs: 20, maxTokens: Math.min(8, config.nPositions - promptTokens + 1) })) {
    written.push(id);
    ranked.push([{ id, logProb }, ...top!]);
  }
  const drawn = oracle(written.slice(0, -1)).slice(promptTokens - 1).map(logSoftmax);
  requireEqual("tokens drawn", ranked.length, drawn.length);
  const errors = ranked.flatMap((tokens, i) => tokens.map(({ id, logProb }) => Math.abs(logProb - drawn[i]![id]!)));
  found.push(requireAtMost("drawn", Math.max(...errors), 2 * tolerance));

  const { memory } = model;
  requireEqual("live bytes", memory.total, memory.weights + memory.embedding + memory.scales + memory.kvCache + memory.activations + memory.staging);
  return found.join(", ");
}

const presetCases = (Object.keys(presets) as PresetName[]).map((quantization): ModelCase => {
  const { activations = "float", outlierThreshold } = presets[quantization];
  const name = outlierThreshold === undefined ? "width100" : "outliers";
  return {
    name: `${name} as ${quantization} agrees with the oracle on its dequantized weights`,
    run: (load) => {
      const checkpoint = seededCheckpoint(name === "outliers" ? outlierCheckpoint : tinyCheckpoints.width100);
      const isStatic = activations !== "float" && activations.ranges === "static";
      const options = { quantization, kvCache: "f32", ...(isStatic && { calibration: formulaTokens(64, V) }) } as const;
      return agreesWithOracle(load, checkpoint, options, { tokens: 40, promptTokens: 10, ...(activations !== "float" && { tolerance: tolerances.logitActivationsInt8 }) });
    },
  };
});

const numberCases: readonly ModelCase[] = [
  ...([["oneLayer", "int8", 8, 1], ["context300", "f32", 300, 293]] as const).map(([name, quantization, tokens, promptTokens]): ModelCase => ({
    name: `${name} as ${quantization} agrees with the oracle up to its last position`,
    run: (load) => agreesWithOracle(load, seededCheckpoint(tinyCheckpoints[name]), { quantization, kvCache: "f32" }, { tokens, promptTokens }),
  })),
  ...([["f16", tolerances.logitKvF16], ["int8", tolerances.logitKvInt8]] as const).map(([kvCache, tolerance]): ModelCase => ({
    name: `context300 with an ${kvCache} KV cache agrees with the oracle under the same rounding`,
    run: (load) => agreesWithOracle(load, context300, { quantization: "f32", kvCache }, { tokens: 150, promptTokens: 145, tolerance }),
  })),
  {
    name: "perplexity is the oracle's under each protocol, of windows side by side too, and reports its progress",
    run: async (load) => {
      using model = await load(context300, { quantization: "f32" });
      const { config, weights } = referenceCheckpoint(context300);
      const tokens = formulaTokens(250, config.vocabSize);
      let worst = 0;
      for (const [protocol, windowTokens, strideTokens] of [["strided", 100, 40], ["disjoint", 53, 53], ["llama.cpp", 40, 40]] as const) {
        const seen: PerplexityProgress[] = [];
        const report = await model.perplexity(tokens, { protocol, windowTokens, ...(protocol === "strided" && { strideTokens }), onProgress: (progress) => seen.push(progress) });
        const { perplexity, standardError, nlls, windows } = referencePerplexity(config, weights, tokens, { protocol, windowTokens, strideTokens });
        const { scoredTokens } = report;
        requireEqual(`report of ${protocol}`, [scoredTokens, report.windows, report.protocol, report.windowTokens, report.bitsPerByte], [nlls.length, windows, protocol, windowTokens, null]);
        requireEqual(`last progress of ${protocol}`, [seen.at(-1)?.scoredTokens, seen.at(-1)?.totalTokens], [scoredTokens, scoredTokens]);
        requireAtMost("standard error", Math.abs(report.standardError / standardError - 1), 10 * tolerances.meanNll);
        worst = Math.max(worst, Math.abs(report.perplexity / perplexity - 1));
      }
      return requireAtMost("perplexity", worst, tolerances.meanNll);
    },
  },
  {
    name: "exported and loaded again it has the same bytes and logits, and the bytes that the CPU exports here",
    run: async (load) => {
      const small = seededCheckpoint({ nLayer: 1, nHead: 2, nEmbd: 64, nPositions: 9, vocabSize: 131 });
      const quantization: QuantizationRecipe = {
        name: "a little of each",
        linear: { type: "nf4", block: 32, doubleQuantization: true },
        embedding: { type: "int8", mode: "zeropoint", granularity: { group: 32 } },
        overrides: { "*.attn.c_proj.weight": { type: "f16" }, "*.mlp.c_proj.weight": { type: "fp4", block: 64 } },
      };
      const run = async (loading: Promise<Model>): Promise<{ file: Uint8Array<ArrayBuffer>; logits: number[] }> => {
        using model = await loading;
        const file = await new Response(exportSafetensors(model) as ReadableStream<Uint8Array<ArrayBuffer>>).arrayBuffer();
        return { file: new Uint8Array(file), logits: [...(await model.logits(formulaTokens(9, 131)))] };
      };
      const first = await run(load(small, { quantization }));
      const again = await run(load({ ...small, "model.safetensors": first.file }));
      const onCpu = await run(loadModel(small, { backend: "cpu", cache: "none", quantization }));
      requireEqual("exported again", [...again.file], [...first.file]);
      requireEqual("the CPU's export", [...onCpu.file], [...first.file]);
      requireEqual("logits when loaded again", again.logits, first.logits);
      return `${first.file.length} bytes`;
    },
  },
];

// ---------------------------------------------------------------- generation

const samplings: readonly GenerateOptions[] = [
  { temperature: 0 },
  { temperature: 0, repetitionPenalty: 1.3, logProbs: 2 },
  { seed: 3, topK: 40, topP: 0.9 },
  { seed: 4, temperature: 2, minP: 0.05, frequencyPenalty: 0.7, presencePenalty: 0.4 },
  { seed: 5, logitBias: { 26: 2, 11: -Infinity } },
];

/** Ways to leave a loop over tokens at the first. Each gives the generation's summary, having seen that the loop throws what it should. */
export const leavings: Readonly<Record<string, (model: Model, prompt: string | readonly number[]) => Promise<unknown>>> = {
  async break(model, prompt) {
    const generation = model.generate(prompt, { seed: 1 });
    for await (const _ of generation) break;
    return generation.summary;
  },
  async throw(model, prompt) {
    const generation = model.generate(prompt, { seed: 1 });
    const loop = async (): Promise<void> => {
      for await (const _ of generation) throw reason;
    };
    requireEqual("what the loop throws is ours", (await rejectionOf("throw", loop())) === reason, true);
    return generation.summary;
  },
  async abort(model, prompt) {
    const controller = new AbortController();
    const generation = model.generate(prompt, { seed: 1, signal: controller.signal });
    const loop = async (): Promise<void> => {
      for await (const _ of generation) controller.abort(reason);
    };
    requireEqual("the reason is the very object", (await rejectionOf("abort", loop())) === reason, true);
    return generation.summary;
  },
};

const generationCases: readonly ModelCase[] = [
  {
    name: "draws what the sampler draws from the oracle's logits, under every option",
    run: async (load) => {
      using model = await load(files, { quantization: "int8", kvCache: "f32" });
      const { config, weights } = referenceCheckpoint(files);
      const restored = dequantizedWeights(weights, presets.int8);
      for (const options of samplings) {
        const { tokens } = await model.complete(prompt, { maxTokens: 12, ...options });
        const rows = tokens.map((_, i) => prompt.length - 1 + i);
        const logits = referenceLogits(config, restored, [...prompt, ...tokens.slice(0, -1)], { rows });
        const sampler = new Sampler(V, resolveGenerateOptions(options, V), prompt);
        requireEqual(JSON.stringify(options), tokens, rows.map((_, i) => sampler.sample(Float32Array.from(logits.subarray(i * V, (i + 1) * V))).id));
      }
      return `${samplings.length} ways`;
    },
  },
  {
    name: "ends a text for each reason, and streams the text that its tokens decode to",
    run: async (load) => {
      using model = await load(files, { contextLength: 24 });
      const [a, always] = [model.encode("a")[0]!, { temperature: 0, logitBias: { [model.encode("a")[0]!]: 1000 } }];
      const ended = async (tokens: number[], options: GenerateOptions): Promise<unknown[]> => {
        const { finishReason, promptTokens, newTokens, ...completion } = await model.complete(tokens, options);
        return [finishReason, promptTokens, newTokens, completion.text];
      };
      requireEqual("at maxTokens", await ended([a], { ...always, maxTokens: 5 }), ["maxTokens", 1, 5, "aaaaa"]);
      requireEqual("at a stop string", await ended([a], { ...always, stop: ["aaa"] }), ["stop", 1, 3, ""]);
      requireEqual("at the end of text", await ended([a], { logitBias: { [endOfTextId]: 1000 } }), ["endOfText", 1, 0, ""]);
      requireEqual("where the context is full", await ended(new Array<number>(20).fill(a), always), ["contextFull", 20, 5, "aaaaa"]); // the last is drawn from the last position
      const options = { seed: 2, temperature: 3, maxTokens: 18, logitBias: { [endOfTextId]: -Infinity } };
      const { tokens } = await model.complete(text.slice(0, 4), options);
      const generation = model.generate(text.slice(0, 4), options);
      let streamed = "";
      const ids: number[] = [];
      for await (const token of generation) {
        streamed += token.text;
        ids.push(token.id);
        await new Promise((resolve) => setTimeout(resolve)); // in which a worker runs ahead
      }
      requireEqual("streamed tokens", ids, tokens);
      requireEqual("streamed text", streamed, model.decode(tokens));
      requireEqual("summary", [generation.summary?.finishReason, generation.summary?.newTokens], ["maxTokens", 18]);
      const error = await rejectionOf("a prompt beyond the context", model.complete(new Array<number>(25).fill(a)));
      requireEqual("a prompt beyond the context", described(error), { name: "EngineError", code: "promptTooLong", details: { promptTokens: 25, contextLength: 24 } });
      return "contextFull, endOfText, maxTokens, stop";
    },
  },
  ...Object.entries(leavings).map(([way, leave]): ModelCase => ({
    name: `a generation that is left by ${way} leaves the model free, and the next one is whole`,
    run: async (load) => {
      using model = await load(files);
      const expected = await model.complete(prompt, { maxTokens: 12, seed: 2 });
      const { finishReason, newTokens } = (await leave(model, prompt)) as { finishReason: string; newTokens: number };
      requireEqual("summary", [finishReason, newTokens], ["cancelled", 1]);
      requireEqual("the next one", (await model.complete(prompt, { maxTokens: 12, seed: 2 })).tokens, expected.tokens);
      return `${expected.tokens.length} tokens`;
    },
  })),
];

// ---------------------------------------------------------------- calls, errors, ends

/** An error's class, and what an EngineError says as fields. */
function described(error: unknown): object {
  const { constructor, code, details } = error as EngineError;
  return { name: constructor.name, code, details };
}

/** "config.json" and the weights, of which one value is not a number. */
function withNaN(): Files {
  const bytes = files["model.safetensors"].slice();
  const headerBytes = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + headerBytes))) as Record<string, { data_offsets: [number, number] }>;
  bytes.set([0xc0, 0x7f], 8 + headerBytes + header["h.1.mlp.c_fc.weight"]!.data_offsets[0] + 6); // BF16 NaN, fourth value
  return { ...files, "model.safetensors": bytes };
}

/** Weights that are finite, and give no finite number. */
const overflowing = seededCheckpoint({ ...tinyCheckpoints.width100, outliers: { channels: [3], gain: 3e38 } });

const wrongLoads: readonly [what: string, source: unknown, options: object, name: string, code?: string, details?: object][] = [
  ["an unknown preset", files, { quantization: "int9" }, "TypeError"],
  ["a backend of another name", files, { backend: "gpu" }, "TypeError"],
  ["an onProgress that is no function", files, { onProgress: 7 }, "TypeError"],
  ["a signal that is none", files, { signal: {} }, "TypeError"],
  ["a number as the source", 7, {}, "TypeError"],
  ["nothing as the source", undefined, {}, "TypeError"],
  ["an empty name as the source", "", {}, "TypeError"],
  ["a context beyond the model's positions", files, { contextLength: nPositions + 1 }, "RangeError"],
  ["a context of no tokens", files, { contextLength: 0 }, "RangeError"],
  ["a context that is text", files, { contextLength: "8" }, "TypeError"],
  ["a fetch that is no function", files, { fetch: "https://example.com" }, "TypeError"],
  ["a hub that is no object", files, { hub: "https://example.com" }, "TypeError"],
  ["a revision that is no text", files, { hub: { revision: 1 } }, "TypeError"],
  ["an override that matches nothing", files, { quantization: { linear: { type: "f16" }, overrides: { "h.9.*": { type: "f32" } } } }, "RangeError"],
  ["a checkpoint without weights", { "config.json": files["config.json"] }, {}, "EngineError", "checkpoint"],
  ["weights that end early", { ...files, "model.safetensors": files["model.safetensors"].slice(0, -5) }, {}, "EngineError", "checkpoint"],
  ["a file that is not the one promised", files, { integrity: { "config.json": `sha256-${"0".repeat(64)}` } }, "EngineError", "integrity"],
  ["a weight that is not a number", withNaN(), {}, "EngineError", "checkpoint", { tensor: "h.1.mlp.c_fc.weight", index: [0, 3] }],
];

const wrongCalls: readonly [what: string, call: (model: Model) => Promise<unknown>, name: string][] = [
  ["no tokens", (model) => model.logits([]), "RangeError"],
  ["more tokens than positions", (model) => model.logits(formulaTokens(nPositions + 1, V)), "RangeError"],
  ["a token beyond the vocabulary", (model) => model.logits([1, V]), "RangeError"],
  ["a fraction as a token", (model) => model.tokenLogProbs([1, 2.5]), "RangeError"],
  ["a window of one token", (model) => model.perplexity(prompt, { windowTokens: 1 }), "RangeError"],
  ["a stride wider than the window", (model) => model.perplexity(prompt, { windowTokens: 8, strideTokens: 9 }), "RangeError"],
  ["another protocol", (model) => model.perplexity(prompt, { protocol: "none" as "strided" }), "RangeError"],
  ...(["logits", "tokenLogProbs", "perplexity"] as const).map((call): (typeof wrongCalls)[number] => [`a signal that is none for ${call}`, async (model) => model[call](prompt, { signal: {} as AbortSignal }), "TypeError"]),
  ["an onProgress that is no function", (model) => model.perplexity(prompt, { onProgress: 5 as never }), "TypeError"],
  ["a temperature below zero", async (model) => model.complete(prompt, { temperature: -1 }), "RangeError"],
];

/** Aborted at once, before their turn or at work, and before where there is nothing to compute. */
const abortedCalls: Readonly<Record<string, (model: Model, controller: AbortController) => Promise<unknown>>> = {
  logits: (model, controller) => abortedNow(model.logits(prompt, { signal: controller.signal }), controller),
  tokenLogProbs: (model, controller) => abortedNow(model.tokenLogProbs(prompt, { signal: controller.signal }), controller),
  perplexity: (model, controller) => model.perplexity(formulaTokens(400, V), { signal: controller.signal, onProgress: () => controller.abort(reason) }),
  "tokenLogProbs of one token": (model) => model.tokenLogProbs([1], { signal: AbortSignal.abort(reason) }),
  "complete without tokens": (model) => model.complete(prompt, { maxTokens: 0, signal: AbortSignal.abort(reason) }),
};

function abortedNow<T>(call: Promise<T>, controller: AbortController): Promise<T> {
  controller.abort(reason);
  return call;
}

const callCases: readonly ModelCase[] = [
  {
    name: "loads with progress that never falls and ends at 1, and with signal.reason when aborted before it or during it",
    run: async (load) => {
      const seen: LoadProgress[] = [];
      using _ = await load(files, { onProgress: (progress) => seen.push(progress) });
      const fractions = seen.map(({ fraction }) => fraction);
      requireEqual("fractions", fractions, fractions.toSorted((a, b) => a - b));
      requireEqual("the last fraction", fractions.at(-1), 1);
      for (const stage of ["download", "quantize", "compile"]) requireEqual(`reports of ${stage}`, seen.some((progress) => progress.stage === stage), true);
      requireEqual("the reason is the very object", (await rejectionOf("aborted before", load(files, { signal: AbortSignal.abort(reason) }))) === reason, true);
      const controller = new AbortController();
      const during = load(files, { signal: controller.signal, onProgress: ({ fraction }) => fraction > 0.3 && controller.abort(reason) });
      requireEqual("the reason is the very object", (await rejectionOf("aborted during", during)) === reason, true);
      return `${seen.length} reports`;
    },
  },
  {
    name: "rejects wrong sources and options with their class, code and details, and loads right ones after them",
    run: async (load) => {
      for (const [what, source, options, ...[name, code, details]] of wrongLoads) {
        const found = await rejectionOf(what, load(source as ModelSource, options));
        requireEqual(what, described(found), { name, code, details: details ?? (found as EngineError).details });
      }
      using model = await load(files); // control case
      return `${wrongLoads.length} rejections, ${(await model.logits([1])).length} logits`;
    },
  },
  {
    name: "rejects wrong calls with their class, and answers right ones after them",
    run: async (load) => {
      using model = await load(files);
      const expected = await model.logits(prompt); // control case
      for (const [what, call, name] of wrongCalls) requireEqual(what, described(await rejectionOf(what, call(model))), { name });
      requireEqual("logits after them", await model.logits(prompt), expected);
      requireEqual("scores of one token", (await model.tokenLogProbs([3])).length, 0);
      return `${wrongCalls.length} rejections`;
    },
  },
  ...Object.entries(abortedCalls).map(([name, call]): ModelCase => ({
    name: `${name} rejects with signal.reason when aborted, and the next call works`,
    run: async (load) => {
      using model = await load(files);
      const expected = await model.logits(prompt);
      requireEqual("the reason is the very object", (await rejectionOf(name, call(model, new AbortController()))) === reason, true);
      requireEqual("logits after it", await model.logits(prompt), expected);
      return "bit-identical";
    },
  })),
  {
    name: "rejects with `shader` where finite weights give no finite number",
    run: async (load) => {
      using model = await load(overflowing, { quantization: "f32" });
      const calls = [model.logits(prompt), model.tokenLogProbs(prompt), model.complete(prompt), model.perplexity(prompt)];
      for (const call of calls) requireEqual("code", ((await rejectionOf("overflow", call)) as EngineError).code, "shader");
      return `${calls.length} rejections`;
    },
  },
  {
    name: "is free again after the abort of a loop that nobody goes on with",
    run: async (load) => {
      using model = await load(files);
      const controller = new AbortController();
      const iterator = model.generate(prompt, { signal: controller.signal })[Symbol.asyncIterator]();
      await iterator.next();
      const waiting = model.logits(prompt);
      controller.abort(reason);
      requireEqual("logits", (await waiting).length, V);
      const rest = async (): Promise<void> => {
        while (!(await iterator.next()).done);
      };
      requireEqual("the reason is the very object", (await rejectionOf("the loop", rest())) === reason, true);
      return "free";
    },
  },
  {
    name: "lets calls made together take turns, on the tokens that each was given",
    run: async (load) => {
      using model = await load(files);
      const options = { temperature: 0, maxTokens: 8 };
      const [tokens, logits] = [(await model.complete(prompt, options)).tokens, await model.logits(prompt)];
      const order: string[] = [];
      const turn = async <T>(name: string, call: Promise<T>): Promise<T> => {
        const result = await call;
        order.push(name);
        return result;
      };
      const mine = [...prompt];
      const calls = [turn("first", model.complete(prompt, options)), turn("logits", model.logits(mine)), turn("second", model.complete(prompt, options))] as const;
      mine.fill(V + 1); // the caller's own again
      const [first, between, second] = await Promise.all(calls);
      requireEqual("order", order, ["first", "logits", "second"]);
      requireEqual("tokens", [first.tokens, second.tokens], [tokens, tokens]);
      requireEqual("logits", between, logits);
      return "bit-identical";
    },
  },
  {
    name: "leaves another model alone, at work and when it is disposed of",
    run: async (load) => {
      using model = await load(files);
      const other = await load(files, { quantization: "nf4" });
      const expected = [await model.logits(prompt), await other.logits(prompt)];
      requireEqual("the recipes' logits differ", String(expected[0]) === String(expected[1]), false);
      requireEqual("logits of both at once", await Promise.all([model.logits(prompt), other.logits(prompt)]), expected);
      const { tokens } = await model.complete(prompt, { seed: 6, maxTokens: 10 });
      const running = model.complete(prompt, { seed: 6, maxTokens: 10 });
      other.dispose();
      requireEqual("tokens", (await running).tokens, tokens);
      return "bit-identical";
    },
  },
  {
    name: "disposed of at work it rejects running, waiting and later calls as `disposed`, holds no bytes, and is not lost",
    run: async (load) => {
      const model = await load(files);
      const generation = model.generate(prompt, { maxTokens: 40, logitBias: { [endOfTextId]: -Infinity } });
      let waiting: Promise<unknown> = Promise.resolve();
      const loop = async (): Promise<void> => {
        for await (const _ of generation) {
          if (model.memory.total === 0) continue;
          waiting = rejectionOf("waiting", model.logits(prompt));
          model.dispose();
          model.dispose();
        }
      };
      const errors = [await rejectionOf("running", loop()), await waiting];
      const later = [model.perplexity(prompt), model.logits(prompt), model.tokenLogProbs([1]), model.complete(prompt, { maxTokens: 0 })];
      for (const call of later) errors.push(await rejectionOf("later", call));
      for (const error of errors) requireEqual("error", described(error), { name: "EngineError", code: "disposed", details: {} });
      requireEqual("finishReason", generation.summary?.finishReason, "failed");
      requireEqual("live bytes", model.memory.total, 0);
      requireEqual("lost", await Promise.race([model.lost, Promise.resolve("no")]), "no");
      return `${errors.length} rejections`;
    },
  },
];

export const modelCases: readonly ModelCase[] = [...presetCases, ...numberCases, ...generationCases, ...callCases];
