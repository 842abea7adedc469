import type { ComparisonRow } from "../types.ts";

/** Compensated (Neumaier) sum in f64: the error does not grow with the count. */
export class Sum {
  #sum = 0;
  #lost = 0;

  get value(): number {
    return this.#sum + this.#lost;
  }

  add(value: number): void {
    const sum = this.#sum + value;
    this.#lost += Math.abs(this.#sum) >= Math.abs(value) ? this.#sum - sum + value : value - sum + this.#sum;
    this.#sum = sum;
  }
}

export function mean(values: Float64Array): number {
  return sumOf(values, (value) => value) / values.length;
}

/** Σ (x − mean)² / (n − 1); NaN for fewer than two values. */
export function variance(values: Float64Array): number {
  const center = mean(values);
  return values.length < 2 ? NaN : sumOf(values, (value) => (value - center) ** 2) / (values.length - 1);
}

/** Of the mean: √(variance / n), which is llama.cpp's √((E[x²] − E[x]²) / (n − 1)); NaN for fewer than two values. */
export function standardError(values: Float64Array): number {
  return Math.sqrt(variance(values) / values.length);
}

/** √(Σ x² / n). */
export function rootMeanSquare(values: Float64Array): number {
  return Math.sqrt(sumOf(values, (value) => value * value) / values.length);
}

/**
 * Value at position fraction · (n − 1) of the sorted values, linear between neighbours, as llama.cpp's percentiles
 * (and NumPy's default). sorted: ascending, not empty; 0 ≤ fraction ≤ 1.
 */
export function percentile(sorted: Float64Array, fraction: number): number {
  const position = fraction * (sorted.length - 1);
  const below = Math.floor(position);
  const above = Math.min(below + 1, sorted.length - 1);
  const weight = position - below;
  return (1 - weight) * sorted[below]! + weight * sorted[above]!;
}

/** exp(mean nll) ± perplexity · standardError(nll). nlls: nats per token. */
export function perplexityOf(nlls: Float64Array): { perplexity: number; standardError: number; nll: number } {
  const nll = mean(nlls);
  const perplexity = Math.exp(nll);
  return { perplexity, standardError: perplexity * standardError(nlls), nll };
}

/** perplexity / baseline perplexity = exp(mean d) ± ratio · standardError(d), where d are the differences token by token: what both models share cancels. */
export function perplexityRatio(nlls: Float64Array, baselineNlls: Float64Array): { ratio: number; ratioError: number } {
  const differences = nlls.map((nll, i) => nll - baselineNlls[i]!);
  const ratio = Math.exp(mean(differences));
  return { ratio, ratioError: ratio * standardError(differences) };
}

/** perplexity − baseline perplexity; an nll moves a perplexity by the perplexity times as much, so the error is that of the mean of p · nll − p₀ · nll₀: √(σ² + σ₀² − 2 cov). */
export function perplexityDifference(nlls: Float64Array, baselineNlls: Float64Array): { difference: number; differenceError: number } {
  const { perplexity } = perplexityOf(nlls);
  const baseline = perplexityOf(baselineNlls).perplexity;
  return { difference: perplexity - baseline, differenceError: standardError(nlls.map((nll, i) => perplexity * nll - baseline * baselineNlls[i]!)) };
}

/** p ± √(p (1 − p) / (n − 1)). flags: 0 or 1. */
export function proportion(flags: Uint8Array): { fraction: number; error: number } {
  let count = 0;
  for (const flag of flags) count += flag;
  const fraction = count / flags.length;
  return { fraction, error: flags.length < 2 ? NaN : Math.sqrt((fraction * (1 - fraction)) / (flags.length - 1)) };
}

/** values: KL divergence per token, nats. */
export function summarizeKlDivergence(values: Float64Array): ComparisonRow["klDivergence"] {
  const sorted = values.toSorted();
  const at = (fraction: number): number => percentile(sorted, fraction);
  return { mean: mean(values), error: standardError(values), median: at(0.5), p90: at(0.9), p95: at(0.95), p99: at(0.99), p999: at(0.999), max: at(1) };
}

/** values: probability of the true next token minus the baseline's. The root's error follows from the mean square's: error(x²) / (2 rms). */
export function summarizeDeltaP(values: Float64Array): ComparisonRow["deltaP"] {
  const rms = rootMeanSquare(values);
  const sorted = values.toSorted();
  const at = (fraction: number): number => percentile(sorted, fraction);
  return {
    mean: mean(values),
    error: standardError(values),
    rms,
    rmsError: rms === 0 ? 0 : standardError(values.map((value) => value * value)) / (2 * rms),
    min: at(0),
    p1: at(0.01),
    p5: at(0.05),
    p10: at(0.1),
    p25: at(0.25),
    median: at(0.5),
    p75: at(0.75),
    p90: at(0.9),
    p95: at(0.95),
    p99: at(0.99),
    max: at(1),
  };
}

function sumOf(values: Float64Array, term: (value: number) => number): number {
  const sum = new Sum();
  for (const value of values) sum.add(term(value));
  return sum.value;
}
