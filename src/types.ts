/// <reference types="@webgpu/types" preserve="true" />
/// <reference lib="esnext.disposable" preserve="true" />
import type { EngineError } from "./errors.ts";

// ---------------------------------------------------------------- quantization

/** The stored form of one matrix, taken as `[rows = outputs, columns = inputs]`. */
export type TensorFormat =
  | { type: "f32" }
  | { type: "f16" }
  | { type: "int8" | "int4"; mode: "absmax" | "zeropoint"; granularity: "tensor" | "channel" | { group: 32 | 64 | 128 } }
  | { type: "nf4" | "fp4"; block: 32 | 64 | 128 | 256; doubleQuantization?: boolean };

export type ActivationFormat = "float" | { type: "int8"; ranges: "dynamic" | "static" };

export interface QuantizationRecipe {
  name?: string;
  /** `c_attn`, attention `c_proj`, `c_fc` and MLP `c_proj` of every block. */
  linear: TensorFormat;
  /** `wte`, which is the output head too; an untied `lm_head` takes the same format. `wpe`, biases and norms stay f32. @default { type: "f16" } */
  embedding?: TensorFormat;
  /** @default "float" */
  activations?: ActivationFormat;
  /** @default "nearest" */
  rounding?: "nearest" | "gptq";
  /** @default "none" */
  equalization?: "none" | "smoothquant" | "awq";
  /** LLM.int8(), beside int8 activations: of each token's input of a matrix, values of at least this magnitude stay f32. @default none */
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

export interface QuantizedTensor {
  format: TensorFormat;
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
  /** What it occupies packed: codes + scales + zero points (or the double-quantization state). */
  storedBytes: number;
}

// ---------------------------------------------------------------- loading

export type ModelSource =
  | string // hub id "owner/name" or "owner/name@revision"; or the URL of a folder or of one .safetensors
  | URL
  | Iterable<File> // picked or dropped files: config.json, *.safetensors (+ index), tokenizer files if any
  | Readonly<Record<string, Blob | ArrayBuffer | Uint8Array>>; // file name -> content

export interface LoadProgress {
  stage: "download" | "quantize" | "upload" | "compile" | "calibrate";
  file?: string;
  loaded: number;
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
  hub?: { endpoint?: string; revision?: string; token?: string };
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
   * Text or tokens, for recipes that need it: static ranges, GPTQ, SmoothQuant, AWQ; with LLM.int8() the share of outliers is reported. The first 16,384
   * tokens count, in windows of contextLength. What is calibrated is read more than once: a checkpoint from the network is kept in memory meanwhile.
   */
  calibration?: string | readonly number[];
  /**
   * "workers": weights are quantized beside this thread, in up to three workers that end with the load, or on it where no worker starts (Node, a policy
   * without `worker-src 'self'`, file://). "inline": on this thread, with pauses. The same bits either way. @default "workers"
   */
  quantizer?: "workers" | "inline";
  onProgress?: (progress: LoadProgress) => void;
  signal?: AbortSignal;
}

// ---------------------------------------------------------------- the model

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

export interface TensorReport {
  name: string;
  shape: readonly [rows: number, columns: number];
  format: TensorFormat;
  /** Packed: codes + scales + zero points. */
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
  /** LLM.int8(): share of the calibration's values beyond the outlier threshold. */
  outlierShare?: number;
  /** LLM.int8(): in how many columns they are. */
  outlierColumns?: number;
  /** SmoothQuant's or AWQ's α of this matrix: how much of the inputs' range moved into the weights. */
  smoothing?: number;
}

export interface StoredBytes {
  /** Codes of the linear matrices of all blocks. */
  weights: number;
  /** Codes of `wte`, of an untied `lm_head`, and `wpe`. */
  embedding: number;
  /** Scales, zero points and double-quantization state of all matrices, and the f32 biases and norms. */
  scales: number;
  total: number;
}

export interface QuantizationReport {
  recipe: QuantizationRecipe;
  bytes: StoredBytes;
  /** Bits per weight of the blocks' linear matrices, scales and zero points included; the embedding is not in it. */
  bitsPerWeight: number;
  tensors: readonly TensorReport[];
  /** 0 where the model came from a cache. */
  quantizeMs: number;
}

/** Live bytes on the device (on the CPU backend: of its typed arrays), by purpose. */
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

export interface TokenAlternative {
  id: number;
  text: string;
  /** Natural log, under the model's own distribution (before temperature, filters and penalties). */
  logProb: number;
}

export interface GeneratedToken extends TokenAlternative {
  /** `text` holds whole characters only: a token that ends inside one gives "" and a later token the character. */
  top?: readonly TokenAlternative[];
}

export type FinishReason = "endOfText" | "stop" | "maxTokens" | "contextFull" | "cancelled" | "failed";

export interface GenerationSummary {
  finishReason: FinishReason;
  promptTokens: number;
  newTokens: number;
  prefillMs: number;
  /** First token to last; a rate is (newTokens − 1) / decodeMs. */
  decodeMs: number;
}

export interface Generation extends AsyncIterable<GeneratedToken> {
  /** Set when the loop ends, however it ends. */
  readonly summary: GenerationSummary | null;
}

export interface Completion extends GenerationSummary {
  text: string;
  tokens: number[];
}

export interface PerplexityOptions {
  /** @default "strided" */
  protocol?: "strided" | "disjoint" | "llama.cpp";
  /** @default nPositions ("llama.cpp": 512, at most nPositions) */
  windowTokens?: number;
  /** "strided" only. @default windowTokens / 2 */
  strideTokens?: number;
  onProgress?: (progress: PerplexityProgress) => void;
  signal?: AbortSignal;
}

export interface PerplexityProgress {
  scoredTokens: number;
  totalTokens: number;
  perplexity: number;
}

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
  /** f32 [V]: logits after the last of `tokens` (1 ≤ length ≤ contextLength). @throws RangeError for another length or an id outside the vocabulary */
  logits(tokens: readonly number[], options?: { signal?: AbortSignal }): Promise<Float32Array>;
  /** f32 [T − 1]: ln p(tokens[i + 1] | tokens[0…i]), nats; `tokens` as for logits(). */
  tokenLogProbs(tokens: readonly number[], options?: { signal?: AbortSignal }): Promise<Float32Array>;
  /** Scores a text, of any length, in windows. @throws TypeError or RangeError for wrong options or a text too short to score */
  perplexity(text: string | readonly number[], options?: PerplexityOptions): Promise<PerplexityReport>;
  /** Frees everything on the device; idempotent. Later calls reject with `disposed`. */
  dispose(): void;
  [Symbol.dispose](): void;
  [Symbol.asyncDispose](): Promise<void>;
}

// ---------------------------------------------------------------- calibration

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
  onProgress?: (progress: CompareProgress) => void;
}
/** One of `count` parts of a comparison: window j of the text belongs to the part whose index is j % count. A part may have no window. */
export interface Shard {
  /** 0…count − 1 */
  index: number;
  count: number;
}
export type PerplexityOptionsWithoutProgress = Omit<PerplexityOptions, "onProgress" | "signal">;

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
    sha256: string | null;
  };
  text: TokensIdentity;
  /** null where none was given. */
  calibration: TokensIdentity | null;
  /** As asked for; null: what suits each recipe. */
  kvCache: NonNullable<LoadOptions["kvCache"]> | null;
  /** Version of the package. */
  engineVersion: string;
  adapter: AdapterSummary;
}

export interface TokensIdentity {
  tokens: number;
  /** Of the token ids as u32, little-endian; lowercase hex. null in a page that is no secure context. */
  sha256: string | null;
}

// ---------------------------------------------------------------- mixed precision

export interface FitOptions extends Omit<LoadOptions, "quantization" | "calibration" | "onProgress"> {
  /** What the whole model may take, as QuantizationReport.bytes.total. Either this or bitsPerWeight. */
  bytes?: number;
  /** What the blocks' matrices may take, as QuantizationReport.bitsPerWeight; the embedding then keeps one format. */
  bitsPerWeight?: number;
  /** Text or tokens to measure on; the first maxTokens of them. */
  text: string | readonly number[];
  /** What each matrix may be stored as. @default f16; int8 absmax per channel and per tensor, with zero points per channel; int4 with zero points in groups of 32; NF4 in blocks of 32 and 64 with double quantization */
  formats?: readonly TensorFormat[];
  /** Keeps the embedding (and an untied head) out of the search. @default with `bytes` one of `formats`, with `bitsPerWeight` int8 absmax, per channel */
  embedding?: TensorFormat;
  /** @default 512 */
  maxTokens?: number;
  /** The tokens are measured in windows of so many that do not overlap. @default 256, at most contextLength and the tokens there are */
  windowTokens?: number;
  /** Neighbours of the best recipe that are measured, since sensitivities add up only nearly. @default 8 */
  refinements?: number;
  /** Of an earlier fit of this checkpoint on this text, for another budget: what is in it is not measured again. */
  sensitivity?: readonly TensorSensitivity[];
  onProgress?: (progress: FitProgress) => void;
}

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
