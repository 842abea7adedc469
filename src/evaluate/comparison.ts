import type { EngineError } from "../errors.ts";
import { checkFinite, orAborted, throwIfAborted } from "../errors.ts";
import type { Backend } from "../model/backend.ts";
import type { ComparisonRow, ComparisonSamples, QuantizationRecipe } from "../types.ts";
import { bitsPerByte, measurePerplexity, type MeasureOptions, NllCollector, scoreBlocks, windowsAtOnce } from "./perplexity.ts";
import type { WindowPlan } from "./protocols.ts";
import { perplexityDifference, perplexityOf, perplexityRatio, proportion, summarizeDeltaP, summarizeKlDivergence } from "./statistics.ts";

/** What a row learns from scoring the text. */
export type RowMeasures = Pick<
  ComparisonRow,
  "perplexity" | "standardError" | "bitsPerByte" | "ratio" | "ratioError" | "difference" | "differenceError" | "klDivergence" | "sameTopToken" | "deltaP"
>;

/**
 * Scores the candidate and, over the same windows, compares its distributions with the baseline's; baseline null: the candidate is the baseline.
 * tokens: ids in 0…V − 1, those the plan was made for. Rejects with `shader` where a value is not finite, with signal.reason on abort.
 */
export async function sampleRow(
  candidate: Backend,
  baseline: Backend | null,
  tokens: readonly number[],
  plan: WindowPlan,
  options: MeasureOptions = {},
): Promise<ComparisonSamples> {
  if (baseline) return compareRow(candidate, baseline, tokens, plan, options);
  const nll = Float32Array.from((await measurePerplexity(candidate, tokens, plan, null, options)).nlls);
  return { nll, baselineNll: nll, klDivergence: new Float32Array(nll.length), sameTopToken: new Uint8Array(nll.length).fill(1) };
}

/** Every measure of a row from its samples, all sums in f64. scoredBytes: UTF-8 of the scored tokens; null where there is no text. */
export function measuresOf(samples: ComparisonSamples, scoredBytes: number | null): RowMeasures {
  const nlls = Float64Array.from(samples.nll);
  const baselineNlls = Float64Array.from(samples.baselineNll);
  const { perplexity, standardError, nll } = perplexityOf(nlls);
  return {
    perplexity,
    standardError,
    bitsPerByte: bitsPerByte(nll, nlls.length, scoredBytes),
    ...perplexityRatio(nlls, baselineNlls),
    ...perplexityDifference(nlls, baselineNlls),
    klDivergence: summarizeKlDivergence(Float64Array.from(samples.klDivergence)),
    sameTopToken: proportion(samples.sameTopToken),
    deltaP: summarizeDeltaP(nlls.map((own, i) => Math.exp(-own) - Math.exp(-baselineNlls[i]!))),
  };
}

/** The row of a recipe that could not run: every measure is NaN, every list empty. */
export function emptyRow(name: string, recipe: QuantizationRecipe, error: EngineError): ComparisonRow {
  const none = { nll: new Float32Array(0), baselineNll: new Float32Array(0), klDivergence: new Float32Array(0), sameTopToken: new Uint8Array(0) };
  return {
    name,
    recipe,
    error,
    bytes: { weights: NaN, embedding: NaN, scales: NaN, total: NaN },
    bitsPerWeight: NaN,
    ...measuresOf(none, null),
    quantizeMs: NaN,
    prefillTokensPerSecond: NaN,
    decodeTokensPerSecond: NaN,
    tensors: [],
  };
}

async function compareRow(
  candidate: Backend,
  baseline: Backend,
  tokens: readonly number[],
  plan: WindowPlan,
  { onProgress, signal, beforeWindow }: MeasureOptions,
): Promise<ComparisonSamples> {
  const baselineNlls = new NllCollector(plan, undefined);
  const nlls = new NllCollector(plan, onProgress);
  const klDivergence = new Float32Array(plan.scoredTokens);
  const sameTopToken = new Uint8Array(plan.scoredTokens);
  let count = 0;
  const together = Math.min(windowsAtOnce(baseline, plan), windowsAtOnce(candidate, plan));
  for (const block of scoreBlocks(tokens, plan, together)) {
    throwIfAborted(signal);
    if (block.window) {
      await orAborted(beforeWindow?.(), signal);
      await baseline.encodeWindow(block.window, signal, block.windowTokens);
      await candidate.encodeWindow(block.window, signal, block.windowTokens);
    }
    const rows = await candidate.compare(baseline, block.row, block.targets, signal);
    baselineNlls.add(rows.baseLogProbs, block.firstTarget);
    nlls.add(rows.logProbs, block.firstTarget);
    checkFinite("KL divergence", rows.klDivergence, block.firstTarget);
    klDivergence.set(rows.klDivergence, count);
    sameTopToken.set(rows.sameTop, count);
    count += block.targets.length;
  }
  return { nll: Float32Array.from(nlls.values), baselineNll: Float32Array.from(baselineNlls.values), klDivergence, sameTopToken };
}
