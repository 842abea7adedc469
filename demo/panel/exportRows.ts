import type { Comparison, ComparisonRow } from "nibble-webgpu";

const columns: readonly [name: string, value: (row: ComparisonRow) => string | number][] = [
  ["recipe", ({ name }) => name],
  ["bitsPerWeight", ({ bitsPerWeight }) => bitsPerWeight],
  ["weightBytes", ({ bytes }) => bytes.weights],
  ["embeddingBytes", ({ bytes }) => bytes.embedding],
  ["scaleBytes", ({ bytes }) => bytes.scales],
  ["totalBytes", ({ bytes }) => bytes.total],
  ["perplexity", ({ perplexity }) => perplexity],
  ["standardError", ({ standardError }) => standardError],
  ["ratio", ({ ratio }) => ratio],
  ["ratioError", ({ ratioError }) => ratioError],
  ["klDivergenceMean", ({ klDivergence }) => klDivergence.mean],
  ["klDivergenceError", ({ klDivergence }) => klDivergence.error],
  ["sameTopFraction", ({ sameTopToken }) => sameTopToken.fraction],
  ["sameTopError", ({ sameTopToken }) => sameTopToken.error],
  ["quantizeMs", ({ quantizeMs }) => quantizeMs],
  ["prefillTokensPerSecond", ({ prefillTokensPerSecond }) => prefillTokensPerSecond],
  ["decodeTokensPerSecond", ({ decodeTokensPerSecond }) => decodeTokensPerSecond],
  ["error", ({ error }) => error?.message ?? ""],
];

/** One line per row after a line of names, RFC 4180; figures in full precision, a measure that is absent is empty. */
export function toCsv(rows: readonly ComparisonRow[]): string {
  const lines = rows.map((row) => columns.map(([, value]) => csvField(value(row))).join(","));
  return [columns.map(([name]) => name).join(","), ...lines, ""].join("\r\n");
}

function csvField(value: string | number): string {
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
  return /[",\r\n]/.test(value) ? `"${value.replaceAll("\"", "\"\"")}"` : value;
}

/** The rows as they are, with the protocol and the adapter once the comparison has ended; a measure that is absent is null. */
export function toJson(rows: readonly ComparisonRow[], comparison: Comparison | null): string {
  const plainRows = rows.map((row) => (row.error ? { ...row, error: { code: row.error.code, message: row.error.message } } : row));
  return JSON.stringify({ ...comparison, rows: plainRows }, null, 2);
}

/** Lets the user save `text` as a file. */
export function saveFile(name: string, type: string, text: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href)); // after the browser has taken it
}
