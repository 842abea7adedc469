import { EngineError } from "../errors.ts";
import type { ComparisonRow } from "../types.ts";
import { emptyRow } from "./comparison.ts";

/**
 * One line per row after a line of names (`klDivergenceP99`), RFC 4180: every number of a row in full precision, then the message of its error. A measure
 * that is absent, or no finite number, is empty.
 */
export function comparisonCsv(rows: readonly ComparisonRow[]): string {
  const names = [...numbersOf(emptyRow("", { linear: { type: "f32" } }, new EngineError("unsupported", ""))).keys()];
  const lines = rows.map((row) => {
    const numbers = numbersOf(row);
    return [row.name, ...names.map((name) => numbers.get(name)), row.error?.message ?? ""];
  });
  return [["name", ...names, "error"], ...lines].map((fields) => `${fields.map(csvField).join(",")}\r\n`).join("");
}

/** By column. */
function numbersOf({ name: _name, recipe: _recipe, error: _error, tensors: _tensors, samples: _samples, ...measures }: ComparisonRow): Map<string, unknown> {
  const columns = Object.entries<number | object | null>(measures).flatMap(([field, value]): (readonly [string, unknown])[] => {
    if (typeof value !== "object" || value === null) return [[field, value]];
    return Object.entries<unknown>({ ...value }).map(([inner, number]) => [`${field}${inner[0]!.toUpperCase()}${inner.slice(1)}`, number]);
  });
  return new Map(columns);
}

function csvField(value: unknown): string {
  if (typeof value !== "string") return typeof value === "number" && Number.isFinite(value) ? String(value) : "";
  return /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}
