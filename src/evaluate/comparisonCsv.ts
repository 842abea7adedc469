import { EngineError } from "../errors.ts";
import type { ComparisonRow, ComparisonRun } from "../types.ts";
import { emptyRow } from "./comparison.ts";

/**
 * One line per row after a line of names (`klDivergenceP99`), RFC 4180: every number of a row in full precision, then the message of its error. A measure
 * that is absent, or no finite number, is empty.
 * @param run where given, each line ends with what was measured, where, and by which version
 */
export function comparisonCsv(rows: readonly ComparisonRow[], run?: ComparisonRun): string {
  const names = [...numbersOf(emptyRow("", { linear: { type: "f32" } }, new EngineError("unsupported", ""))).keys()];
  const shared = run ? sharedFields(run) : {};
  const lines = rows.map((row) => {
    const numbers = numbersOf(row);
    return [row.name, ...names.map((name) => numbers.get(name)), row.error?.message ?? "", ...Object.values(shared)];
  });
  return [["name", ...names, "error", ...Object.keys(shared)], ...lines].map((fields) => `${fields.map(csvField).join(",")}\r\n`).join("");
}

function sharedFields({ protocol, windowTokens, strideTokens, scoredTokens, text, model, adapter, engineVersion, plannedRows }: ComparisonRun): Record<string, unknown> {
  const { backend, description } = adapter;
  return { protocol, windowTokens, strideTokens, scoredTokens, textTokens: text.tokens, textSha256: text.sha256, model: model.source, modelSha256: model.sha256, backend, adapter: description, engineVersion, ...(plannedRows === undefined ? {} : { plannedRows }) };
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
