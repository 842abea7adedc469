/// <reference types="@webgpu/types" preserve="true" />
/// <reference lib="esnext.disposable" preserve="true" />
import type { EngineError } from "./errors.ts";

// ---------------------------------------------------------------- quantization

/**
 * The stored form of one matrix, taken as `[rows = outputs, columns = inputs]`. Rounding is half to even.
 * - int8, int4, `absmax`: scale = max |w| / 127 (int4: 7), w′ = code · scale; `zeropoint`: scale = (max − min) / 255 (int4: 15), w′ = (code − zeroPoint) · scale.
 *   One scale for the tensor, for each row (`channel`), or for each `group` of consecutive values of a row, whose last group may be shorter.
 * - nf4, fp4: the nearest of bitsandbytes' 16 values times the block's max |w|. doubleQuantization: those maxima in 8 bits, 256 together (QLoRA, arXiv:2305.14314).
 */
export type TensorFormat =
  | { type: "f32" }
  | { type: "f16" }
  | { type: "int8" | "int4"; mode: "absmax" | "zeropoint"; granularity: "tensor" | "channel" | { group: 32 | 64 | 128 } }
  | { type: "nf4" | "fp4"; block: 32 | 64 | 128 | 256; doubleQuantization?: boolean };

/** The inputs of matrices in int8: as they are, or int8 too, with one range per token (`dynamic`) or one per matrix, found by calibration (`static`). */
export type ActivationFormat = "float" | { type: "int8"; ranges: "dynamic" | "static" };

/** How a checkpoint is quantized: a format for every matrix, and how it is found. `wpe`, biases and norms stay f32. What needs calibration says so. */
export interface QuantizationRecipe {
  /** For reports and comparisons; a preset's is its own. */
  name?: string;
  /** `c_attn`, attention `c_proj`, `c_fc` and MLP `c_proj` of every block. */
  linear: TensorFormat;
  /** `wte`, which is the output head too; an untied `lm_head` takes the same format. `wpe`, biases and norms stay f32. @default { type: "f16" } */
  embedding?: TensorFormat;
  /** Static ranges need calibration. @default "float" */
  activations?: ActivationFormat;
  /** "gptq" (arXiv:2210.17323) rounds column by column and makes up for the error in those that follow; it needs calibration. @default "nearest" */
  rounding?: "nearest" | "gptq";
  /** Moves scale between inputs and weights before rounding: SmoothQuant (arXiv:2211.10438) for int8 activations, AWQ (arXiv:2306.00978) for weights. Both need calibration. @default "none" */
  equalization?: "none" | "smoothquant" | "awq";
  /** LLM.int8() (arXiv:2208.07339), beside int8 activations: of each token's input of a matrix, values of at least this magnitude stay f32. With calibration, the columns that had some keep f16 weights for them beside the codes: at most an eighth of a matrix's columns (rounded up), those with the largest inputs on average; elsewhere they meet what the codes restore. @default none */
  outlierThreshold?: number;
  /** GPTQ: quantize columns in the order of falling Hessian diagonal, groups staying where they are. @default false */
  activationOrder?: boolean;
  /** SmoothQuant's α, 0…1: how much of the inputs' range moves into the weights; "search" takes the best for each matrix. @default 0.5 */
  smoothing?: number | "search";
  /** How calibration finds static ranges: the largest magnitude, the 99.99th percentile, or the range of least squared error. @default "minmax" */
  observer?: "minmax" | "percentile" | "mse";
  /** Globs on checkpoint tensor names without `transformer.`: `h.0.*`, `*.mlp.c_proj.weight`. The last match wins. */
  overrides?: Readonly<Record<string, TensorFormat>>;
}

/** A name in `presets`. */
export type PresetName =
  | "f32"
  | "f16"
  | "int8"
  | "int8-zeropoint"
  | "int8-absmax-tensor"
  | "int8-zeropoint-tensor"
  | "int8-dynamic"
  | "int8-static"
  | "llm-int8"
  | "int4"
  | "nf4"
  | "nf4-dq"
  | "fp4";

/** One matrix in its stored form, not yet packed for a device. */
export interface QuantizedTensor {
  format: TensorFormat;
  /** [outputs, inputs]; of an embedding [tokens, width]. */
  shape: readonly [rows: number, columns: number];
  /** [rows · columns], row-major, one element per value: int codes, NF4/FP4 indices 0…15, f16 bits, or f32. */
  codes: Int8Array | Uint8Array | Uint16Array | Float32Array;
  /** f32, one per tensor, channel, group or block, row by row (absmax for NF4/FP4, after double quantization if any); empty for f32 and f16. */
  scales: Float32Array;
  /** i32, beside `scales`; only in zero-point mode. */
  zeroPoints?: Int32Array;
  /**
   * bitsandbytes' nested state: `scales[i] = map[codes[i]] · absmax[i >> 8] + offset` in f32. map: f32 [256], its signed dynamic 8-bit map where absent;
   * a checkpoint made by bitsandbytes brings its own, which torch computed and which may differ in the last place.
   */
  doubleQuantization?: { codes: Uint8Array; absmax: Float32Array; offset: number; map?: Float32Array };
  /** LLM.int8(): weights that outliers among the inputs meet instead of the codes, which serve all other inputs and are what dequantizeTensor() restores. */
  f16Columns?: F16Columns;
  /** Bytes that it occupies packed: codes + scales + zero points (or the double-quantization state) + f16 columns. */
  storedBytes: number;
}

/** Some columns of a matrix of rows [outputs, inputs]. */
export interface F16Columns {
  /** u32, ascending. */
  columns: Uint32Array;
  /** f16 bits [rows, columns.length], row-major. */
  weights: Uint16Array;
}

// ---------------------------------------------------------------- loading

/**
 * Where a checkpoint is: a hub id, "owner/name" or "owner/name@revision"; the URL of a folder or of one .safetensors, relative to the page if it
 * ends with "/" or ".safetensors" or begins with "."; picked or dropped files; or contents by file name.
 * Read are config.json, *.safetensors (and their index), and the tokenizer's files if there are any.
 */
export type ModelSource = string | URL | Iterable<File> | Readonly<Record<string, Blob | ArrayBuffer | Uint8Array>>;

/** How far a load has come. */
export interface LoadProgress {
  stage: "download" | "quantize" | "upload" | "compile" | "calibrate";
  /** The file at work, while downloading. */
  file?: string;
  /** Within the stage (and file), in `unit`. */
  loaded: number;
  /** null where no server said it. */
  total: number | null;
  unit: "bytes" | "tensors" | "pipelines" | "tokens";
  /** 0…1 over the whole load; never falls. */
  fraction: number;
}

/** A model in a cache. */
export interface CacheEntry {
  key: string;
  /** Where the checkpoint came from: `hub openai-community/gpt2@main`, `3 files`. */
  source: string;
  /** The recipe's name; null where it has none. */
  recipe: string | null;
  bytes: number;
  lastUsed: Date;
}

/**
 * Where quantized weights are kept between visits: anything that keeps the body of a Response by a key of 64 hexadecimal digits. It need not be atomic (an
 * entry that is not whole is noticed, and deleted), and a failure of it never fails a load. In the browser's Cache API, whose keys are addresses:
 * `{ match: (key) => cache.match("/" + key), put: (key, entry) => cache.put("/" + key, entry), delete: (key) => cache.delete("/" + key) }`;
 * in memory: `{ match: async (key) => map.has(key) ? new Response(map.get(key)) : undefined, put: async (key, entry) => void map.set(key, await entry.blob()),
 * delete: async (key) => map.delete(key) }`. What is read back is checked for damage, not for malice: it comes from where the page keeps its own data.
 */
export interface ModelCache {
  /** Resolves with the body that was put, undefined where there is none. */
  match(key: string): Promise<Response | undefined>;
  /**
   * Takes the body as fast as it can: the load waits for it. Where the body fails, the load failed, and nothing should be kept.
   * @param about for a list of what is cached; its bytes are what is expected
   */
  put(key: string, entry: Response, about: Pick<CacheEntry, "source" | "recipe" | "bytes">): Promise<void>;
  /** Resolves with whether there was one. */
  delete(key: string): Promise<boolean>;
}

/** Options of loadModel(), all optional. A wrong one throws TypeError or RangeError naming it. */
export interface LoadOptions {
  /** @default what the checkpoint is stored in, where that is quantized; else "int8" */
  quantization?: PresetName | QuantizationRecipe;
  /** @default navigator.gpu. In Node pass `create([])` of the package `webgpu`, and keep it referenced. */
  gpu?: GPU;
  /** Bring your own device; it stays yours to destroy. */
  device?: GPUDevice;
  /** "auto": WebGPU on a real adapter, else "cpu" (WebAssembly SIMD where the page allows it, else plain TypeScript; same results). "webgpu" takes any adapter, software ones too. @default "auto" */
  backend?: "auto" | "webgpu" | "cpu";
  /** @default "f32" under the f32 recipe, else "f16" (packed halves; no device feature needed) */
  kvCache?: "f32" | "f16" | "int8";
  /** Positions the KV cache holds, 1…nPositions. @default config.nPositions */
  contextLength?: number;
  /** For hub ids. endpoint: a mirror's address (@default https://huggingface.co); revision: a branch, tag or commit (@default main); token: sent to the endpoint alone. */
  hub?: { endpoint?: string; revision?: string; token?: string };
  /** Takes the place of the global one. */
  fetch?: typeof fetch;
  /**
   * Where quantized weights are kept, ready to upload, for the next load of the same files by the same recipe; then nothing is downloaded but the answer
   * to whether they have changed, and without a network not even that. What the cache cannot do, a notice of the model's adapter says; no load fails of it.
   * Calibrations, comparisons and searches cache nothing. @default "opfs", the browser's private file system, where there is one
   */
  cache?: "opfs" | "none" | ModelCache;
  /** File name -> "sha256-<hex>": what the file must be, wherever it comes from, or the load fails as `integrity`. Weights from the hub are compared with the hub's own hashes without it. */
  integrity?: Readonly<Record<string, string>>;
  /**
   * Text or tokens, for recipes that need it: static ranges, GPTQ, SmoothQuant, AWQ; LLM.int8() finds the columns of outliers by it. The first 16,384
   * tokens count, in windows of contextLength. What is calibrated is read more than once: a checkpoint from the network is kept in memory meanwhile.
   */
  calibration?: string | readonly number[];
  /**
   * "workers": weights are quantized beside this thread, in up to three workers that end with the load, or on it where no worker starts (Node, a policy
   * without `worker-src 'self'`, file://). "inline": on this thread, with pauses. The same bits either way. @default "workers"
   */
  quantizer?: "workers" | "inline";
  /** Called often, with a fraction that never falls. */
  onProgress?: (progress: LoadProgress) => void;
  /** Ends the load, its transfers included; it rejects with signal.reason. */
  signal?: AbortSignal;
}

// ---------------------------------------------------------------- the model

/** The MLP's activation, by the names of config.json; gelu_new and gelu_pytorch_tanh are the same tanh formula, gelu is the one with erf. */
export type Activation = "gelu_new" | "gelu" | "relu" | "gelu_pytorch_tanh";

/** The fields of config.json that change the arithmetic, camelCase. */
export interface Gpt2Config {
  nLayer: number;
  nHead: number;
  nEmbd: number;
  /** Width of the MLP; 4 · nEmbd where config.json says null or nothing. */
  nInner: number;
  nPositions: number;
  vocabSize: number;
  layerNormEpsilon: number;
  activation: Activation;
  /** Divide attention scores by √(nEmbd / nHead). */
  scaleAttnWeights: boolean;
  /** Also divide the scores of block i by i + 1. */
  scaleAttnByInverseLayerIdx: boolean;
  /** The output head is `wte`; false: `lm_head.weight` is a matrix of its own. */
  tieWordEmbeddings: boolean;
  bosTokenId: number | null;
  eosTokenId: number | null;
}

/** What became of one matrix: its form, and how far the restored weights are from those of the checkpoint (formulas: QuantizationError). */
export interface TensorReport {
  name: string;
  shape: readonly [rows: number, columns: number];
  format: TensorFormat;
  /** Packed: codes + scales + zero points + f16 columns. */
  bytes: number;
  mse: number;
  maxAbs: number;
  sqnrDb: number;
  cosine: number;
  /** What calibration did with the matrix's input; absent where it did nothing. */
  input?: TensorInputReport;
}

/** Each field is present where the recipe makes use of it. */
export interface TensorInputReport {
  /** Static range of int8 activations: the largest magnitude that a code stands for. */
  range?: number;
  /** Which observer chose it. */
  observer?: NonNullable<QuantizationRecipe["observer"]>;
  /** LLM.int8(): share of the calibration's values beyond the outlier threshold; in a comparison without calibration, beside a baseline in f32, of those of the text's first 2,048 tokens. */
  outlierShare?: number;
  /** LLM.int8(): in how many columns they are. */
  outlierColumns?: number;
  /** LLM.int8(): how many of these keep f16 weights for them; absent where none do. */
  f16Columns?: number;
  /** SmoothQuant's or AWQ's α of this matrix: how much of the inputs' range moved into the weights. Absent where a search found no α better than leaving it alone. */
  smoothing?: number;
}

/** Bytes of a model as it is stored, packed but not padded. */
export interface StoredBytes {
  /** Codes of the linear matrices of all blocks. */
  weights: number;
  /** Codes of `wte`, of an untied `lm_head`, and `wpe`. */
  embedding: number;
  /** Scales, zero points, double-quantization state and f16 columns of all matrices, and the f32 biases and norms. */
  scales: number;
  total: number;
}

/** What a recipe made of a checkpoint. */
export interface QuantizationReport {
  recipe: QuantizationRecipe;
  bytes: StoredBytes;
  /** Bits per weight of the blocks' linear matrices, scales, zero points and f16 columns included; the embedding is not in it. */
  bitsPerWeight: number;
  tensors: readonly TensorReport[];
  /** Time spent on quantizing alone, without reading and uploading; 0 where the model came from a cache. */
  quantizeMs: number;
}

/** Live bytes on the device, by purpose; on the CPU backend of its typed arrays, with `staging` what a WebAssembly memory takes beside them. */
export interface MemoryReport {
  weights: number;
  embedding: number;
  scales: number;
  kvCache: number;
  activations: number;
  staging: number;
  total: number;
  peakBytes: number;
}

/** A MemoryReport of a model that was loaded and has done nothing yet. */
export type LoadedBytes = Omit<MemoryReport, "peakBytes">;

/** One thing of a plan that has no room. */
export interface Shortage {
  /** `buffer "h.0.kv"` */
  what: string;
  needBytes: number;
  limitBytes: number;
  /** Whose limit it is: the device's, by its WebGPU name, or the CPU's. */
  limit: "maxBufferSize" | "maxStorageBufferBindingSize" | "WebAssembly.Memory" | "ArrayBuffer";
}

/** Those of loadModel() that a plan depends on. */
export type PlanOptions = Pick<LoadOptions, "quantization" | "gpu" | "device" | "backend" | "kvCache" | "contextLength" | "hub" | "fetch" | "signal">;

/** What loadModel() would make of the same source and options. */
export interface ModelPlan {
  backend: AdapterSummary["backend"];
  recipe: QuantizationRecipe;
  contextLength: number;
  kvCache: NonNullable<LoadOptions["kvCache"]>;
  /**
   * Of the loaded model, to the byte but for three things that only weights and text tell: a zero point that does not fit int8, in a group whose values
   * all have one sign, takes 3 bytes more; LLM.int8()'s f16 columns, which calibration finds, make a matrix larger by about a quarter at most; and on hardware,
   * tuning may change the room for candidates of the next token by 8 bytes per word of the vocabulary.
   */
  memory: LoadedBytes;
  /** Of the weight files; null for a config, and where the server does not tell. */
  downloadBytes: number | null;
  /** Empty: the model fits, as far as limits tell; how much a GPU has left, none does. */
  shortages: readonly Shortage[];
  /** Which would fit with the same context and KV cache. */
  fittingPresets: readonly PresetName[];
  /** The longest context that fits with the same recipe; null where none does. */
  fittingContextLength: number | null;
  /** Why it runs where it does. */
  notices: readonly string[];
}

/** Where the model runs. On the CPU backend the names are empty. */
export interface AdapterSummary {
  backend: "webgpu" | "cpu";
  vendor: string;
  architecture: string;
  description: string;
  isFallback: boolean;
  /** Optional device features that the chosen kernels use. */
  features: readonly string[];
  /** Limits asked for, by their WebGPU names. */
  limits: Readonly<Record<string, number>>;
  /** What the engine decided and why, one sentence each: "Software adapter; using the CPU backend." */
  notices: readonly string[];
}

/** How tokens are chosen and when the text ends. Penalties and logitBias act on logits, then temperature, then topK, topP and minP in this order. */
export interface GenerateOptions {
  /** @default 128 */
  maxTokens?: number;
  /** 0 is greedy; the lowest id wins a tie. @default 1 */
  temperature?: number;
  /** Keep the k likeliest tokens. */
  topK?: number;
  /** Keep the smallest set of likeliest tokens whose probability reaches p, 0 < p ≤ 1. */
  topP?: number;
  /** Keep tokens at least minP times as likely as the likeliest, 0 ≤ minP ≤ 1. */
  minP?: number;
  /** Divide positive and multiply negative logits of tokens seen in prompt or output (CTRL). @default 1 */
  repetitionPenalty?: number;
  /** Subtract it once per earlier occurrence in the output. @default 0 */
  frequencyPenalty?: number;
  /** Subtract it once if the token occurs in the output. @default 0 */
  presencePenalty?: number;
  /** Token id -> added to its logit. */
  logitBias?: Readonly<Record<number, number>>;
  /** Same seed, model, recipe and adapter: same tokens. @default a random one */
  seed?: number;
  /** Generation ends before the first occurrence of any of these. */
  stop?: readonly string[];
  /** Alternatives reported per token, 0…20. @default 0 */
  logProbs?: number;
  signal?: AbortSignal;
}

/** A token and its probability. */
export interface TokenAlternative {
  id: number;
  text: string;
  /** Natural log, under the model's own distribution (before temperature, filters and penalties). */
  logProb: number;
}

/** One token of a generation, as it is yielded. */
export interface GeneratedToken extends TokenAlternative {
  /** The likeliest tokens, as many as `logProbs` asked for. `text` above holds whole characters only: a token that ends inside one gives "" and a later token the character. */
  top?: readonly TokenAlternative[];
}

/** Why a text ended: the end-of-text token, a stop string, maxTokens, a full context, the caller (signal, or leaving the loop), an error. */
export type FinishReason = "endOfText" | "stop" | "maxTokens" | "contextFull" | "cancelled" | "failed";

/** Counts and times of a generation. */
export interface GenerationSummary {
  finishReason: FinishReason;
  promptTokens: number;
  newTokens: number;
  /** From the start until the first token is known. */
  prefillMs: number;
  /** First token to last; a rate is (newTokens − 1) / decodeMs. */
  decodeMs: number;
}

/** A text in the making: iterate it once. Leaving the loop ends it. */
export interface Generation extends AsyncIterable<GeneratedToken> {
  /** Set when the loop ends, however it ends. */
  readonly summary: GenerationSummary | null;
}

/** A finished text: the new tokens, without the prompt. */
export interface Completion extends GenerationSummary {
  text: string;
  tokens: number[];
}

/** How a text is cut into windows, and which of their tokens are scored. */
export interface PerplexityOptions {
  /** "strided": Hugging Face's guide; "disjoint": as GPTQ measures; "llama.cpp": the second half of each window. @default "strided" */
  protocol?: "strided" | "disjoint" | "llama.cpp";
  /** @default nPositions ("llama.cpp": 512, at most nPositions) */
  windowTokens?: number;
  /** "strided" only. @default windowTokens / 2 */
  strideTokens?: number;
  /** Called after each window. */
  onProgress?: (progress: PerplexityProgress) => void;
  signal?: AbortSignal;
}

/** How far a scoring has come, with the value so far. */
export interface PerplexityProgress {
  scoredTokens: number;
  totalTokens: number;
  perplexity: number;
}

/** The perplexity of a text, exp(mean nll), and what it was measured on. */
export interface PerplexityReport {
  perplexity: number;
  /** perplexity · √(var(nll) / (n − 1)), as llama.cpp prints it. */
  standardError: number;
  /** Mean, nats per scored token. */
  nll: number;
  /** null when given tokens. */
  bitsPerByte: number | null;
  scoredTokens: number;
  windows: number;
  protocol: string;
  windowTokens: number;
  strideTokens: number;
}

/** A loaded GPT-2. Calls take turns in the order in which they were made; each rejects with `disposed` after dispose(), with `deviceLost` where the device is gone for good, with signal.reason on abort. */
export interface Model {
  readonly config: Gpt2Config;
  readonly quantization: QuantizationReport;
  readonly memory: MemoryReport;
  readonly adapter: AdapterSummary;
  /** Resolves only if the device is gone and could not be recovered. */
  readonly lost: Promise<EngineError>;
  /** GPT-2 BPE (r50k_base) unless the checkpoint brings its own vocabulary. `<|endoftext|>` is one token unless `specialTokens` is "text". */
  encode(text: string, options?: { specialTokens?: "parse" | "text" }): number[];
  /** UTF-8 of all tokens together; bytes that form no character become U+FFFD. */
  decode(tokens: readonly number[]): string;
  /** Starts when iterated. One generation runs at a time; further ones queue in order. A prompt longer than the context rejects with `promptTooLong`. */
  generate(prompt: string | readonly number[], options?: GenerateOptions): Generation;
  /** Runs generate() to its end and joins the text. */
  complete(prompt: string | readonly number[], options?: GenerateOptions): Promise<Completion>;
  /** f32 [V]: logits after the last of `tokens` (1 ≤ length ≤ contextLength). @throws RangeError for another length or an id outside the vocabulary; EngineError `shader` where a logit is not finite */
  logits(tokens: readonly number[], options?: { signal?: AbortSignal }): Promise<Float32Array>;
  /** f32 [T − 1]: ln p(tokens[i + 1] | tokens[0…i]), nats; `tokens` as for logits(). */
  tokenLogProbs(tokens: readonly number[], options?: { signal?: AbortSignal }): Promise<Float32Array>;
  /** Scores a text, of any length, in windows. @throws TypeError or RangeError for wrong options or a text too short to score */
  perplexity(text: string | readonly number[], options?: PerplexityOptions): Promise<PerplexityReport>;
  /** Frees everything on the device; idempotent. Later calls reject with `disposed`. */
  dispose(): void;
  /** dispose(), for `using`. */
  [Symbol.dispose](): void;
  /** dispose(), for `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
}

// ---------------------------------------------------------------- behind a worker

/** Which worker a call works in, and how its source gets there. */
export interface WorkerStartOptions {
  /**
   * The worker to work in: the address of its script (a copy of the package's `worker.js`, where a bundler or a policy does not let the package find its own),
   * or a module worker that imports `nibble-webgpu/worker`, or a function that starts one. It belongs to this one call, which terminates it in the end.
   * @default the package's own
   */
  worker?: Worker | URL | string | (() => Worker);
  /** Moves the ArrayBuffers of a source into the worker instead of copying them; the page cannot use them any more. Files and Blobs need neither. @default false */
  transfer?: boolean;
}

/** Those that cannot be sent to a worker; there it has a `fetch` and a `navigator.gpu` of its own. */
type PageOnly = "fetch" | "gpu" | "device" | "cache";

/** Options of loadModelInWorker(): of loadModel(), but for what cannot be sent. */
export interface WorkerLoadOptions extends Omit<LoadOptions, PageOnly>, WorkerStartOptions {
  cache?: "opfs" | "none";
}
/** Options of compareQuantizationsInWorker(). */
export interface WorkerCompareOptions extends Omit<CompareOptions, PageOnly>, WorkerStartOptions {
  cache?: "opfs" | "none";
}
/** Options of fitToBudgetInWorker(). */
export interface WorkerFitOptions extends Omit<FitOptions, PageOnly>, WorkerStartOptions {
  cache?: "opfs" | "none";
}

/** Options of planModelInWorker(). */
export interface WorkerPlanOptions extends Omit<PlanOptions, PageOnly>, WorkerStartOptions {}

// ---------------------------------------------------------------- calibration

/** Options of calibrate(): of loadModel(), and the text. */
export interface CalibrateOptions extends Omit<LoadOptions, "quantization" | "calibration" | "kvCache"> {
  /** Text or tokens to run. The first 16,384 tokens count, cut into windows of contextLength; less than a window only where it is the only one. */
  text: string | readonly number[];
  /** Columns with a magnitude beyond it are reported as outliers. @default 6, LLM.int8()'s */
  outlierThreshold?: number;
}

/** What one matrix was given as input: after the layer norm, attention or activation in front of it. */
export interface InputReport {
  /** Checkpoint name of the matrix without `transformer.`. */
  name: string;
  /** Inputs of the matrix. */
  columns: number;
  /** Largest magnitude. */
  absmax: number;
  /** Mean magnitude. */
  meanAbs: number;
  /** What int8 activations with static ranges would be clipped to, by observer. */
  ranges: Readonly<Record<"minmax" | "percentile" | "mse", number>>;
  /** Indices of the columns with a magnitude beyond the threshold, ascending. */
  outlierColumns: readonly number[];
  /** Share of all values that are beyond it. */
  outlierShare: number;
}

/** What the matrices of a model are given as input, over a text. */
export interface CalibrationReport {
  /** Tokens that ran. */
  tokens: number;
  windows: number;
  windowTokens: number;
  outlierThreshold: number;
  /** Of the linear matrices in the order of the layers, then of the head. */
  inputs: readonly InputReport[];
  /** Its notices say what was left out of the text. */
  adapter: AdapterSummary;
}

// ---------------------------------------------------------------- comparison

/** Options of compareQuantizations(): of loadModel() and perplexity(), the text and the recipes. */
export interface CompareOptions extends PerplexityOptionsWithoutProgress, Omit<LoadOptions, "quantization" | "onProgress" | "signal"> {
  text: string | readonly number[];
  recipes: readonly (PresetName | QuantizationRecipe)[];
  /** @default "f32" */
  baseline?: PresetName | QuantizationRecipe;
  /** Scores a part of the windows only; mergeComparisons() joins the parts. @default all windows */
  shard?: Shard;
  /** Keeps what was measured per token, 13 bytes per token and row, in `row.samples`. @default true with a shard, else false */
  samples?: boolean;
  signal?: AbortSignal;
  /** Called often; its fraction starts anew with each row. */
  onProgress?: (progress: CompareProgress) => void;
  /** Called before each window is read (or the few that are read together), and waited for: a run rests until it settles, and ends where it fails. */
  beforeWindow?: () => void | Promise<void>;
  /** Called once, before the first row is given: what all rows have in common, for a use of rows whose run does not end. */
  onStart?: (run: ComparisonRun) => void;
}
/** One of `count` parts of a comparison: window j of the text belongs to the part whose index is j % count. A part may have no window. */
export interface Shard {
  /** 0…count − 1 */
  index: number;
  count: number;
}
/** The protocol alone. */
export type PerplexityOptionsWithoutProgress = Omit<PerplexityOptions, "onProgress" | "signal">;

/** How far a comparison has come. */
export interface CompareProgress {
  /** The recipe at work. */
  name: string;
  /** 0-based, the baseline first. */
  row: number;
  rows: number;
  stage: "load" | "score";
  /** 0…1 within the row. */
  fraction: number;
  scoredTokens: number;
  totalTokens: number;
  /** Running value, once tokens were scored. */
  perplexity: number | null;
}

/** Errors are standard errors as llama.cpp's perplexity tool defines them, NaN where fewer than two tokens were scored; with none, every measure is NaN. */
export interface ComparisonRow {
  name: string;
  recipe: QuantizationRecipe;
  /** Present when the recipe could not run; then the measures are absent (NaN, empty). */
  error?: EngineError;
  bytes: StoredBytes;
  bitsPerWeight: number;
  perplexity: number;
  standardError: number;
  /** null when given tokens. */
  bitsPerByte: number | null;
  /** perplexity / baseline perplexity, with the error of the paired difference of the NLLs. 1 ± 0 for the baseline. */
  ratio: number;
  ratioError: number;
  /** perplexity − baseline perplexity, with the error that their covariance leaves. 0 ± 0 for the baseline. */
  difference: number;
  differenceError: number;
  /** Of the baseline's distribution from this one's, nats per token. */
  klDivergence: { mean: number; error: number; median: number; p90: number; p95: number; p99: number; p999: number; max: number };
  sameTopToken: { fraction: number; error: number };
  /** Of the true next token's probability, this row minus the baseline. */
  deltaP: {
    mean: number;
    error: number;
    rms: number;
    rmsError: number;
    min: number;
    p1: number;
    p5: number;
    p10: number;
    p25: number;
    median: number;
    p75: number;
    p90: number;
    p95: number;
    p99: number;
    max: number;
  };
  quantizeMs: number;
  prefillTokensPerSecond: number;
  decodeTokensPerSecond: number;
  tensors: readonly TensorReport[];
  /** Where `samples` was asked for and the recipe ran. */
  samples?: ComparisonSamples;
}

/** What was measured per scored token, window by window; all arrays are [scoredTokens]. */
export interface ComparisonSamples {
  /** −ln p of the true token, nats, under this recipe and under the baseline. */
  nll: Float32Array;
  baselineNll: Float32Array;
  /** Of the baseline's distribution from this one's, nats. */
  klDivergence: Float32Array;
  /** 1 where both find the same token likeliest. */
  sameTopToken: Uint8Array;
}

/** All rows of a comparison, and everything that they depend on. */
export interface Comparison {
  rows: readonly ComparisonRow[];
  protocol: NonNullable<PerplexityOptions["protocol"]>;
  windowTokens: number;
  strideTokens: number;
  /** Windows and tokens that were scored: of the shard, where this is one. */
  windows: number;
  scoredTokens: number;
  /** UTF-8 of the scored tokens; null when given tokens. */
  scoredBytes: number | null;
  /** null: every window was scored. */
  shard: Shard | null;
  model: {
    /** For people: `hub openai-community/gpt2@main`, `3 files`. */
    source: string;
    config: Gpt2Config;
    /** Of all weights as f32, however they are stored. */
    sha256: string;
  };
  text: TokensIdentity;
  /** null where none was given. */
  calibration: TokensIdentity | null;
  /** As asked for; null: what suits each recipe. */
  kvCache: NonNullable<LoadOptions["kvCache"]> | null;
  /** Version of the package. */
  engineVersion: string;
  adapter: AdapterSummary;
  /** Present where the run has not ended: how many rows there were to be. */
  plannedRows?: number;
}

/** What the rows of one comparison have in common. */
export type ComparisonRun = Omit<Comparison, "rows">;

/** What tells one text from another. */
export interface TokensIdentity {
  tokens: number;
  /** Of the token ids as u32, little-endian; lowercase hex. */
  sha256: string;
}

// ---------------------------------------------------------------- mixed precision

/** Options of fitToBudget(): of loadModel(), the budget and the text. */
export interface FitOptions extends Omit<LoadOptions, "quantization" | "calibration" | "onProgress"> {
  /** What the whole model may take, as QuantizationReport.bytes.total. Either this or bitsPerWeight. */
  bytes?: number;
  /** What the blocks' matrices may take, as QuantizationReport.bitsPerWeight; the embedding then keeps one format. */
  bitsPerWeight?: number;
  /** Text or tokens to measure on, maxTokens of them; the calibration of GPTQ. */
  text: string | readonly number[];
  /** What each matrix may be stored as. @default f16; int8 absmax per channel, with zero points per channel and in groups of 32 and 128; int4 with zero points in groups of 32; NF4 in blocks of 32 and 64 with double quantization */
  formats?: readonly TensorFormat[];
  /** Keeps the embedding (and an untied head) out of the search. @default with `bytes` one of `formats`, with `bitsPerWeight` int8 absmax, per channel */
  embedding?: TensorFormat;
  /** How blocks' matrices are rounded while measuring, and by the recipe that is found. One of "gptq" needs the same text as `calibration` where it is loaded. @default "nearest" */
  rounding?: QuantizationRecipe["rounding"];
  /** In whole windows, spread evenly over the text; at least one. @default 512 */
  maxTokens?: number;
  /** The tokens are measured in windows of so many that do not overlap. @default 256, at most contextLength and the tokens there are */
  windowTokens?: number;
  /** Neighbours of the best recipe that are measured, since sensitivities add up only nearly. @default 8 */
  refinements?: number;
  /** Of an earlier fit of this checkpoint on this text with this rounding, for another budget: what is in it is not measured again. */
  sensitivity?: readonly TensorSensitivity[];
  /** Called after each measurement. */
  onProgress?: (progress: FitProgress) => void;
}

/** How far a search has come. */
export interface FitProgress {
  /** "sensitivity": one matrix in one format after the other; "recipes": whole models. */
  stage: "load" | "sensitivity" | "recipes";
  /** The tensor or recipe at work; "" while loading. */
  name: string;
  /** 0…1 over the whole search; never falls. */
  fraction: number;
}

/** What one matrix costs in one format, all others being f32. */
export interface TensorSensitivity {
  tensor: string;
  format: TensorFormat;
  /** Packed: codes + scales + zero points. */
  bytes: number;
  /** Mean KL divergence from the f32 model, nats per token. */
  klDivergence: number;
}

/** One recipe and what it costs. */
export interface FitPoint {
  recipe: QuantizationRecipe;
  /** Of the whole model, as QuantizationReport.bytes.total. */
  bytes: number;
  /** Of the blocks' matrices, as QuantizationReport.bitsPerWeight. */
  bitsPerWeight: number;
  /** Sum of the sensitivities of its matrices, nats per token. */
  predictedKlDivergence: number;
  /** Measured: mean KL divergence from the f32 model, nats per token; null where it was not measured. */
  klDivergence: number | null;
}

/** The recipe that fits the budget best, and what was learned on the way. */
export interface BudgetFit extends FitPoint {
  klDivergence: number;
  /** The least predicted divergence for some sizes, from the smallest recipe to the best, ascending in bytes; a few are measured. */
  frontier: readonly FitPoint[];
  /** Each format alone, as far as it fits the budget, all measured; with `bytes` also beside an int8 embedding. None is better than the fit. */
  uniform: readonly FitPoint[];
  sensitivity: readonly TensorSensitivity[];
  /** Tokens that each measurement scored. */
  scoredTokens: number;
}
