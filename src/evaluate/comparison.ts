import type { EngineError } from "../errors.ts";
import { throwIfAborted } from "../errors.ts";
import type { Backend } from "../model/backend.ts";
import type { ComparisonRow, QuantizationRecipe } from "../types.ts";
import { checkFinite, measurePerplexity, type MeasureOptions, NllCollector, scoreBlocks, windowsAtOnce } from "./perplexity.ts";
import type { WindowPlan } from "./protocols.ts";
import { perplexityOf, perplexityRatio, proportion, summarizeDeltaP, summarizeKlDivergence } from "./statistics.ts";

/** What a row learns from scoring the text. */
export type RowMeasures = Pick<ComparisonRow, "perplexity" | "standardError" | "ratio" | "ratioError" | "klDivergence" | "sameTopToken" | "deltaP">;

/**
 * Scores the candidate and, over the same windows, compares its distributions with the baseline's; baseline null: the candidate is the baseline.
 * tokens: ids in 0…V − 1, those the plan was made for. Rejects with `shader` where a value is not finite, with signal.reason on abort.
 */
export async function measureRow(
  candidate: Backend,
  baseline: Backend | null,
  tokens: readonly number[],
  plan: WindowPlan,
  options: MeasureOptions = {},
): Promise<RowMeasures> {
  if (baseline) return compareRow(candidate, baseline, tokens, plan, options);
  const { perplexity, standardError } = (await measurePerplexity(candidate, tokens, plan, null, options)).report;
  const zeros = new Float64Array(1);
  return {
    perplexity,
    standardError,
    ratio: 1,
    ratioError: 0,
    klDivergence: { ...summarizeKlDivergence(zeros), error: 0 },
    sameTopToken: { fraction: 1, error: 0 },
    deltaP: { ...summarizeDeltaP(zeros), error: 0 },
  };
}

/** The row of a recipe that could not run: every measure is NaN, every list empty. */
export function emptyRow(name: string, recipe: QuantizationRecipe, error: EngineError): ComparisonRow {
  const none = new Float64Array(1).fill(NaN);
  return {
    name,
    recipe,
    error,
    bytes: { weights: NaN, embedding: NaN, scales: NaN, total: NaN },
    bitsPerWeight: NaN,
    perplexity: NaN,
    standardError: NaN,
    ratio: NaN,
    ratioError: NaN,
    klDivergence: summarizeKlDivergence(none),
    sameTopToken: { fraction: NaN, error: NaN },
    deltaP: summarizeDeltaP(none),
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
  { onProgress, signal }: MeasureOptions,
): Promise<RowMeasures> {
  const baselineNlls = new NllCollector(plan, undefined);
  const nlls = new NllCollector(plan, onProgress);
  const klDivergence = new Float64Array(plan.scoredTokens);
  const sameTop = new Uint8Array(plan.scoredTokens);
  let count = 0;
  const together = Math.min(windowsAtOnce(baseline, plan), windowsAtOnce(candidate, plan));
  for (const block of scoreBlocks(tokens, plan, together)) {
    throwIfAborted(signal);
    if (block.window) {
      await baseline.encodeWindow(block.window, signal, block.windowTokens);
      await candidate.encodeWindow(block.window, signal, block.windowTokens);
    }
    const rows = await candidate.compare(baseline, block.row, block.targets, signal);
    baselineNlls.add(rows.baseLogProbs, block.firstTarget);
    nlls.add(rows.logProbs, block.firstTarget);
    checkFinite("KL divergence", rows.klDivergence, block.firstTarget);
    klDivergence.set(rows.klDivergence, count);
    sameTop.set(rows.sameTop, count);
    count += block.targets.length;
  }
  const { perplexity, standardError } = perplexityOf(nlls.values);
  return {
    perplexity,
    standardError,
    ...perplexityRatio(nlls.values, baselineNlls.values),
    klDivergence: summarizeKlDivergence(klDivergence),
    sameTopToken: proportion(sameTop),
    deltaP: summarizeDeltaP(nlls.values.map((nll, i) => Math.exp(-nll) - Math.exp(-baselineNlls.values[i]!))),
  };
}
