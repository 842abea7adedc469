import type { EngineErrorCode } from "../errors.ts";
import type { SampleTokens } from "../generate/generation.ts";
import type { ModelParts } from "../load/model.ts";
import type { TensorInspection, WorkerInspectTensorOptions } from "../load/inspectTensor.ts";
import type { SampledToken } from "../model/backend.ts";
import type {
  AdapterSummary,
  BudgetFit,
  ComparisonRow,
  ComparisonRun,
  CompareProgress,
  FitProgress,
  LoadProgress,
  MemoryReport,
  ModelPlan,
  PerplexityOptions,
  PerplexityProgress,
  PerplexityReport,
  QuantizedTensor,
  WorkerCompareOptions,
  WorkerFitOptions,
  WorkerLoadOptions,
  WorkerPlanOptions,
} from "../types.ts";

/** A source as it crosses: addresses are absolute, since the worker's own are relative to its script. */
export type SentSource = string | readonly File[] | Readonly<Record<string, Blob | ArrayBuffer | Uint8Array>>;
/** Options without what stays on the page. */
export type Sent<Options> = Omit<Options, "signal" | "onProgress" | "beforeWindow" | "onStart" | "worker" | "transfer">;

/** Every call: what is given, what comes while it runs, what comes at its end. */
export interface Calls {
  load: { given: { source: SentSource; options: Sent<WorkerLoadOptions> }; progress: LoadProgress; item: never; result: SentModel };
  forward: { given: { tokens: readonly number[]; start: number }; progress: never; item: never; result: Float32Array };
  encodeWindow: { given: { tokens: readonly number[]; windowTokens?: number }; progress: never; item: never; result: void };
  score: { given: { from: number; targets: readonly number[] }; progress: never; item: never; result: Float32Array };
  readTensor: { given: { tensor: string }; progress: never; item: never; result: QuantizedTensor | Float32Array };
  sample: { given: { prompt: readonly number[]; sampling: Parameters<SampleTokens>[1]; limit: number }; progress: never; item: SampledToken; result: void };
  perplexity: { given: { text: string | readonly number[]; options: Sent<PerplexityOptions> }; progress: PerplexityProgress; item: never; result: PerplexityReport };
  /** asks: before each window, whether to go on. */
  compare: { given: { source: SentSource; options: Sent<WorkerCompareOptions>; asks: boolean }; progress: CompareProgress; item: { row: SentRow; run: ComparisonRun }; result: ComparisonRun };
  fit: { given: { source: SentSource; options: Sent<WorkerFitOptions> }; progress: FitProgress; item: never; result: BudgetFit };
  inspect: { given: { source: SentSource; tensor: string; options: Sent<WorkerInspectTensorOptions> }; progress: LoadProgress; item: never; result: TensorInspection };
  plan: { given: { source: SentSource; options: Sent<WorkerPlanOptions> }; progress: never; item: never; result: ModelPlan };
}
export type CallName = keyof Calls;
export type Call = { [Name in CallName]: { name: Name } & Calls[Name]["given"] }[CallName];

/** What the page needs of a model whose weights stay with the worker. */
export type SentModel = Pick<ModelParts, "config" | "contextLength" | "tokenizerFiles" | "quantization" | "description">;
export type SentRow = Omit<ComparisonRow, "error"> & { error?: SentError };

/** What a model reports of its backend, which changes. */
export interface BackendState {
  memory: MemoryReport;
  adapter: AdapterSummary;
}

export interface SentError {
  /** Class or, of a DOMException and the like, the name. */
  name: string;
  message: string;
  stack: string | undefined;
  /** With `details`, of an EngineError. */
  code?: EngineErrorCode;
  details?: Readonly<Record<string, unknown>>;
  cause?: SentError;
}

export type PageMessage =
  /** The first. lock: name of a Web Lock that the worker is to hold as long as it lives. */
  | { type: "hello"; lock: string | null }
  /** id: 0, 1, 2… Calls run one at a time, in their order. */
  | { type: "call"; id: number; call: Call }
  /** So many more items may come. */
  | { type: "pull"; id: number; count: number }
  /** The answer to "ask". */
  | { type: "goOn"; id: number }
  /** The page waits for nothing more of this call. */
  | { type: "end"; id: number };

export type WorkerMessage =
  | { type: "hello"; version: string; holdsLock: boolean }
  | { type: "progress"; id: number; progress: unknown }
  | { type: "item"; id: number; item: unknown }
  /** The call rests until it may go on. */
  | { type: "ask"; id: number }
  | { type: "result"; id: number; result: unknown; state: BackendState | null }
  | { type: "failure"; id: number; error: SentError; state: BackendState | null }
  /** The device is gone for good. */
  | { type: "lost"; error: SentError };
