import { type Comparison, comparisonCsv, type ComparisonRow, encodeComparison } from "../index.ts";
import type { CliIo } from "./io.ts";
import { type OptionSpecs, type ParsedOptions, UsageError } from "./usage.ts";

const formats = ["json", "csv", "markdown"] as const;

/** Options of the commands that give a comparison. */
export const outputOptions: OptionSpecs = {
  json: { help: "one JSON object, numbers in full" },
  csv: { help: "a line per recipe, every measure, numbers in full" },
  markdown: { help: "a table, numbers rounded [this one]" },
  out: { value: "file", help: "write there instead of to stdout" },
};

export interface OutputChoice {
  format: (typeof formats)[number];
  path?: string;
}

export function parseOutput(options: ParsedOptions): OutputChoice {
  const [format = "markdown", other] = formats.filter((name) => options.has(name));
  if (other !== undefined) throw new UsageError(`Options --${format} and --${other} exclude each other.`);
  return { format, path: options.text("out") };
}

export async function writeComparison(io: CliIo, { format, path }: OutputChoice, comparison: Comparison): Promise<void> {
  const text = format === "json" ? `${encodeComparison(comparison)}\n` : format === "csv" ? comparisonCsv(comparison.rows) : markdownHead + comparison.rows.map(markdownRow).join("");
  if (path === undefined) io.stdout.write(text);
  else await io.writeText(path, text);
}

/** Ends the command as failed, once everything is written, where a recipe could not run. */
export function throwFirstError({ rows }: Comparison): void {
  const failed = rows.find(({ error }) => error);
  if (failed?.error) throw failed.error;
}

const withError = (value: number, error: number, digits: number): string => `${value.toFixed(digits)} ± ${error.toFixed(digits)}`;
const nats = (value: number): string => (value === 0 ? "0" : value.toPrecision(3));

/** Of fixed width, so that each row can be printed when it is known. */
const columns: readonly [head: string, width: number, cell: (row: ComparisonRow) => string, ofBaseline?: "—"][] = [
  ["bits/weight", 11, ({ bitsPerWeight }) => bitsPerWeight.toFixed(3)],
  ["MB", 8, ({ bytes }) => (bytes.total / 1e6).toFixed(2)],
  ["perplexity", 22, ({ perplexity, standardError }) => withError(perplexity, standardError, 4)],
  ["ratio", 17, ({ ratio, ratioError }) => withError(ratio, ratioError, 5), "—"],
  ["KL mean, nats", 21, ({ klDivergence: { mean, error } }) => `${nats(mean)} ± ${nats(error)}`, "—"],
  ["KL median", 9, ({ klDivergence }) => nats(klDivergence.median), "—"],
  ["KL 99 %", 9, ({ klDivergence }) => nats(klDivergence.p99), "—"],
  ["KL max", 9, ({ klDivergence }) => nats(klDivergence.max), "—"],
  ["same top, %", 14, ({ sameTopToken: { fraction, error } }) => withError(100 * fraction, 100 * error, 2), "—"],
  ["Δp RMS, %", 15, ({ deltaP: { rms, rmsError } }) => withError(100 * rms, 100 * rmsError, 3), "—"],
  ["tokens/s", 8, ({ decodeTokensPerSecond }) => decodeTokensPerSecond.toFixed(1)],
];
const nameWidth = 22;

function markdownLine(name: string, cells: readonly string[]): string {
  return `| ${[name.padEnd(nameWidth), ...cells].join(" | ")} |\n`;
}

export const markdownHead =
  markdownLine("recipe", columns.map(([head, width]) => head.padStart(width))) +
  markdownLine("-".repeat(nameWidth), columns.map(([, width]) => `${"-".repeat(width - 1)}:`));

/** The first row of a comparison is the baseline, which is not compared. */
export function markdownRow(row: ComparisonRow, i: number): string {
  const text = (words: string): string => words.replaceAll("|", "\\|").replaceAll(/\s+/g, " ");
  if (row.error) return `| ${text(row.name).padEnd(nameWidth)} | ${text(row.error.message)} |\n`;
  return markdownLine(text(row.name), columns.map(([, width, cell, ofBaseline]) => (i === 0 && ofBaseline ? ofBaseline : cell(row)).padStart(width)));
}
