import { type ModelSource, type ModelTokenizer, planWindows, type WindowPlan } from "nibble-webgpu";
import type { PanelLoadOptions } from "./panelElement.ts";
import type { Settings } from "./settings.ts";
import type { TextOutlook } from "./textControls.ts";

/** What a run was made of, kept for whoever looks into it afterwards. */
export interface Measurement {
  source: ModelSource;
  load: PanelLoadOptions;
  tokenizer: ModelTokenizer;
  /** Those that were measured, whether or not they were scored. */
  tokens: readonly number[];
  plan: WindowPlan;
}

/** The first tokens of the text, as far as the settings want them. */
export function limited(tokens: readonly number[], { tokenLimit }: Settings): readonly number[] {
  return tokenLimit === null ? tokens : tokens.slice(0, tokenLimit);
}

/** The windows that the settings make of so many tokens. @throws RangeError naming the field */
export function planOf(tokenCount: number, { protocol, windowTokens, strideTokens }: Settings, { config }: ModelTokenizer): WindowPlan {
  return planWindows(tokenCount, { protocol, windowTokens: windowTokens ?? undefined, strideTokens: strideTokens ?? undefined }, config.nPositions);
}

/** What the settings will measure, or what is wrong with them. */
export function outlookOf(tokens: readonly number[], settings: Settings, tokenizer: ModelTokenizer): TextOutlook {
  const textTokens = tokens.length;
  try {
    const { windows, ...plan } = planOf(limited(tokens, settings).length, settings, tokenizer);
    return { textTokens, plan: { ...plan, windows: windows.length }, problem: null };
  } catch (error) {
    const { message } = error as Error;
    return { textTokens, plan: null, problem: { field: message.split(" ")[0]!, message } };
  }
}

/** A token that was scored: where it stands, and the window that it was read in. */
export interface ScoredToken {
  /** Index in the tokens. */
  position: number;
  /** Index of the first token that the model had seen. */
  contextStart: number;
}

/** The scored tokens in the order of a row's samples. */
export function scoredTokens({ windows }: WindowPlan): ScoredToken[] {
  return windows.flatMap(({ start, scoreFrom, scoreTo }) => Array.from({ length: scoreTo - scoreFrom }, (_, i) => ({ position: start + scoreFrom + i + 1, contextStart: start })));
}

/** What each token adds to the text in whole characters: a token that ends inside one gives "" and a later one the character. */
export function wholeCharacters(tokens: readonly number[], decode: ModelTokenizer["decode"]): string[] {
  let from = 0;
  return tokens.map((_, i) => {
    const text = decode(tokens.slice(from, i + 1));
    if (text.endsWith("\uFFFD") && i - from < 3 && i + 1 < tokens.length) return ""; // no character is longer than four bytes
    from = i + 1;
    return text;
  });
}

/** Settles as `promise` does, or rejects with the signal's reason if that comes first. */
export async function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  let stop = (): void => undefined;
  const aborted = new Promise<never>((_, reject) => (stop = () => reject(signal.reason)));
  if (signal.aborted) stop();
  signal.addEventListener("abort", stop);
  try {
    return await Promise.race([aborted, promise]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
