import type { Comparison, ComparisonRow } from "nibble-webgpu";

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
