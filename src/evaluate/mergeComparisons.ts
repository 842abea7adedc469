import type { Comparison, ComparisonRow, ComparisonSamples } from "../types.ts";
import { emptyRow, measuresOf } from "./comparison.ts";
import { planWindows, shardOf, type WindowPlan } from "./protocols.ts";
import { percentile } from "./statistics.ts";

/** Where the samples of one window lie. */
interface Piece {
  shard: number;
  from: number;
  to: number;
}

/**
 * Joins the shards of one comparison, in any order, token by token: every measure is the one that a run over all windows on the same device would give, to
 * the last bit. Speeds and quantizeMs are medians over the shards; what does not depend on the windows is the first shard's. A recipe that failed in one
 * shard has failed. Shards may come from different devices; the adapter's notices then say so.
 * @throws TypeError for no shards; RangeError where they do not belong together, saying what differs, and where one is missing, double or has no samples
 */
export function mergeComparisons(shards: readonly Comparison[]): Comparison {
  const [given] = shards;
  if (!given) throw new TypeError("mergeComparisons was given no comparisons; expected every shard of one.");
  for (const shard of shards) requireSameRun(given, shard);
  const sorted = shards.toSorted((a, b) => indexOf(a) - indexOf(b));
  requireEach(sorted);
  const first = sorted[0]!;
  const plan = wholePlan(first, sorted.reduce((sum, { windows }) => sum + windows, 0));
  for (const shard of sorted) requireSamples(shard, plan);

  const pieces = piecesOf(plan, sorted.length);
  const scoredBytes = sorted.reduce<number | null>((sum, shard) => (sum === null || shard.scoredBytes === null ? null : sum + shard.scoredBytes), 0);
  return {
    ...first,
    rows: first.rows.map((_, i) => mergeRow(sorted.map(({ rows }) => rows[i]!), pieces, plan.scoredTokens, scoredBytes)),
    windows: plan.windows.length,
    scoredTokens: plan.scoredTokens,
    scoredBytes,
    shard: null,
    adapter: mergeAdapters(sorted),
  };
}

function indexOf({ shard }: Comparison): number {
  return shard?.index ?? 0;
}

function countOf({ shard }: Comparison): number {
  return shard?.count ?? 1;
}

/** As the command line counts: "Shard 1/3". */
function nameOf(comparison: Comparison): string {
  return `Shard ${indexOf(comparison) + 1}/${countOf(comparison)}`;
}

/** What all shards of one comparison have in common. */
function identityOf(comparison: Comparison): Record<string, unknown> {
  const { engineVersion, model, text, calibration, kvCache, protocol, windowTokens, strideTokens, rows } = comparison;
  return {
    "shard.count": countOf(comparison),
    engineVersion,
    "model.config": model.config,
    "model.sha256": model.sha256,
    "text.tokens": text.tokens,
    "text.sha256": text.sha256,
    calibration,
    kvCache,
    protocol,
    windowTokens,
    strideTokens,
    "rows named": rows.map(({ name }) => name),
    ...Object.fromEntries(rows.map(({ name, recipe }) => [`recipe "${name}"`, recipe])),
  };
}

function requireSameRun(first: Comparison, other: Comparison): void {
  const [expected, found] = [identityOf(first), identityOf(other)].map((identity) => Object.entries(identity).map(([field, value]) => [field, JSON.stringify(value)] as const)) as [[string, string][], [string, string][]];
  const different = expected.findIndex(([, value], i) => value !== found[i]?.[1]);
  if (different < 0) return;
  const [field, value] = expected[different]!;
  throw new RangeError(`${nameOf(other)} has ${field} ${found[different]?.[1]}, but ${nameOf(first).toLowerCase()} has ${value}; expected shards of one comparison.`);
}

/** sorted: by index. */
function requireEach(sorted: readonly Comparison[]): void {
  const count = countOf(sorted[0]!);
  const double = sorted.find((shard, i) => i > 0 && indexOf(shard) === indexOf(sorted[i - 1]!));
  if (double) throw new RangeError(`${nameOf(double)} is given twice; expected each shard once.`);
  if (sorted.length === count) return;
  const missing = sorted.findIndex((shard, i) => indexOf(shard) !== i);
  throw new RangeError(`${sorted.length} of ${count} shards are given; shard ${(missing < 0 ? sorted.length : missing) + 1}/${count} is missing.`);
}

/** windows: as many as the shards say they have. Compared before planning: a file may name a text of any length. */
function wholePlan({ text, protocol, windowTokens, strideTokens }: Comparison, windows: number): WindowPlan {
  const message = `The shards have ${windows} windows together, which is not what ${text.tokens} tokens have under protocol "${protocol}" with windowTokens ${windowTokens} and strideTokens ${strideTokens}.`;
  if (text.tokens > (windows + 1) * strideTokens + windowTokens) throw new RangeError(message);
  const plan = planWindows(text.tokens, { protocol, windowTokens, strideTokens }, windowTokens);
  if (plan.windows.length !== windows) throw new RangeError(message);
  return plan;
}

function requireSamples(comparison: Comparison, plan: WindowPlan): void {
  const { scoredTokens } = shardOf(plan, { index: indexOf(comparison), count: countOf(comparison) });
  for (const { name, error, samples } of comparison.rows) {
    if (error) continue;
    if (!samples) throw new RangeError(`${nameOf(comparison)} has no samples in row "${name}"; expected those of a comparison made with \`samples\`.`);
    for (const [field, values] of Object.entries(samples) as [keyof ComparisonSamples, ArrayLike<number>][]) {
      if (values.length !== scoredTokens) throw new RangeError(`${nameOf(comparison)} has ${values.length} samples of ${field} in row "${name}"; expected ${scoredTokens}.`);
    }
  }
}

/** In the order of the plan. */
function piecesOf({ windows }: WindowPlan, shardCount: number): Piece[] {
  const ends = new Array<number>(shardCount).fill(0);
  return windows.map(({ scoreFrom, scoreTo }, j) => {
    const shard = j % shardCount;
    const from = ends[shard]!;
    return { shard, from, to: (ends[shard] = from + scoreTo - scoreFrom) };
  });
}

/** rows: of one recipe, shard by shard. */
function mergeRow(rows: readonly ComparisonRow[], pieces: readonly Piece[], scoredTokens: number, scoredBytes: number | null): ComparisonRow {
  const first = rows[0]!;
  const failed = rows.find(({ error }) => error);
  if (failed?.error) return emptyRow(first.name, first.recipe, failed.error);
  const joined = <Values extends Float32Array | Uint8Array>(values: Values, field: keyof ComparisonSamples): Values => {
    let end = 0;
    for (const { shard, from, to } of pieces) {
      values.set(rows[shard]!.samples![field].subarray(from, to), end);
      end += to - from;
    }
    return values;
  };
  const samples: ComparisonSamples = {
    nll: joined(new Float32Array(scoredTokens), "nll"),
    baselineNll: joined(new Float32Array(scoredTokens), "baselineNll"),
    klDivergence: joined(new Float32Array(scoredTokens), "klDivergence"),
    sameTopToken: joined(new Uint8Array(scoredTokens), "sameTopToken"),
  };
  const median = (field: "quantizeMs" | "prefillTokensPerSecond" | "decodeTokensPerSecond"): number => percentile(Float64Array.from(rows, (row) => row[field]).sort(), 0.5);
  return {
    ...first,
    ...measuresOf(samples, scoredBytes),
    quantizeMs: median("quantizeMs"),
    prefillTokensPerSecond: median("prefillTokensPerSecond"),
    decodeTokensPerSecond: median("decodeTokensPerSecond"),
    samples,
  };
}

function mergeAdapters(shards: readonly Comparison[]): Comparison["adapter"] {
  const { adapter } = shards[0]!;
  const names = new Set(shards.map(({ adapter: { backend, vendor, architecture, description } }) => [backend, vendor, architecture, description].filter(Boolean).join(" ")));
  return names.size === 1 ? adapter : { ...adapter, notices: [...adapter.notices, `The shards ran on different devices: ${[...names].join("; ")}.`] };
}
