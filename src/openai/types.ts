/** The request of OpenAI's Completions API, and beside it `top_k`, `min_p` and `repetition_penalty`, which local engines share. */
export interface CompletionRequest {
  /** Echoed in the response; the model is the one that toOpenAI() was given. */
  model?: string;
  /** One prompt or several, as text or as tokens. */
  prompt: string | readonly string[] | readonly number[] | readonly (readonly number[])[];
  /** @default 16, as OpenAI has it */
  max_tokens?: number | null;
  /** @default 1 */
  temperature?: number | null;
  top_p?: number | null;
  top_k?: number | null;
  min_p?: number | null;
  /** Completions for each prompt, one after the other. @default 1 */
  n?: number | null;
  stop?: string | readonly string[] | null;
  /** The i-th completion of a prompt is drawn with seed + i. @default a random one for each */
  seed?: number | null;
  frequency_penalty?: number | null;
  presence_penalty?: number | null;
  repetition_penalty?: number | null;
  logit_bias?: Readonly<Record<number, number>> | null;
  /** Alternatives for each token, 0…20, the token itself beside them. @default null: no log-probabilities */
  logprobs?: number | null;
  /** The text begins with the prompt. With `logprobs` its tokens have theirs, too; more than 0 alternatives cost a run of the model for each. */
  echo?: boolean | null;
  stream?: boolean | null;
  stream_options?: { include_usage?: boolean } | null;
  /** Accepted, as servers do, and not used. */
  user?: string;
}

/** Log-probabilities of a choice's tokens, nats; all arrays have an element for each. */
export interface CompletionLogProbs {
  /** Each token on its own; bytes that form no character are U+FFFD. */
  tokens: string[];
  /** Natural log; null for the first token of an echoed prompt. */
  token_logprobs: (number | null)[];
  top_logprobs: (Record<string, number> | null)[];
  /** Where the token begins in the choice's text, UTF-16 units. */
  text_offset: number[];
}

/** One completion of one prompt. */
export interface CompletionChoice {
  text: string;
  /** Of prompt p and its completion i: p · n + i. */
  index: number;
  logprobs: CompletionLogProbs | null;
  /** "stop": the end of the text or a stop string; "length": max_tokens or a full context. null in a chunk before the last of its choice. */
  finish_reason: "stop" | "length" | null;
}

/** Tokens of a request; a prompt counts once, however many completions it has. */
export interface CompletionUsage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

/** A response, or a chunk of one: a chunk's choice holds what is new. */
export interface CompletionResponse {
  id: string;
  object: "text_completion";
  /** Unix time, seconds. */
  created: number;
  model: string;
  choices: CompletionChoice[];
  /** In chunks only where stream_options.include_usage asked for it: null, and in a last one without choices the sum. */
  usage?: CompletionUsage | null;
}

/** The part of OpenAI's client that toOpenAI() gives. */
export interface OpenAICompletions {
  completions: {
    /** Resolves with the chunks; the run starts when they are iterated. */
    create(request: CompletionRequest & { stream: true }, options?: { signal?: AbortSignal }): Promise<AsyncIterable<CompletionResponse>>;
    /** Resolves with the whole response. */
    create(request: CompletionRequest & { stream?: false | null }, options?: { signal?: AbortSignal }): Promise<CompletionResponse>;
    /** Whichever `stream` says. */
    create(request: CompletionRequest, options?: { signal?: AbortSignal }): Promise<CompletionResponse | AsyncIterable<CompletionResponse>>;
  };
}
