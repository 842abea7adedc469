import type { CheckpointTensor } from "../checkpoint/types.ts";
import type { EngineError } from "../errors.ts";
import type { SamplingOptions } from "../kernels/sampling.ts";
import type { InputStatistics } from "../quantize/inputStatistics.ts";
import type { AdapterSummary, Gpt2Config, MemoryReport, QuantizedTensor } from "../types.ts";

/** Per scored row of a comparison; all arrays have one element per row. */
export interface RowComparison {
  /** ln p(target), nats, of the baseline. */
  baseLogProbs: Float32Array;
  /** ln p(target), nats, of the candidate. */
  logProbs: Float32Array;
  /** KL(baseline ‖ candidate), nats. */
  klDivergence: Float32Array;
  /** 1 where both models' likeliest tokens agree (lowest id wins a tie). */
  sameTop: Uint8Array;
}

export interface RankedToken {
  id: number;
  /** Natural log, under the model's own distribution: before bias, penalties, temperature and filters. */
  logProb: number;
}

export interface SampledToken extends RankedToken {
  /** The likeliest tokens of the model's own distribution, likeliest first, the lowest id first among equals; as many as were asked for. */
  top: readonly RankedToken[];
}

export interface ObserveOptions {
  /** Sum x · xᵀ, too. */
  gram: boolean;
  signal?: AbortSignal;
  /** Called with the tokens that ran so far. */
  onTokens?: (tokens: number) => void;
}

/**
 * The GPT-2 graph on one device. Tokens were validated by the caller: ids in 0…V − 1, positions within contextLength.
 * One call at a time; every call rejects with signal.reason soon after an abort and leaves the backend usable.
 */
export interface Backend {
  readonly adapter: AdapterSummary;
  readonly memory: MemoryReport;
  /** Resolves when the device is lost and was not disposed. */
  readonly lost: Promise<EngineError>;
  /** Runs tokens at positions start, start + 1, …, appending to the KV cache (what lies behind is overwritten); f32 [V] logits after the last. */
  forward(tokens: readonly number[], start: number, signal?: AbortSignal): Promise<Float32Array>;
  /**
   * Where the device can sample by itself: the tokens after `tokens`, at most `limit`, and as many as the context has room for. null where the options do
   * not fit; the caller then samples from forward()'s logits, with the same result. Rejects with `shader` for NaN or Infinity. drawn: what another run
   * of the same call gave first, perhaps on another device; this one gives what would have followed, and `limit` counts both.
   * The backend takes no other call until the iteration has ended or was left.
   */
  decode?(tokens: readonly number[], options: SamplingOptions, limit: number, signal?: AbortSignal, drawn?: readonly number[]): AsyncGenerator<SampledToken, void, undefined> | null;
  /**
   * Runs a window from position 0 and keeps its final hidden states (after lnF), a row for each token, for score() and compare(). With windowTokens, tokens
   * are several windows of that length one after the other, of which none sees another; at most windowsAtOnce().
   */
  encodeWindow(tokens: readonly number[], signal?: AbortSignal, windowTokens?: number): Promise<void>;
  /** How many windows of a length encodeWindow() takes together and still gives each the very bits that it has alone. Absent: one. */
  windowsAtOnce?(windowTokens: number): number;
  /** ln p(targets[i]) under the logits of row from + i of the last window, nats, f32 [targets.length]. */
  score(from: number, targets: readonly number[], signal?: AbortSignal): Promise<Float32Array>;
  /** The same rows of this backend (the candidate) and of `baseline`, whose last window held the same tokens. Same kind of backend, same device. */
  compare(baseline: Backend, from: number, targets: readonly number[], signal?: AbortSignal): Promise<RowComparison>;
  /**
   * Runs windows as encodeWindow() does, one by one, and sums what it sees of the inputs of the named matrices, linear ones ("h.0.attn.c_attn.weight") or the
   * head: after the layer norm, attention or activation in front of them, before any rounding to int8. Layers behind the last that is asked for do not run.
   * @throws RangeError for a name that is neither; EngineError `shader` for NaN or Infinity
   */
  observe(windows: readonly (readonly number[])[], names: readonly string[], options: ObserveOptions): Promise<Map<string, InputStatistics>>;
  /**
   * One tensor of the checkpoint as it is loaded: a matrix quantized, anything else f32. Of wpe, the rows of positions within contextLength.
   * @throws EngineError `checkpoint` for a name that the model does not have
   */
  readTensor(name: string, signal?: AbortSignal): Promise<QuantizedTensor | Float32Array>;
  dispose(): void;
}

/** What a loaded model asks of its backend. */
export type ModelBackend = Omit<Backend, "compare" | "observe">;

/** What calibration found about the rows that a matrix is multiplied with. */
export interface MatrixInput {
  /** Static range of int8 activations: the largest magnitude that a code stands for. @default each row's own largest */
  range?: number;
}

/** Takes the tensors one by one while they stream in, then becomes a Backend. */
export interface BackendBuilder {
  /** Matrices (linear, embedding) come quantized; position and vector tensors come as f32. The builder copies what it keeps. For a tied wte, `input` is the head's. */
  add(tensor: CheckpointTensor, values: QuantizedTensor | Float32Array, input?: MatrixInput): Promise<void>;
  /** Called when every tensor was added; with a base, those that are to differ from it. */
  finish(signal?: AbortSignal): Promise<Backend>;
  /** Frees everything after a failure; idempotent. */
  abandon(): void;
}

export interface BackendOptions {
  config: Gpt2Config;
  contextLength: number;
  kvCache: "f32" | "f16" | "int8";
  /** "int8": the inputs of matrices in int8 are quantized too, row by row; the arithmetic is in cpu/input.ts. @default "float" */
  activations?: "float" | "int8";
  /** LLM.int8(), beside int8 activations: of each row, values of at least this magnitude stay f32. @default none */
  outlierThreshold?: number;
  /** Sentences for model.adapter.notices. */
  notices?: readonly string[];
  /**
   * Lends the tensors that are not added, so that models which differ in a few matrices share the rest. It has the same config, context and activations,
   * is on the same kind of device, keeps owning what it lends, must outlive this one, and is not at work while this one is.
   */
  base?: Backend;
}

/** @throws TypeError where a model of these options cannot lend its tensors to one of those */
export function requireLender(base: BackendOptions, options: BackendOptions): void {
  const shapeOf = ({ config, contextLength, activations = "float" }: BackendOptions): string => JSON.stringify({ config, contextLength, activations });
  if (shapeOf(base) !== shapeOf(options)) throw new TypeError(`base is ${shapeOf(base)}; expected the same as this model: ${shapeOf(options)}.`);
}
