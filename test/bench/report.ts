import type { Measure, Plan, Result } from "./measure.ts";
import { median, quotients } from "./statistics.ts";

/** Where it was measured; the first line of the JSON and the paragraph under the table. */
export interface Environment {
  kind: "environment";
  command: string;
  date: string;
  /** Node's or the browser's version. */
  runtime: string;
  adapter: string;
  processors: number;
  /** Of a plain copy, reads and writes together; the median over the rounds. */
  copyBytesPerSecond: number;
  plan: Plan;
}

/** A rival and the subject of ours that it is held against. */
export interface Pair {
  ours: string;
  rival: string;
}

/** How many times our tokens per second are the rival's; for decoding, its time per token divided by ours. */
export interface Ratio extends Pair {
  kind: "ratio";
  shape: string;
  measure: Measure;
  tokens: number;
  /** Median over the rounds of the quotient within a round; then the least and the greatest of them. */
  timesFaster: number;
  lowest: number;
  highest: number;
}

function valuesOf({ samples }: Result, measure: Measure, tokens: number): number[] {
  return samples.filter((sample) => sample.measure === measure && sample.tokens === tokens).map(({ value }) => value);
}

/** Every pair in every measure that both have. */
export function ratios({ prefillTokens, contextTokens }: Plan, results: readonly Result[], pairs: readonly Pair[]): Ratio[] {
  const measures = [...prefillTokens.map((tokens) => ["prefill", tokens] as const), ...contextTokens.map((tokens) => ["decode", tokens] as const)];
  const found: Ratio[] = [];
  for (const { ours, rival } of pairs) {
    for (const mine of results.filter(({ subject }) => subject === ours)) {
      const theirs = results.find(({ subject, shape }) => subject === rival && shape === mine.shape);
      if (!theirs) continue;
      for (const [measure, tokens] of measures) {
        const [a, b] = [valuesOf(mine, measure, tokens), valuesOf(theirs, measure, tokens)];
        const faster = measure === "decode" ? quotients(b, a) : quotients(a, b);
        if (faster.length === 0) continue;
        found.push({ kind: "ratio", ours, rival, shape: mine.shape, measure, tokens, timesFaster: median(faster), lowest: Math.min(...faster), highest: Math.max(...faster) });
      }
    }
  }
  return found;
}

/** One JSON object a line: the environment, every subject with its samples and medians, the ratios. */
export function jsonLines(environment: Environment, results: readonly Result[], pairs: readonly Pair[] = []): string {
  const { plan } = environment;
  const withMedians = results.map((result) => {
    const medians = (measure: Measure, lengths: readonly number[]): Record<number, number> =>
      Object.fromEntries(lengths.map((tokens) => [tokens, median(valuesOf(result, measure, tokens))] as const).filter(([, value]) => !Number.isNaN(value)));
    return {
      ...result,
      medianTokensPerSecond: { prefill: medians("prefill", plan.prefillTokens), score: medians("score", [plan.scoreTokens]) },
      medianMsPerToken: { decode: medians("decode", plan.contextTokens) },
    };
  });
  return [environment, ...withMedians, ...ratios(plan, results, pairs)].map((line) => `${JSON.stringify(line)}\n`).join("");
}

/** One Markdown table of all subjects, one of the ratios if there are pairs, and how they were measured. */
export function markdown(environment: Environment, results: readonly Result[], pairs: readonly Pair[] = []): string {
  const { plan } = environment;
  // Bytes and bandwidth are told for one position; the longest that every model has room for is not known, so the second.
  const position = plan.contextTokens[Math.min(1, plan.contextTokens.length - 1)] ?? 0;
  const columns: [head: string, cell: (result: Result) => number][] = [
    ["load, s", ({ loadMs }) => loadMs / 1000],
    ...plan.prefillTokens.map((tokens): (typeof columns)[number] => [`prefill ${tokens}, tokens/s`, (result) => median(valuesOf(result, "prefill", tokens))]),
    ...plan.contextTokens.map((tokens): (typeof columns)[number] => [`decode at ${tokens}, ms/token`, (result) => median(valuesOf(result, "decode", tokens))]),
    ["perplexity, tokens/s", (result) => median(valuesOf(result, "score", plan.scoreTokens))],
    [`MB/token at ${position}`, ({ bytesPerToken }) => bytesPerToken[position]! / 1e6],
    ["of copy bandwidth, %", (result) => ((100 * result.bytesPerToken[position]!) / median(valuesOf(result, "decode", position)) / environment.copyBytesPerSecond) * 1000],
    ["dispatches/token", ({ perToken }) => perToken?.dispatches ?? NaN],
    ["submits/token", ({ perToken }) => perToken?.submits ?? NaN],
  ];
  const shown = columns.filter(([, cell]) => results.some((result) => !Number.isNaN(cell(result))));
  const rows = results.map((result) => [result.shape, result.subject, ...shown.map(([, cell]) => show(cell(result)))]);
  const tables = [table(["model", "subject", ...shown.map(([head]) => head)], rows, 2)];
  const compared = ratios(plan, results, pairs);
  if (compared.length > 0) {
    const cells = compared.map(({ shape, ours, rival, measure, tokens, timesFaster, lowest, highest }) => [shape, ours, rival, `${measure} ${tokens}`, show(timesFaster), `${show(lowest)} … ${show(highest)}`]);
    tables.push(table(["model", "ours", "rival", "measure", "times faster", "least … most"], cells, 4));
  }
  return `${tables.join("\n")}\n${describe(environment)}`;
}

function describe({ command, date, runtime, adapter, processors, copyBytesPerSecond, plan }: Environment): string {
  return `Made by \`${command}\` on ${date}: ${runtime}, ${adapter}, ${processors} processors, copies ${show(copyBytesPerSecond / 1e9)} GB/s. Medians of ${plan.rounds} interleaved round(s), ${plan.decodeTokens} tokens a decode.\n`;
}

/** A Markdown table whose first columns are text and whose others are numbers. */
export function table(head: readonly string[], rows: readonly (readonly string[])[], textColumns: number): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |\n`;
  return [head, head.map((_, i) => (i < textColumns ? "---" : "---:")), ...rows].map(line).join("");
}

/** Three digits; a dash for what was not measured. */
export function show(value: number): string {
  if (!Number.isFinite(value)) return "—";
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}
