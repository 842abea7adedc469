import type { QuantizedTensor } from "../types.ts";
import type { PackedWeights, WeightLayout } from "./layout.ts";
import { packTensor } from "./pack.ts";
import { packRows } from "./packRows.ts";

/** Packs a tensor, which the caller gives up: the result may share its arrays. */
export function packFor(layout: WeightLayout, tensor: QuantizedTensor): PackedWeights {
  return layout.layout === "rows" ? packRows(tensor) : packTensor(tensor, layout.maxPartBytes);
}
