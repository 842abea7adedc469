import { checkFinite, orAborted, throwIfAborted } from "../errors.ts";
import type { ModelBackend } from "../model/backend.ts";
import type { Tokenizer } from "../tokenizer/types.ts";
import type { PerplexityProgress, PerplexityReport } from "../types.ts";
import type { WindowPlan } from "./protocols.ts";
import { perplexityOf, Sum } from "./statistics.ts";

/** Rows per call to a backend: bounds what it computes before progress is reported and an abort is seen. */
export const SCORE_BLOCK_ROWS = 128;

/** How a measurement is watched and stopped. */
export interface MeasureOptions {
  /** After every block of rows; perplexity is the running value. */
  onProgress?: (progress: PerplexityProgress) => void;
  signal?: AbortSignal;
  /** Before what is encoded together; the measurement waits for it. */
  beforeWindow?: () => void | Promise<void>;
}

export interface PerplexityMeasurement {
  report: PerplexityReport;
  /** f64 [plan.scoredTokens]: −ln p of each scored token, nats, in the order of the plan. */
  nlls: Float64Array;
}

/**
 * Scores the tokens as planned. tokens: ids in 0…V − 1, those the plan was made for.
 * byteLengths: u32 [tokens.length] from tokenByteLengths(), for bits per byte of the scored tokens; null where there is no text.
 * Rejects with `shader` where a log-probability is not finite, with signal.reason on abort.
 */
export async function measurePerplexity(
  backend: ModelBackend,
  tokens: readonly number[],
  plan: WindowPlan,
  byteLengths: Uint32Array | null,
  { onProgress, signal, beforeWindow }: MeasureOptions = {},
): Promise<PerplexityMeasurement> {
  const nlls = new NllCollector(plan, onProgress);
  for (const block of scoreBlocks(tokens, plan, windowsAtOnce(backend, plan))) {
    throwIfAborted(signal);
    if (block.window) {
      await orAborted(beforeWindow?.(), signal);
      await backend.encodeWindow(block.window, signal, block.windowTokens);
    }
    nlls.add(await backend.score(block.row, block.targets, signal), block.firstTarget);
  }
  return { report: reportOf(plan, nlls.values, byteLengths && scoredBytes(plan, byteLengths)), nlls: nlls.values };
}

export interface ScoreBlock {
  /** The tokens of a window, or of several one after the other, that begin with this block; absent while they stay the same. */
  window?: readonly number[];
  /** Of each of the windows. */
  windowTokens: number;
  /** First row of the block within what was encoded together. */
  row: number;
  /** The tokens that its rows predict. */
  targets: readonly number[];
  /** Index of the first of them in the text. */
  firstTarget: number;
}

/** Windows of this plan that the backend takes together. */
export function windowsAtOnce(backend: ModelBackend, plan: WindowPlan): number {
  return backend.windowsAtOnce?.(plan.windowTokens) ?? 1;
}

/** The plan cut into blocks of at most SCORE_BLOCK_ROWS rows of one window; up to `together` windows of one length are encoded at a time. */
export function* scoreBlocks(tokens: readonly number[], { windows }: WindowPlan, together: number): Generator<ScoreBlock, void, undefined> {
  for (let first = 0, count = 1; first < windows.length; first += count) {
    const { length } = windows[first]!;
    count = 1;
    while (count < together && windows[first + count]?.length === length) count++;
    const group = windows.slice(first, first + count);
    let window: number[] | undefined = group.flatMap(({ start }) => tokens.slice(start, start + length));
    for (const [i, { start, scoreFrom, scoreTo }] of group.entries()) {
      for (let row = scoreFrom; row < scoreTo; row += SCORE_BLOCK_ROWS) {
        const firstTarget = start + row + 1;
        const targets = tokens.slice(firstTarget, start + Math.min(row + SCORE_BLOCK_ROWS, scoreTo) + 1);
        yield { window, windowTokens: length, row: i * length + row, targets, firstTarget };
        window = undefined;
      }
    }
  }
}

/** Gathers the scores of a plan in order, checks that they are finite, and reports progress. */
export class NllCollector {
  /** f64 [plan.scoredTokens], nats. */
  readonly values: Float64Array;
  readonly #onProgress: MeasureOptions["onProgress"];
  readonly #sum = new Sum();
  #count = 0;

  constructor(plan: WindowPlan, onProgress: MeasureOptions["onProgress"]) {
    this.values = new Float64Array(plan.scoredTokens);
    this.#onProgress = onProgress;
  }

  /** logProbs: f32 [rows of the block], nats; firstTarget: index in the text of the token that the first belongs to. */
  add(logProbs: Float32Array, firstTarget: number): void {
    checkFinite("Log-probability", logProbs, firstTarget);
    for (const logProb of logProbs) {
      this.values[this.#count++] = -logProb;
      this.#sum.add(-logProb);
    }
    this.#onProgress?.({ scoredTokens: this.#count, totalTokens: this.values.length, perplexity: Math.exp(this.#sum.value / this.#count) });
  }
}

/** UTF-8 bytes of each token, u32 [tokens.length]; a character split over several tokens counts where it ends, so that the sum is the text's length. */
export function tokenByteLengths(tokens: readonly number[], tokenizer: Tokenizer): Uint32Array {
  const encoder = new TextEncoder();
  const stream = tokenizer.stream();
  return Uint32Array.from(tokens, (token) => encoder.encode(stream.push(token)).length);
}

/** UTF-8 bytes of the scored tokens. */
export function scoredBytes(plan: WindowPlan, byteLengths: Uint32Array): number {
  let bytes = 0;
  for (const { start, scoreFrom, scoreTo } of plan.windows) {
    for (let row = scoreFrom; row < scoreTo; row++) bytes += byteLengths[start + row + 1]!;
  }
  return bytes;
}

/** Σ nll / (ln 2 · bytes of the scored tokens); nll: mean, nats. */
export function bitsPerByte(nll: number, scoredTokens: number, bytes: number | null): number | null {
  return bytes === null ? null : (nll * scoredTokens) / (Math.LN2 * bytes);
}

function reportOf(plan: WindowPlan, nlls: Float64Array, bytes: number | null): PerplexityReport {
  const estimate = perplexityOf(nlls);
  return {
    ...estimate,
    bitsPerByte: bitsPerByte(estimate.nll, nlls.length, bytes),
    scoredTokens: nlls.length,
    windows: plan.windows.length,
    protocol: plan.protocol,
    windowTokens: plan.windowTokens,
    strideTokens: plan.strideTokens,
  };
}
