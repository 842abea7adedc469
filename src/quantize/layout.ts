import type { PackedMatrix } from "./pack.ts";
import type { PackedRows } from "./packRows.ts";

/** Counts the changes to what packFor() gives for the same tensor: what was packed under another version is not to be read. */
export const WEIGHT_LAYOUT_VERSION = 2;

/** How a backend wants its matrices; plain JSON, and the same text where the same packed weights will do. */
export type WeightLayout =
  | { readonly layout: "rows" }
  /** maxPartBytes: of the codes of one part; see packTensor(). */
  | { readonly layout: "tiles"; readonly maxPartBytes: number };

/** A matrix as a backend takes it: plain objects of numbers, words and typed arrays, which a structured clone or JSON with the arrays beside it can carry. */
export type PackedWeights = PackedRows | PackedMatrix;

/** The buffers of packed weights, or of other plain data, each once, to be transferred. */
export function buffersOf(value: object): ArrayBuffer[] {
  const buffers = new Set<ArrayBuffer>();
  const visit = (value: unknown): void => {
    if (value instanceof ArrayBuffer) buffers.add(value);
    else if (ArrayBuffer.isView(value)) buffers.add(value.buffer as ArrayBuffer);
    else if (typeof value === "object" && value !== null) Object.values(value).forEach(visit);
  };
  visit(value);
  return [...buffers];
}
