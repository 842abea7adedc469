import { show } from "../errors.ts";
import type { PerplexityOptions, Shard } from "../types.ts";

/** Row i of a window predicts token start + i + 1 from tokens start … start + i. */
export interface EvaluationWindow {
  /** Index of the window's first token in the text. */
  start: number;
  /** Tokens in the window. */
  length: number;
  /** Rows scoreFrom … scoreTo − 1 are scored. */
  scoreFrom: number;
  scoreTo: number;
}

/** The windows of a text, and what is scored of them. */
export interface WindowPlan {
  protocol: NonNullable<PerplexityOptions["protocol"]>;
  windowTokens: number;
  /** Distance between the starts of windows. */
  strideTokens: number;
  windows: readonly EvaluationWindow[];
  scoredTokens: number;
}

/**
 * Which tokens are scored, and from how much context.
 * "strided" (Hugging Face's guide): windows start at 0, S, 2S… until one reaches the end; each scores the tokens that no earlier one scored.
 * "disjoint" (GPTQ): whole windows only, all but the first token of each scored.
 * "llama.cpp": whole windows only, rows ⌊n/2⌋ … n − 2 of each scored (255 of 512).
 * A token that begins its window is never scored; strideTokens is read by "strided" alone.
 * Throws TypeError or RangeError naming the option.
 */
export function planWindows(
  tokenCount: number,
  options: Pick<PerplexityOptions, "protocol" | "windowTokens" | "strideTokens">,
  nPositions: number,
): WindowPlan {
  const protocol = options.protocol ?? "strided";
  if (protocol !== "strided" && protocol !== "disjoint" && protocol !== "llama.cpp") {
    throw new RangeError(`protocol is ${show(protocol)}; expected "strided", "disjoint" or "llama.cpp".`);
  }
  const leastTokens = protocol === "llama.cpp" ? 3 : 2; // a window that scores one token
  const windowTokens = options.windowTokens ?? (protocol === "llama.cpp" ? Math.min(512, nPositions) : nPositions);
  checkInteger("windowTokens", windowTokens, leastTokens, nPositions);
  let strideTokens = windowTokens;
  if (protocol === "strided") {
    strideTokens = options.strideTokens ?? Math.floor(windowTokens / 2);
    checkInteger("strideTokens", strideTokens, 1, windowTokens);
  }
  const neededTokens = protocol === "strided" ? 2 : windowTokens;
  if (tokenCount < neededTokens) {
    throw new RangeError(`text has ${tokenCount} tokens; expected at least ${neededTokens} for protocol "${protocol}" with windowTokens ${windowTokens}.`);
  }

  const windows =
    protocol === "strided"
      ? stridedWindows(tokenCount, windowTokens, strideTokens)
      : wholeWindows(tokenCount, windowTokens, protocol === "disjoint" ? 0 : Math.floor(windowTokens / 2));
  return planOf({ protocol, windowTokens, strideTokens }, windows);
}

/** The part of a plan that one shard scores, which may be nothing. Throws TypeError or RangeError naming what is wrong with the shard. */
export function shardOf(plan: WindowPlan, { index, count }: Shard): WindowPlan {
  checkInteger("shard.count", count, 1, Number.MAX_SAFE_INTEGER);
  checkInteger("shard.index", index, 0, count - 1);
  return planOf(plan, plan.windows.filter((_, j) => j % count === index));
}

function planOf({ protocol, windowTokens, strideTokens }: Omit<WindowPlan, "windows" | "scoredTokens">, windows: readonly EvaluationWindow[]): WindowPlan {
  return { protocol, windowTokens, strideTokens, windows, scoredTokens: windows.reduce((sum, { scoreFrom, scoreTo }) => sum + scoreTo - scoreFrom, 0) };
}

function stridedWindows(tokenCount: number, windowTokens: number, strideTokens: number): EvaluationWindow[] {
  const windows: EvaluationWindow[] = [];
  let scoredEnd = 0; // tokens before it are scored, or cannot be
  for (let start = 0; scoredEnd < tokenCount; start += strideTokens) {
    const length = Math.min(windowTokens, tokenCount - start);
    const scoreFrom = Math.max(scoredEnd, start + 1) - start - 1;
    if (length - 1 > scoreFrom) windows.push({ start, length, scoreFrom, scoreTo: length - 1 }); // else: one token is left, which begins its window
    scoredEnd = start + length;
  }
  return windows;
}

function wholeWindows(tokenCount: number, windowTokens: number, scoreFrom: number): EvaluationWindow[] {
  const count = Math.floor(tokenCount / windowTokens);
  return Array.from({ length: count }, (_, i) => ({ start: i * windowTokens, length: windowTokens, scoreFrom, scoreTo: windowTokens - 1 }));
}

function checkInteger(name: string, value: unknown, least: number, most: number): void {
  if (typeof value !== "number") throw new TypeError(`${name} is ${typeof value}; expected an integer from ${least} to ${most}.`);
  if (!Number.isInteger(value) || value < least || value > most) throw new RangeError(`${name} is ${value}; expected an integer from ${least} to ${most}.`);
}
