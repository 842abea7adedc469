import type { Checkpoint, FetchRestore } from "../checkpoint/types.ts";
import { fetchPart } from "../parts.ts";
import { resolveRecipe } from "../quantize/recipes.ts";
import type { QuantizationRecipe } from "../types.ts";

function fetchStored(signal: AbortSignal | undefined): Promise<typeof import("../quantize/storedRecipe.ts")> {
  return fetchPart("The reader of quantized checkpoints", () => import("../quantize/storedRecipe.ts"), signal);
}

export const fetchRestore: FetchRestore = async (signal) => (await fetchStored(signal)).restoreStored;

/** What a quantized checkpoint is stored in, with the static ranges that it brings, else int8. */
export async function defaultRecipe(checkpoint: Checkpoint, signal: AbortSignal | undefined): Promise<{ recipe: QuantizationRecipe; ranges?: ReadonlyMap<string, number> }> {
  const headers = await checkpoint.readHeaders(signal);
  if (!headers) return { recipe: resolveRecipe() };
  const { storedRecipe, storedRanges } = await fetchStored(signal);
  const recipe = storedRecipe(checkpoint, headers);
  return recipe ? { recipe, ranges: storedRanges(checkpoint, headers, recipe) } : { recipe: resolveRecipe() };
}
