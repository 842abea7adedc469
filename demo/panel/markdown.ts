import type { Comparison, ComparisonRun } from "nibble-webgpu";
import { cellText, columns } from "./columns.ts";

/** Every column as a Markdown table, and below it what was measured, where, and by which version. */
export function comparisonMarkdown(comparison: Comparison): string {
  const { rows, plannedRows, protocol, windowTokens, strideTokens, scoredTokens, model, text } = comparison;
  const line = (cells: readonly string[]): string => `| ${cells.map((cell) => cell.replaceAll("|", "\\|").replaceAll(/\s+/g, " ")).join(" | ")} |`;
  const table = [
    line(["recipe", ...columns.map(({ label }) => label)]),
    line(["---", ...columns.map(() => "---:")]),
    ...rows.map((row, i) => (row.error ? line([row.name, row.error.message]) : line([row.name, ...columns.map((column) => cellText(column, row, i === 0))]))),
  ];
  const notes = [
    ...(plannedRows === undefined ? [] : [`${rows.length} of ${plannedRows} recipes: the run was not over.`]),
    `Model: ${model.source}${model.sha256 === null ? "" : `, weights SHA-256 ${model.sha256}`}.`,
    `Text: ${text.tokens} tokens${text.sha256 === null ? "" : `, SHA-256 of the ids ${text.sha256}`}; ${protocol}, windows of ${windowTokens}, stride ${strideTokens}, ${scoredTokens} tokens scored.`,
    `${originOf(comparison)}.`,
  ];
  return `${[...table, "", ...notes].join("\n")}\n`;
}

/** Which engine measured, and on what. */
export function originOf({ engineVersion, adapter }: ComparisonRun): string {
  return `Nibble ${engineVersion} on ${adapter.backend === "cpu" ? "the CPU" : "WebGPU"}: ${adapter.description}`;
}
