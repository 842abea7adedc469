import { metadataKeys, parseJson } from "../checkpoint/metadata.ts";
import { isMatrix } from "../checkpoint/gpt2Weights.ts";
import type { Checkpoint, WeightHeaders } from "../checkpoint/types.ts";
import { EngineError, show } from "../errors.ts";
import type { QuantizationRecipe, TensorFormat } from "../types.ts";
import { describeFormat, isRecord, isSameFormat } from "./formats.ts";
import { formatOf, resolveRecipe, unmatchedOverrides } from "./recipes.ts";
import { storedFormat } from "./stored.ts";

export { restoreStored } from "./stored.ts";

/**
 * The recipe under which a quantized checkpoint is loaded as it is stored: the one that it brings, else one of the formats that its matrices have.
 * null where no matrix is quantized.
 * @throws EngineError `checkpoint` for a recipe that is malformed or not what the matrices are stored in
 */
export function storedRecipe({ tensors, description }: Pick<Checkpoint, "tensors" | "description">, { metadata, matrices }: WeightHeaders): QuantizationRecipe | null {
  const formats = new Map<string, TensorFormat>();
  for (const { name, shape } of tensors) {
    const format = matrices.has(name) ? storedFormat(shape, matrices.get(name)!) : null;
    if (format) formats.set(name, format);
  }
  if (formats.size === 0) return null;
  const brought = metadata.get(metadataKeys.recipe);
  if (brought === undefined) return derivedRecipe(tensors, matrices, formats);
  const recipe = parseRecipe(brought, description);
  const quantizable = tensors.filter(isMatrix);
  const [unmatched] = unmatchedOverrides(recipe, quantizable.map(({ name }) => name));
  if (unmatched !== undefined) throw new EngineError("checkpoint", `${description}: ${metadataKeys.recipe} has an override for ${show(unmatched)}; expected one that matches a matrix.`, { unmatched });
  for (const { name, kind, shape } of quantizable) {
    const format = formats.get(name);
    const expected = formatOf(recipe, name, kind);
    if (!format || isSameFormat(format, expected, shape)) continue;
    const message = `Tensor "${name}" is stored as ${describeFormat(format)}; ${metadataKeys.recipe} of ${description} says ${describeFormat(expected)}.`;
    throw new EngineError("checkpoint", message, { tensor: name, format, expected });
  }
  return recipe;
}

/**
 * Static ranges of int8 activations that a quantized checkpoint brings, by matrix; none where it says nothing.
 * @throws EngineError `checkpoint` for anything but an object of positive numbers, and for a matrix of int8 that has none beside others that have
 */
export function storedRanges({ tensors, description }: Pick<Checkpoint, "tensors" | "description">, { metadata }: WeightHeaders, recipe: QuantizationRecipe): ReadonlyMap<string, number> {
  const text = metadata.get(metadataKeys.ranges);
  if (text === undefined) return new Map();
  const brought = parseJson(text, metadataKeys.ranges, description);
  const ranges = new Map(isRecord(brought) ? Object.entries(brought) : []);
  for (const { name, kind } of tensors.filter(isMatrix)) {
    if (formatOf(recipe, name, kind).type !== "int8") continue;
    const range = ranges.get(name);
    if (range === undefined && name === "wte.weight" && ranges.has("lm_head.weight")) continue; // rows of it are gathered, and nothing is multiplied
    if (typeof range === "number" && range >= 0 && range < Infinity) continue;
    throw new EngineError("checkpoint", `${description}: ${metadataKeys.ranges}["${name}"] is ${show(range)}; expected a number of at least 0.`, { tensor: name, range });
  }
  return ranges as ReadonlyMap<string, number>;
}

/** Rounding and equalization are in the stored codes already, and need no calibration again. */
function parseRecipe(text: string, file: string): QuantizationRecipe {
  const { rounding: _, equalization: __, smoothing: ___, activationOrder: ____, ...recipe } = Object(parseJson(text, metadataKeys.recipe, file)) as QuantizationRecipe;
  try {
    return resolveRecipe(recipe);
  } catch (cause) {
    if (cause instanceof EngineError || !(cause instanceof Error)) throw cause;
    throw new EngineError("checkpoint", `${file}: ${metadataKeys.recipe} is no recipe: ${cause.message}`, { file }, { cause });
  }
}

/** The commonest format of each kind, and overrides for matrices that differ. What is not quantized keeps all that its dtype holds. */
function derivedRecipe(tensors: Checkpoint["tensors"], matrices: WeightHeaders["matrices"], formats: ReadonlyMap<string, TensorFormat>): QuantizationRecipe {
  const formatIn = (name: string): TensorFormat => formats.get(name) ?? { type: matrices.get(name)?.get("")?.dtype === "F16" ? "f16" : "f32" };
  const commonest = (kind: "linear" | "embedding"): TensorFormat => {
    const all = tensors.filter((tensor) => tensor.kind === kind).map(({ name }) => JSON.stringify(formatIn(name)));
    const count = (format: string): number => all.filter((each) => each === format).length;
    return JSON.parse(all.reduce((best, format) => (count(format) > count(best) ? format : best))) as TensorFormat;
  };
  const recipe = { name: "as stored", linear: commonest("linear"), embedding: commonest("embedding") };
  const others = tensors.filter(isMatrix).filter(({ name, kind }) => JSON.stringify(formatIn(name)) !== JSON.stringify(recipe[kind]));
  return resolveRecipe({ ...recipe, ...(others.length > 0 && { overrides: Object.fromEntries(others.map(({ name }) => [name, formatIn(name)])) }) });
}
