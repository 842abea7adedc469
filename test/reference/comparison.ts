/** The measures of a comparison as llama.cpp's perplexity tool defines them, from sums of values and of squares in f64; for reading, not for huge samples. */
import type { Gpt2Config, PerplexityOptions } from "../../src/types.ts";
import { argmax, klDivergence, logSoftmax, referenceLogits, type ReferenceWeights, referenceWindows } from "./gpt2.ts";

export interface ReferenceSamples {
  nlls: number[];
  baselineNlls: number[];
  klDivergences: number[];
  sameTops: number[];
}

/** What both models say of every token that a protocol scores. */
export function referenceSamples(
  config: Gpt2Config,
  weights: ReferenceWeights,
  baselineWeights: ReferenceWeights,
  tokens: readonly number[],
  { protocol, windowTokens, strideTokens }: { protocol: NonNullable<PerplexityOptions["protocol"]>; windowTokens: number; strideTokens: number },
): ReferenceSamples {
  const V = config.vocabSize;
  const samples: ReferenceSamples = { nlls: [], baselineNlls: [], klDivergences: [], sameTops: [] };
  for (const { start, end, firstTarget } of referenceWindows(tokens.length, protocol, windowTokens, strideTokens)) {
    const own = referenceLogits(config, weights, tokens.slice(start, end));
    const base = referenceLogits(config, baselineWeights, tokens.slice(start, end));
    for (let target = firstTarget; target < end; target++) {
      const row = target - 1 - start;
      const ownRow = own.subarray(row * V, (row + 1) * V);
      const baseRow = base.subarray(row * V, (row + 1) * V);
      samples.nlls.push(-logSoftmax(ownRow)[tokens[target]!]!);
      samples.baselineNlls.push(-logSoftmax(baseRow)[tokens[target]!]!);
      samples.klDivergences.push(klDivergence(baseRow, ownRow));
      samples.sameTops.push(Number(argmax(ownRow) === argmax(baseRow)));
    }
  }
  return samples;
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
const products = (a: readonly number[], b: readonly number[]): number[] => a.map((value, i) => value * b[i]!);
/** Of two means: (E[ab] − E[a] E[b]) / (n − 1). */
const covariance = (a: readonly number[], b: readonly number[]): number => (mean(products(a, b)) - mean(a) * mean(b)) / (a.length - 1);
/** Of a mean: √((E[x²] − E[x]²) / (n − 1)). */
const uncertainty = (values: readonly number[]): number => Math.sqrt(covariance(values, values));

function percentile(values: readonly number[], fraction: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = Math.floor(fraction * (sorted.length - 1));
  const rest = fraction * (sorted.length - 1) - at;
  return (1 - rest) * sorted[at]! + rest * sorted[Math.min(at + 1, sorted.length - 1)]!;
}

/** Every measure of a row, under the names of ComparisonRow. */
export function referenceMeasures({ nlls, baselineNlls, klDivergences, sameTops }: ReferenceSamples) {
  const perplexity = Math.exp(mean(nlls));
  const baseline = Math.exp(mean(baselineNlls));
  const [error, baselineError, shared] = [uncertainty(nlls), uncertainty(baselineNlls), covariance(nlls, baselineNlls)];
  const deltas = nlls.map((nll, i) => Math.exp(-nll) - Math.exp(-baselineNlls[i]!));
  const rms = Math.sqrt(mean(products(deltas, deltas)));
  const same = mean(sameTops);
  return {
    perplexity,
    standardError: perplexity * error,
    ratio: perplexity / baseline,
    ratioError: (perplexity / baseline) * Math.sqrt(error ** 2 + baselineError ** 2 - 2 * shared),
    difference: perplexity - baseline,
    differenceError: Math.sqrt((perplexity * error) ** 2 + (baseline * baselineError) ** 2 - 2 * perplexity * baseline * shared),
    klDivergence: {
      mean: mean(klDivergences),
      error: uncertainty(klDivergences),
      median: percentile(klDivergences, 0.5),
      p90: percentile(klDivergences, 0.9),
      p95: percentile(klDivergences, 0.95),
      p99: percentile(klDivergences, 0.99),
      p999: percentile(klDivergences, 0.999),
      max: Math.max(...klDivergences),
    },
    sameTopToken: { fraction: same, error: Math.sqrt((same * (1 - same)) / (sameTops.length - 1)) },
    deltaP: {
      mean: mean(deltas),
      error: uncertainty(deltas),
      rms,
      rmsError: (0.5 / rms) * uncertainty(products(deltas, deltas)),
      min: Math.min(...deltas),
      p1: percentile(deltas, 0.01),
      p5: percentile(deltas, 0.05),
      p10: percentile(deltas, 0.1),
      p25: percentile(deltas, 0.25),
      median: percentile(deltas, 0.5),
      p75: percentile(deltas, 0.75),
      p90: percentile(deltas, 0.9),
      p95: percentile(deltas, 0.95),
      p99: percentile(deltas, 0.99),
      max: Math.max(...deltas),
    },
  };
}
