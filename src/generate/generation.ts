import { EngineError, throwIfAborted } from "../errors.ts";
import type { ModelBackend, SampledToken } from "../model/backend.ts";
import { fetchPart } from "../parts.ts";
import type { Tokenizer } from "../tokenizer/types.ts";
import type { Completion, FinishReason, GeneratedToken, GenerateOptions, Generation, GenerationSummary, Gpt2Config } from "../types.ts";
import { resolveGenerateOptions, tokensOf } from "./options.ts";
import type { SamplingOptions } from "./sampler.ts";
import { StopMatcher } from "./stopStrings.ts";

export interface GenerationSetup {
  backend: ModelBackend;
  /** Where tokens are drawn elsewhere than here. @default samplerOf() the backend */
  sample?: SampleTokens;
  tokenizer: Tokenizer;
  config: Gpt2Config;
  /** Positions the backend's KV cache holds. */
  contextLength: number;
  prompt: string | readonly number[];
  options?: GenerateOptions;
  /** Waits for this generation's turn on the backend, and gives the function that ends it. */
  acquire: (signal?: AbortSignal) => Promise<() => void>;
}

/** The tokens after a prompt, at most `limit`, which is within the context. Leaving the loop ends the work. */
export type SampleTokens = (prompt: readonly number[], sampling: SamplingOptions, limit: number, signal: AbortSignal | undefined) => AsyncGenerator<SampledToken, void, undefined>;

/**
 * A generation that starts when it is iterated, and can be iterated once. Wrong options or a wrong prompt throw here, as TypeError or RangeError;
 * a prompt longer than the context rejects the first next() with `promptTooLong`. An abort rejects with signal.reason.
 * However the loop ends, the backend is released and the summary is set. newTokens counts the tokens that were handed out;
 * the end-of-text token is not one of them.
 */
export function createGeneration({ backend, sample, tokenizer, config, contextLength, prompt, options, acquire }: GenerationSetup): Generation {
  const { maxTokens, stop, signal, ...sampling } = resolveGenerateOptions(options, config.vocabSize);
  const promptTokens = tokenizePrompt(prompt, tokenizer, config);
  const sampleTokens = sample ?? samplerOf(backend, config.vocabSize);
  const endOfTextId = config.eosTokenId ?? tokenizer.endOfTextId;
  let started = false;
  let summary: GenerationSummary | null = null;

  async function* run(): AsyncGenerator<GeneratedToken, void, undefined> {
    let finishReason: FinishReason | null = null;
    let newTokens = 0;
    let startMs = NaN;
    let firstTokenMs = NaN;
    let lastTokenMs = NaN;
    let release: (() => void) | undefined;
    let leave = (): void => undefined;
    try {
      throwIfAborted(signal);
      if (promptTokens.length > contextLength) throw promptTooLong(promptTokens.length, contextLength);
      release = await acquire(signal);
      if (maxTokens === 0) {
        finishReason = "maxTokens";
        return;
      }
      const decoder = tokenizer.stream();
      const matcher = new StopMatcher(stop);
      const rest = (): string => matcher.push(decoder.flush()) + matcher.flush();
      // A token whose text may be incomplete waits for the next sample: should that be the end of the text, it carries what was held back.
      let waiting: GeneratedToken | null = null;

      startMs = performance.now();
      let sampled = 0;
      const samples = sampleTokens(promptTokens, sampling, Math.min(maxTokens, contextLength - promptTokens.length + 1), signal);
      let isPaused = false;
      leave = () => {
        if (isPaused) void samples.return().catch(() => undefined).then(release); // who aborts need not come for another token
      };
      signal?.addEventListener("abort", leave);
      for await (const { id, logProb, top } of samples) {
        sampled++;
        if (sampled === 1) firstTokenMs = lastTokenMs = performance.now();
        const ready: GeneratedToken[] = waiting ? [waiting] : [];
        waiting = null;
        const position = promptTokens.length + sampled - 1; // of the token just sampled
        if (id === endOfTextId) {
          finishReason = "endOfText";
          const last = ready[0];
          if (last) last.text += rest();
        } else {
          lastTokenMs = performance.now();
          let text = matcher.push(decoder.push(id));
          if (matcher.matched) finishReason = "stop";
          else if (sampled === maxTokens) finishReason = "maxTokens";
          else if (position === contextLength) finishReason = "contextFull";
          if (finishReason) text += rest();
          const token: GeneratedToken = { id, text, logProb };
          if (sampling.logProbs > 0) token.top = top.map((ranked) => ({ ...ranked, text: tokenizer.decode([ranked.id]) }));
          if (!finishReason && (matcher.holds || mayEndInsideCharacter(tokenizer, id))) waiting = token;
          else ready.push(token);
        }
        for (const token of ready) {
          newTokens++;
          isPaused = true;
          yield token;
          isPaused = false;
        }
        if (finishReason) return;
        throwIfAborted(signal);
      }
    } catch (error) {
      finishReason = signal?.aborted ? "cancelled" : "failed";
      throw signal?.aborted ? signal.reason : error;
    } finally {
      summary = {
        finishReason: finishReason ?? "cancelled", // the consumer left the loop
        promptTokens: promptTokens.length,
        newTokens,
        prefillMs: firstTokenMs - startMs || 0, // NaN where it never came to that
        decodeMs: newTokens > 1 ? lastTokenMs - firstTokenMs : 0,
      };
      signal?.removeEventListener("abort", leave);
      release?.();
    }
  }

  return {
    get summary() {
      return summary;
    },
    [Symbol.asyncIterator]() {
      if (started) throw new TypeError("This generation was iterated before; call generate() again for another.");
      started = true;
      return run();
    },
  };
}

/** Samples on the device where it can, else here from its logits. */
export function samplerOf(backend: ModelBackend, V: number): SampleTokens {
  return (prompt, sampling, limit, signal) => {
    const onDevice = sampling.logitBias.length === 0 && sampling.logProbs === 0 ? backend.decode?.(prompt, sampling, limit, signal) : null;
    return onDevice ?? sampledHere(backend, V, sampling, prompt, limit, signal);
  };
}

/** What samples here. @throws EngineError `network` */
export function fetchSampler(signal: AbortSignal | undefined): Promise<typeof import("./sampler.ts")> {
  return fetchPart("The sampler on the CPU", () => import("./sampler.ts"), signal);
}

async function* sampledHere(backend: ModelBackend, V: number, sampling: SamplingOptions, prompt: readonly number[], limit: number, signal: AbortSignal | undefined): AsyncGenerator<SampledToken, void, undefined> {
  const { Sampler } = await fetchSampler(signal);
  const sampler = new Sampler(V, sampling, prompt);
  let logits = await backend.forward(prompt, 0, signal);
  for (let position = prompt.length; ; position++) {
    throwIfAborted(signal);
    const token = sampler.sample(logits);
    yield token;
    if (position - prompt.length === limit - 1) return;
    logits = await backend.forward([token.id], position, signal);
  }
}

/** Runs a generation to its end. */
export async function complete(generation: Generation): Promise<Completion> {
  let text = "";
  const tokens: number[] = [];
  for await (const token of generation) {
    text += token.text;
    tokens.push(token.id);
  }
  return { ...generation.summary!, text, tokens };
}

/** An empty prompt becomes the beginning-of-text token, as Hugging Face's generate() has it. */
function tokenizePrompt(prompt: unknown, tokenizer: Tokenizer, config: Gpt2Config): readonly number[] {
  const tokens = tokensOf("prompt", prompt, tokenizer, config.vocabSize);
  if (tokens.length > 0) return tokens;
  if (config.bosTokenId === null) throw new RangeError("prompt has no tokens, and the model has no beginning-of-text token; expected at least one token.");
  return [config.bosTokenId];
}

/** Errs on the side of true: a token that ends with the last bytes of a character looks on its own as one that ends inside. */
function mayEndInsideCharacter(tokenizer: Tokenizer, id: number): boolean {
  return tokenizer.decode([id]).endsWith("\uFFFD");
}

function promptTooLong(promptTokens: number, contextLength: number): EngineError {
  return new EngineError("promptTooLong", `The prompt has ${promptTokens} tokens; expected at most the context length of ${contextLength}.`, {
    promptTokens,
    contextLength,
  });
}
