import { show } from "../errors.ts";
import type { FinishReason, GenerateOptions, Generation, Model, TokenAlternative } from "../types.ts";
import type { CompletionChoice, CompletionLogProbs, CompletionRequest, CompletionResponse, OpenAICompletions } from "./types.ts";

const DEFAULT_MAX_TOKENS = 16;
const MAX_COMPLETIONS = 128;

/** OpenAI's name of each number that generate() takes, too. */
const numbers = {
  max_tokens: "maxTokens",
  temperature: "temperature",
  top_p: "topP",
  top_k: "topK",
  min_p: "minP",
  frequency_penalty: "frequencyPenalty",
  presence_penalty: "presencePenalty",
  repetition_penalty: "repetitionPenalty",
  logprobs: "logProbs",
} as const satisfies Partial<Record<keyof CompletionRequest, keyof GenerateOptions>>;
const others = ["model", "prompt", "n", "stop", "seed", "logit_bias", "echo", "stream", "stream_options", "user"] as const satisfies readonly (keyof CompletionRequest)[];

/**
 * A model behind OpenAI's Completions API: `toOpenAI(model).completions.create({ prompt, max_tokens, … })`, with `stream: true` an async iterable of chunks.
 * Leaving the loop over chunks ends the run. Several prompts and completions run one after the other.
 * @throws TypeError for an option that OpenAI does not have or this engine does not serve (`suffix`, `best_of`), and otherwise as Model.generate() does,
 * under OpenAI's names. Source: https://platform.openai.com/docs/api-reference/completions
 */
export function toOpenAI(model: Model): OpenAICompletions {
  if (typeof (model as Partial<Model> | null | undefined)?.generate !== "function") throw new TypeError(`model is ${show(model)}; expected a loaded model.`);
  async function create(request: CompletionRequest, { signal }: { signal?: AbortSignal } = {}): Promise<never> {
    const runs = planRuns(model, request, signal);
    const head = { id: `cmpl-${Math.random().toString(36).slice(2)}`, object: "text_completion" as const, created: Math.floor(Date.now() / 1000), model: request.model ?? "gpt2" };
    const withUsage = request.stream_options?.include_usage === true;
    return (request.stream ? streamed(runs, head, withUsage) : await whole(runs, head)) as never; // which of both, the overloads say
  }
  return { completions: { create } };
}

type Head = Omit<CompletionResponse, "choices" | "usage">;

/** One completion of one prompt. */
interface Run {
  index: number;
  promptTokens: number;
  chunks: () => AsyncGenerator<Omit<CompletionChoice, "index">, number, undefined>;
}

async function* streamed(runs: readonly Run[], head: Head, withUsage: boolean): AsyncGenerator<CompletionResponse, void, undefined> {
  let newTokens = 0;
  for (const { index, chunks } of runs) {
    newTokens += yield* mapped(chunks(), (chunk): CompletionResponse => ({ ...head, choices: [{ ...chunk, index }], ...(withUsage && { usage: null }) }));
  }
  if (withUsage) yield { ...head, choices: [], usage: usageOf(runs, newTokens) };
}

async function* mapped<T, U, R>(source: AsyncGenerator<T, R, undefined>, map: (value: T) => U): AsyncGenerator<U, R, undefined> {
  try {
    for (;;) {
      const { done, value } = await source.next();
      if (done) return value;
      yield map(value);
    }
  } finally {
    await source.return(undefined as R); // ends the run where the loop was left
  }
}

async function whole(runs: readonly Run[], head: Head): Promise<CompletionResponse> {
  const choices: CompletionChoice[] = [];
  let newTokens = 0;
  for (const { index, chunks } of runs) {
    const choice: CompletionChoice = { text: "", index, logprobs: null, finish_reason: null };
    newTokens += await drain(chunks(), (chunk) => {
      choice.text += chunk.text;
      choice.finish_reason = chunk.finish_reason;
      if (!chunk.logprobs) return;
      choice.logprobs ??= emptyLogProbs();
      append(choice.logprobs, chunk.logprobs);
    });
    choices.push(choice);
  }
  return { ...head, choices, usage: usageOf(runs, newTokens) };
}

async function drain<T, R>(source: AsyncGenerator<T, R, undefined>, take: (value: T) => void): Promise<R> {
  const values = mapped(source, take);
  for (;;) {
    const { done, value } = await values.next();
    if (done) return value;
  }
}

/** A prompt counts once, however many completions it has. */
function usageOf(runs: readonly Run[], newTokens: number): NonNullable<CompletionResponse["usage"]> {
  const promptTokens = runs.reduce((sum, run) => sum + run.promptTokens, 0);
  return { prompt_tokens: promptTokens, completion_tokens: newTokens, total_tokens: promptTokens + newTokens };
}

/** Checks the request and says what to run. */
function planRuns(model: Model, request: CompletionRequest, signal: AbortSignal | undefined): Run[] {
  if (typeof request !== "object" || request === null) throw new TypeError(`request is ${show(request)}; expected an object.`);
  for (const [name, value] of Object.entries(request)) {
    if (!(name in numbers) && !(others as readonly string[]).includes(name) && value !== undefined && value !== null) {
      throw new TypeError(`${name} is ${show(value)}; this engine does not serve it. It takes ${[...Object.keys(numbers), ...others].join(", ")}.`);
    }
  }
  const { logprobs, seed, echo, stop } = request;
  const n = request.n ?? 1;
  if (typeof n !== "number") throw new TypeError(`n is ${show(n)}; expected an integer from 1 to ${MAX_COMPLETIONS}.`);
  if (!Number.isInteger(n) || n < 1 || n > MAX_COMPLETIONS) throw new RangeError(`n is ${show(n)}; expected an integer from 1 to ${MAX_COMPLETIONS}.`);
  if (seed !== undefined && seed !== null && !Number.isSafeInteger(seed + n - 1)) throw new RangeError(`seed is ${show(seed)}; expected a safe integer.`);
  const options: GenerateOptions = { maxTokens: DEFAULT_MAX_TOKENS, logitBias: request.logit_bias ?? undefined, stop: typeof stop === "string" ? [stop] : (stop ?? undefined), signal };
  for (const [name, option] of Object.entries(numbers) as [keyof typeof numbers, (typeof numbers)[keyof typeof numbers]][]) {
    const value = request[name];
    if (value !== undefined && value !== null) options[option] = value;
  }
  return promptsOf(request.prompt).flatMap((prompt, p) =>
    Array.from({ length: n }, (_, i): Run => {
      const tokens = typeof prompt === "string" ? model.encode(prompt) : prompt;
      const generation = underOpenAINames(() => model.generate(prompt, { ...options, seed: seed == null ? undefined : seed + i }));
      const echoed = echo ? { tokens, text: typeof prompt === "string" ? prompt : model.decode(tokens) } : null;
      const chunks = (): ReturnType<Run["chunks"]> => chunksOf(model, generation, { echoed, alternatives: logprobs ?? null, signal });
      return { index: p * n + i, promptTokens: i === 0 ? tokens.length : 0, chunks };
    }),
  );
}

function promptsOf(prompt: CompletionRequest["prompt"]): (string | readonly number[])[] {
  if (typeof prompt === "string") return [prompt];
  if (!Array.isArray(prompt) || prompt.length === 0) throw new TypeError(`prompt is ${show(prompt)}; expected text, tokens, or an array of either.`);
  return typeof prompt[0] === "number" ? [prompt as readonly number[]] : (prompt as readonly (string | readonly number[])[]).slice();
}

/** Errors of generate(), with the option called as OpenAI calls it. */
function underOpenAINames<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof RangeError)) throw error;
    const names = [...Object.entries(numbers), ["logit_bias", "logitBias"]];
    const [theirs, ours] = names.find(([, name]) => new RegExp(`^${name}\\b`).test(error.message)) ?? ["", ""];
    const message = theirs + error.message.slice(ours!.length);
    throw error instanceof RangeError ? new RangeError(message) : new TypeError(message);
  }
}

interface ChunkOptions {
  echoed: { tokens: readonly number[]; text: string } | null;
  alternatives: number | null;
  signal: AbortSignal | undefined;
}

/** What is new of one choice, piece by piece; the last piece has the reason. Returns the count of new tokens. */
async function* chunksOf(model: Model, generation: Generation, { echoed, alternatives, signal }: ChunkOptions): ReturnType<Run["chunks"]> {
  let offset = 0;
  const logProbsOf = (token: TokenAlternative, top: readonly TokenAlternative[]): CompletionLogProbs | null =>
    alternatives === null ? null : { tokens: [model.decode([token.id])], token_logprobs: [token.logProb], top_logprobs: [topOf([...top, token], model)], text_offset: [offset] };
  if (echoed) {
    yield { text: echoed.text, logprobs: alternatives === null ? null : await promptLogProbs(model, echoed.tokens, alternatives, signal), finish_reason: null };
    offset = echoed.text.length;
  }
  for await (const token of generation) {
    yield { text: token.text, logprobs: logProbsOf(token, token.top ?? []), finish_reason: null };
    offset += token.text.length;
  }
  yield { text: "", logprobs: null, finish_reason: finishReasons[generation.summary!.finishReason] };
  return generation.summary!.newTokens;
}

/** A loop that ended by itself was neither cancelled nor did it fail. */
const finishReasons: Readonly<Record<FinishReason, "stop" | "length">> = { endOfText: "stop", stop: "stop", maxTokens: "length", contextFull: "length", cancelled: "length", failed: "length" };

/** Log-probabilities of an echoed prompt; nothing comes before its first token. */
async function promptLogProbs(model: Model, tokens: readonly number[], alternatives: number, signal: AbortSignal | undefined): Promise<CompletionLogProbs> {
  const result = emptyLogProbs();
  const logProbs = tokens.length > 1 ? await model.tokenLogProbs(tokens, { signal }) : [];
  let text = "";
  for (const [i, id] of tokens.entries()) {
    const logProb = i === 0 ? null : logProbs[i - 1]!;
    const token = logProb === null ? null : { id, text: "", logProb };
    const top = token && alternatives > 0 ? likeliest(await model.logits(tokens.slice(0, i), { signal }), alternatives) : [];
    append(result, { tokens: [model.decode([id])], token_logprobs: [logProb], top_logprobs: [token && topOf([...top, token], model)], text_offset: [text.length] });
    text = model.decode(tokens.slice(0, i + 1)).replace(/\uFFFD+$/, "");
  }
  return result;
}

/** The tokens of the highest logits, the lowest id first among equals, with their natural log-probabilities. */
function likeliest(logits: Float32Array, count: number): TokenAlternative[] {
  const largest = logits.reduce((max, logit) => Math.max(max, logit), -Infinity);
  const normalizer = largest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0));
  const ids = Array.from(logits, (_, id) => id).sort((a, b) => logits[b]! - logits[a]! || a - b);
  return ids.slice(0, count).map((id) => ({ id, text: "", logProb: logits[id]! - normalizer }));
}

/** By text, the likeliest of those that look alike. */
function topOf(tokens: readonly TokenAlternative[], model: Model): Record<string, number> {
  const top: Record<string, number> = {};
  for (const { id, logProb } of tokens) {
    const text = model.decode([id]);
    top[text] = Math.max(top[text] ?? -Infinity, logProb);
  }
  return top;
}

function emptyLogProbs(): CompletionLogProbs {
  return { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
}

function append(target: CompletionLogProbs, more: CompletionLogProbs): void {
  target.tokens.push(...more.tokens);
  target.token_logprobs.push(...more.token_logprobs);
  target.top_logprobs.push(...more.top_logprobs);
  target.text_offset.push(...more.text_offset);
}
