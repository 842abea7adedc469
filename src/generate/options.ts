import { show } from "../errors.ts";
import type { SamplingOptions } from "../kernels/sampling.ts";
import type { Tokenizer } from "../tokenizer/types.ts";
import type { GenerateOptions } from "../types.ts";

/** GenerateOptions with every default filled in. */
export interface ResolvedGenerateOptions extends SamplingOptions {
  maxTokens: number;
  logitBias: readonly (readonly [id: number, bias: number])[];
  stop: readonly string[];
  logProbs: number;
  signal: AbortSignal | undefined;
}

export const MAX_STOP_STRINGS = 64;
export const MAX_STOP_LENGTH = 1024; // UTF-16 units: bounds the text that streaming may hold back

/** Checks every option. Throws TypeError (wrong type) or RangeError (wrong value), each naming the option and the value. */
export function resolveGenerateOptions(options: GenerateOptions = {}, vocabSize: number): ResolvedGenerateOptions {
  if (typeof options !== "object" || options === null) throw new TypeError(`options is ${show(options)}; expected an object.`);
  const number = (name: keyof GenerateOptions, fallback: number, expected: string, accepts: (value: number) => boolean): number => {
    const value = options[name] === undefined ? fallback : options[name];
    if (typeof value !== "number") throw new TypeError(`${name} is ${show(value)}; expected ${expected}.`);
    if (!accepts(value)) throw new RangeError(`${name} is ${value}; expected ${expected}.`);
    return value;
  };
  return {
    maxTokens: number("maxTokens", 128, "an integer ≥ 0", (value) => Number.isSafeInteger(value) && value >= 0),
    temperature: number("temperature", 1, "a finite number ≥ 0", (value) => Number.isFinite(value) && value >= 0),
    topK: number("topK", vocabSize, "an integer ≥ 1", (value) => Number.isSafeInteger(value) && value >= 1),
    topP: number("topP", 1, "a number above 0 and at most 1", (value) => value > 0 && value <= 1),
    minP: number("minP", 0, "a number between 0 and 1", (value) => value >= 0 && value <= 1),
    repetitionPenalty: number("repetitionPenalty", 1, "a finite number above 0", (value) => Number.isFinite(value) && value > 0),
    frequencyPenalty: number("frequencyPenalty", 0, "a finite number", Number.isFinite),
    presencePenalty: number("presencePenalty", 0, "a finite number", Number.isFinite),
    logitBias: checkLogitBias(options.logitBias, vocabSize),
    seed: number("seed", Math.floor(Math.random() * 2 ** 53), "a safe integer", Number.isSafeInteger),
    stop: checkStop(options.stop),
    logProbs: number("logProbs", 0, "an integer from 0 to 20", (value) => Number.isInteger(value) && value >= 0 && value <= 20),
    signal: checkSignal(options.signal),
  };
}

/** A copy, each element read once and checked. Throws TypeError or RangeError naming the first that is no token id in 0…vocabSize − 1. */
export function checkedTokens(name: string, tokens: unknown, vocabSize: number): number[] {
  if (!Array.isArray(tokens)) throw new TypeError(`${name} is ${show(tokens)}; expected an array of token ids.`);
  const copy: number[] = []; // not [...tokens]: an array of holes may be 4 G long
  for (let i = 0; i < tokens.length; i++) {
    const id: unknown = tokens[i];
    if (typeof id !== "number") throw new TypeError(`${name}[${i}] is ${show(id)}; expected a token id.`);
    if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
      throw new RangeError(`${name}[${i}] is ${id}; expected a token id from 0 to ${vocabSize - 1}.`);
    }
    copy.push(id);
  }
  return copy;
}

/** The tokens of a text, or checkedTokens(). */
export function tokensOf(name: string, given: unknown, tokenizer: Tokenizer, vocabSize: number): number[] {
  if (typeof given !== "string" && !Array.isArray(given)) throw new TypeError(`${name} is ${show(given)}; expected a string or an array of token ids.`);
  return checkedTokens(name, typeof given === "string" ? tokenizer.encode(given) : given, vocabSize);
}

function checkLogitBias(logitBias: unknown, vocabSize: number): ResolvedGenerateOptions["logitBias"] {
  if (logitBias === undefined) return [];
  if (typeof logitBias !== "object" || logitBias === null) {
    throw new TypeError(`logitBias is ${show(logitBias)}; expected an object from token id to number.`);
  }
  return Object.entries(logitBias).map(([key, bias]: [string, unknown]) => {
    const id = Number(key);
    if (String(id) !== key || !Number.isInteger(id) || id < 0 || id >= vocabSize) {
      throw new RangeError(`logitBias has the key ${show(key)}; expected a token id from 0 to ${vocabSize - 1}.`);
    }
    if (typeof bias !== "number") throw new TypeError(`logitBias[${key}] is ${show(bias)}; expected a number.`);
    if (Number.isNaN(bias)) throw new RangeError(`logitBias[${key}] is NaN; expected a number.`);
    return [id, bias] as const;
  });
}

function checkStop(stop: unknown): readonly string[] {
  if (stop === undefined) return [];
  if (!Array.isArray(stop)) throw new TypeError(`stop is ${show(stop)}; expected an array of strings.`);
  if (stop.length > MAX_STOP_STRINGS) throw new RangeError(`stop has ${stop.length} strings; expected at most ${MAX_STOP_STRINGS}.`);
  return Array.from(stop, (value: unknown, i) => { // not stop.map(), which leaves holes as they are
    if (typeof value !== "string") throw new TypeError(`stop[${i}] is ${show(value)}; expected a string.`);
    if (value.length === 0 || value.length > MAX_STOP_LENGTH) {
      throw new RangeError(`stop[${i}] has ${value.length} characters; expected 1 to ${MAX_STOP_LENGTH}.`);
    }
    // Half a character could match inside a whole one and cut it in two.
    if (/\p{Surrogate}/u.test(value)) throw new RangeError(`stop[${i}] is ${show(value)}; expected whole characters, not a lone surrogate.`);
    return value;
  });
}

/** Checks what watches and stops a call. Throws TypeError naming it. */
export function checkWatching({ signal, onProgress, beforeWindow, onStart }: { signal?: unknown; onProgress?: unknown; beforeWindow?: unknown; onStart?: unknown }): void {
  checkSignal(signal);
  for (const [name, callback] of Object.entries({ onProgress, beforeWindow, onStart })) {
    if (callback !== undefined && typeof callback !== "function") throw new TypeError(`${name} is ${show(callback)}; expected a function.`);
  }
}

function checkSignal(signal: unknown): AbortSignal | undefined {
  if (signal === undefined) return undefined;
  // By its shape: the signal may come from another realm.
  if (typeof signal !== "object" || signal === null || !("aborted" in signal)) {
    throw new TypeError(`signal is ${show(signal)}; expected an AbortSignal.`);
  }
  return signal as AbortSignal;
}
