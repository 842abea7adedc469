import type { RankedToken, SampledToken } from "../model/backend.ts";
import { requireFiniteLogits } from "./finiteLogits.ts";
import type { ResolvedGenerateOptions } from "./options.ts";
import { CounterRandom, GUMBEL_MAX, gumbel } from "./random.ts";

export type SamplingOptions = Omit<ResolvedGenerateOptions, "maxTokens" | "stop" | "signal">;

/**
 * Chooses the tokens of one generation: logit bias, then penalties (repetition, frequency, presence), temperature, top-k,
 * top-p (over what top-k left) and min-p (against the likeliest token), then one draw by Gumbel-max: the kept token with the largest
 * logit / temperature + gumbel(uniform(seed, step, id)). The noise belongs to the token id, so any order of evaluation draws the same token.
 */
export class Sampler {
  readonly #options: SamplingOptions;
  readonly #random: CounterRandom;
  readonly #seen: Set<number>; // prompt and output
  readonly #outputCounts = new Map<number, number>();
  readonly #scores: Float64Array; // [V]
  readonly #weights: Float64Array; // [V]
  readonly #ids: Uint32Array; // [V]
  #step = 0;

  constructor(V: number, options: SamplingOptions, promptTokens: readonly number[]) {
    this.#options = options;
    this.#random = new CounterRandom(options.seed);
    this.#seen = new Set(promptTokens);
    this.#scores = new Float64Array(V);
    this.#weights = new Float64Array(V);
    this.#ids = new Uint32Array(V);
  }

  /** The next token of the output, from the logits after the last one. logits: f32 [V], not changed. Throws `shader` for NaN or Infinity. */
  sample(logits: Float32Array): SampledToken {
    const normalizer = logSumExp(logits);
    this.#adjust(logits);
    const id = this.#options.temperature === 0 ? argmax(this.#scores) : this.#draw();
    this.#step++;
    this.#seen.add(id);
    this.#outputCounts.set(id, (this.#outputCounts.get(id) ?? 0) + 1);
    const rank = (id: number): RankedToken => ({ id, logProb: logits[id]! - normalizer });
    return { ...rank(id), top: likeliest(logits, this.#options.logProbs).map(rank) };
  }

  /** scores = logits with bias and penalties, all finite. */
  #adjust(logits: Float32Array): void {
    const { logitBias, repetitionPenalty, frequencyPenalty, presencePenalty } = this.#options;
    const scores = this.#scores;
    const set = (id: number, score: number): void => {
      scores[id] = Math.max(-Number.MAX_VALUE, Math.min(score, Number.MAX_VALUE)); // a bias of −∞ bans; nothing may become NaN later
    };
    scores.set(logits);
    for (const [id, bias] of logitBias) set(id, scores[id]! + bias);
    if (repetitionPenalty !== 1) {
      for (const id of this.#seen) set(id, scores[id]! > 0 ? scores[id]! / repetitionPenalty : scores[id]! * repetitionPenalty);
    }
    if (frequencyPenalty !== 0 || presencePenalty !== 0) {
      for (const [id, count] of this.#outputCounts) set(id, scores[id]! - count * frequencyPenalty - presencePenalty);
    }
  }

  #draw(): number {
    const { temperature, topK, topP, minP } = this.#options;
    const scores = this.#scores;
    const weights = this.#weights;
    const ids = this.#ids;
    const V = scores.length;
    const likeliestId = argmax(scores);
    const maximum = scores[likeliestId]!;
    for (let id = 0; id < V; id++) {
      scores[id] = (scores[id]! - maximum) / temperature; // ≤ 0, so a tiny temperature cannot overflow
      ids[id] = id;
    }
    let kept = V;
    if (topK < V) kept = selectRanked(ids, kept, scores, weights.fill(1), topK);
    if (topP < 1) {
      let total = 0;
      for (let i = 0; i < kept; i++) total += weights[ids[i]!] = Math.exp(scores[ids[i]!]!);
      kept = selectRanked(ids, kept, scores, weights, topP * total);
    }
    const floor = Math.log(minP); // −∞ for 0
    let bestId = likeliestId;
    let best = scores[bestId]! + gumbel(this.#random.uniform(this.#step, bestId));
    for (let i = 0; i < kept; i++) {
      const id = ids[i]!;
      const score = scores[id]!;
      if (score < floor || score + GUMBEL_MAX < best) continue; // filtered out, or no noise could make it win
      const noisy = score + gumbel(this.#random.uniform(this.#step, id));
      if (noisy > best || (noisy === best && id < bestId)) {
        best = noisy;
        bestId = id;
      }
    }
    return bestId;
  }
}

/** ln Σ exp(logits) in f64; every logit must be finite. */
function logSumExp(logits: Float32Array): number {
  requireFiniteLogits(logits);
  let maximum = -Infinity;
  for (let id = 0; id < logits.length; id++) if (logits[id]! > maximum) maximum = logits[id]!;
  let sum = 0;
  for (let id = 0; id < logits.length; id++) sum += Math.exp(logits[id]! - maximum);
  return maximum + Math.log(sum);
}

/** The lowest id wins a tie. */
function argmax(scores: Float64Array): number {
  let best = 0;
  for (let id = 1; id < scores.length; id++) if (scores[id]! > scores[best]!) best = id;
  return best;
}

/** Ids of the `count` largest logits, largest first, the lowest id first among equals. */
function likeliest(logits: Float32Array, count: number): number[] {
  const ranking: number[] = [];
  if (count === 0) return ranking;
  for (let id = 0; id < logits.length; id++) {
    if (ranking.length === count && logits[id]! <= logits[ranking[count - 1]!]!) continue;
    let place = Math.min(ranking.length, count - 1);
    for (; place > 0 && logits[ranking[place - 1]!]! < logits[id]!; place--) ranking[place] = ranking[place - 1]!;
    ranking[place] = id;
  }
  return ranking;
}

/**
 * Moves to the front of ids[0…count) the fewest best-ranked ids (score descending, then id ascending) whose weights sum to `target`
 * or more, in any order, and returns how many they are: quickselect, O(count) on average. All of them where the sum falls short.
 */
function selectRanked(ids: Uint32Array, count: number, scores: Float64Array, weights: Float64Array, target: number): number {
  let low = 0; // ids[0…low) are chosen, and lack `target`
  let high = count; // ids[high…count) are out
  while (low < high) {
    const middle = (low + high) >>> 1;
    const pivot = ids[middle]!;
    const pivotScore = scores[pivot]!;
    ids[middle] = ids[high - 1]!;
    let end = low; // ids[low…end) rank before the pivot
    let weight = 0;
    for (let i = low; i < high - 1; i++) {
      const id = ids[i]!;
      const score = scores[id]!;
      if (score < pivotScore || (score === pivotScore && id > pivot)) continue;
      ids[i] = ids[end]!;
      ids[end++] = id;
      weight += weights[id]!;
    }
    ids[high - 1] = ids[end]!;
    ids[end] = pivot;
    if (weight >= target) {
      high = end;
    } else {
      target -= weight + weights[pivot]!;
      low = end + 1;
      if (target <= 0) return low;
    }
  }
  return low;
}
