import type { Checkpoint } from "../checkpoint/types.ts";
import { resolveRecipe } from "../quantize/recipes.ts";
import { storedRanges, storedRecipe } from "../quantize/storedRecipe.ts";
import type { QuantizationRecipe } from "../types.ts";

/** What a quantized checkpoint is stored in, with the static ranges that it brings, else int8. */
export async function defaultRecipe(checkpoint: Checkpoint, signal: AbortSignal | undefined): Promise<{ recipe: QuantizationRecipe; ranges?: ReadonlyMap<string, number> }> {
  const headers = await checkpoint.readHeaders(signal);
  const recipe = headers && storedRecipe(checkpoint, headers);
  return recipe ? { recipe, ranges: storedRanges(checkpoint, headers, recipe) } : { recipe: resolveRecipe() };
}
