import { checkFinite, EngineError } from "../errors.ts";
import { planWindows } from "../evaluate/protocols.ts";
import { requireFiniteLogits } from "../generate/finiteLogits.ts";
import { complete, createGeneration, type GenerationSetup } from "../generate/generation.ts";
import { checkedTokens, checkWatching, tokensOf } from "../generate/options.ts";
import { Turnstile } from "../generate/queue.ts";
import type { ModelBackend } from "../model/backend.ts";
import { fetchPart } from "../parts.ts";
import type { Tokenizer } from "../tokenizer/types.ts";
import type { AdapterSummary, Completion, GenerateOptions, Generation, Gpt2Config, MemoryReport, Model, PerplexityOptions, PerplexityReport, QuantizationReport, QuantizedTensor } from "../types.ts";

export interface ModelParts {
  config: Gpt2Config;
  contextLength: number;
  backend: ModelBackend;
  sample?: GenerationSetup["sample"];
  tokenizer: Tokenizer;
  /** What the tokenizer was made of, where the checkpoint brings its own: texts by file name. */
  tokenizerFiles: Readonly<Record<string, string>>;
  quantization: QuantizationReport;
  /** Where the checkpoint came from. */
  description: string;
  /** Of the loading, beside the backend's; sentences may be added later. */
  notices?: ReadonlySet<string>;
}

/** The backend's adapter, with what loading has to say. */
export function adapterOf({ backend: { adapter }, notices }: ModelParts): AdapterSummary {
  return { ...adapter, notices: [...adapter.notices, ...(notices ?? [])] };
}

/** A loaded model: the public face of one backend. Calls take turns on it, in the order in which they were made. */
export class LoadedModel implements Model {
  readonly config: Gpt2Config;
  readonly quantization: QuantizationReport;
  readonly lost: Promise<EngineError>;
  readonly contextLength: number;
  readonly description: string;
  readonly #parts: ModelParts;
  readonly #turnstile = new Turnstile();
  #disposed = false;

  constructor(parts: ModelParts) {
    this.#parts = parts;
    this.config = parts.config;
    this.quantization = parts.quantization;
    this.lost = parts.backend.lost;
    this.contextLength = parts.contextLength;
    this.description = parts.description;
  }

  get memory(): MemoryReport {
    return this.#parts.backend.memory;
  }

  get adapter(): AdapterSummary {
    return adapterOf(this.#parts);
  }

  encode(text: string, options?: { specialTokens?: "parse" | "text" }): number[] {
    return this.#parts.tokenizer.encode(text, options);
  }

  decode(tokens: readonly number[]): string {
    return this.#parts.tokenizer.decode(tokens);
  }

  generate(prompt: string | readonly number[], options?: GenerateOptions): Generation {
    return createGeneration({ ...this.#parts, prompt, options, acquire: (signal) => this.#turnstile.acquire(signal) });
  }

  complete(prompt: string | readonly number[], options?: GenerateOptions): Promise<Completion> {
    return complete(this.generate(prompt, options));
  }

  async logits(tokens: readonly number[], { signal }: { signal?: AbortSignal } = {}): Promise<Float32Array> {
    checkWatching({ signal });
    const window = this.#checkedWindow(tokens);
    const logits = await this.inTurn(signal, () => this.#parts.backend.forward(window, 0, signal));
    requireFiniteLogits(logits);
    return logits;
  }

  async tokenLogProbs(tokens: readonly number[], { signal }: { signal?: AbortSignal } = {}): Promise<Float32Array> {
    checkWatching({ signal });
    const window = this.#checkedWindow(tokens);
    return this.inTurn(signal, async () => {
      if (window.length === 1) return new Float32Array(0);
      await this.#parts.backend.encodeWindow(window, signal);
      const logProbs = await this.#parts.backend.score(0, window.slice(1), signal);
      checkFinite("Log-probability", logProbs, 1);
      return logProbs;
    });
  }

  async perplexity(text: string | readonly number[], options: PerplexityOptions = {}): Promise<PerplexityReport> {
    const { contextLength, tokenizer, backend, config } = this.#parts;
    checkWatching(options);
    const tokens = tokensOf("text", text, tokenizer, config.vocabSize);
    const plan = planWindows(tokens.length, options, contextLength);
    return this.inTurn(options.signal, async () => {
      const { measurePerplexity, tokenByteLengths } = await fetchPart("The measurement of perplexity", () => import("../evaluate/perplexity.ts"), options.signal);
      const byteLengths = typeof text === "string" ? tokenByteLengths(tokens, tokenizer) : null;
      return (await measurePerplexity(backend, tokens, plan, byteLengths, options)).report;
    });
  }

  /** One tensor of the checkpoint as it is loaded, in turn; see Backend.readTensor. Not of Model: for exportSafetensors(). */
  readTensor(name: string, signal?: AbortSignal): Promise<QuantizedTensor | Float32Array> {
    return this.inTurn(signal, () => this.#parts.backend.readTensor(name, signal));
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#turnstile.dispose();
    this.#parts.backend.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }

  protected async inTurn<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    const release = await this.#turnstile.acquire(signal);
    try {
      return await work();
    } finally {
      release();
    }
  }

  /** A copy of tokens that fit the context. */
  #checkedWindow(given: readonly number[]): number[] {
    const { contextLength, config } = this.#parts;
    const tokens = checkedTokens("tokens", given, config.vocabSize);
    if (tokens.length < 1 || tokens.length > contextLength) throw new RangeError(`tokens has length ${tokens.length}; expected 1…${contextLength} (contextLength).`);
    return tokens;
  }
}
