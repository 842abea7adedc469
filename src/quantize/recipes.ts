import { show } from "../errors.ts";
import type { PresetName, QuantizationRecipe, TensorFormat } from "../types.ts";
import { isRecord, oneOf, rejectUnknownKeys, validateTensorFormat } from "./formats.ts";

const int8Channel: TensorFormat = { type: "int8", mode: "absmax", granularity: "channel" };
const int8Tensor: TensorFormat = { type: "int8", mode: "absmax", granularity: "tensor" };
const int8ZeroPointTensor: TensorFormat = { type: "int8", mode: "zeropoint", granularity: "tensor" };

/** The named recipes; frozen, formats included. */
export const presets: Readonly<Record<PresetName, QuantizationRecipe>> = named({
  f32: { linear: { type: "f32" }, embedding: { type: "f32" } },
  f16: { linear: { type: "f16" }, embedding: { type: "f16" } },
  int8: { linear: int8Channel, embedding: int8Channel },
  "int8-zeropoint": { linear: { type: "int8", mode: "zeropoint", granularity: "channel" }, embedding: int8Channel },
  "int8-absmax-tensor": { linear: int8Tensor, embedding: int8Tensor },
  "int8-zeropoint-tensor": { linear: int8ZeroPointTensor, embedding: int8ZeroPointTensor },
  "int8-dynamic": { linear: int8Channel, embedding: int8Channel, activations: { type: "int8", ranges: "dynamic" } },
  "int8-static": { linear: int8Channel, embedding: int8Channel, activations: { type: "int8", ranges: "static" } },
  "llm-int8": { linear: int8Channel, embedding: { type: "f16" }, activations: { type: "int8", ranges: "dynamic" }, outlierThreshold: 6 },
  int4: { linear: { type: "int4", mode: "zeropoint", granularity: { group: 32 } }, embedding: int8Channel },
  nf4: { linear: { type: "nf4", block: 64 }, embedding: int8Channel },
  "nf4-dq": { linear: { type: "nf4", block: 64, doubleQuantization: true }, embedding: int8Channel },
  fp4: { linear: { type: "fp4", block: 64 }, embedding: int8Channel },
});

function named(recipes: Record<PresetName, QuantizationRecipe>): Readonly<Record<PresetName, QuantizationRecipe>> {
  for (const [name, recipe] of Object.entries(recipes)) recipe.name = name;
  return deepFreeze(recipes);
}

/**
 * The recipe to work by: a preset by name, or a validated, frozen copy of the caller's.
 * @throws TypeError or RangeError naming the field that is wrong
 */
export function resolveRecipe(quantization: PresetName | QuantizationRecipe = "int8"): QuantizationRecipe {
  return typeof quantization === "string" ? presetOf(quantization) : validateRecipe(quantization);
}

function presetOf(name: string): QuantizationRecipe {
  oneOf(name, Object.keys(presets), "quantization", " or a recipe");
  return presets[name as PresetName];
}

/** Records within records that a recipe can have: overrides, a format, its granularity. */
const RECIPE_DEPTH = 4;
const RECIPE_FIELDS = ["name", "linear", "embedding", "activations", "rounding", "activationOrder", "equalization", "smoothing", "observer", "outlierThreshold", "overrides"] as const;

/** A frozen copy. @throws TypeError or RangeError naming the field that is wrong */
export function validateRecipe(given: unknown): QuantizationRecipe {
  const quantization = copyRecord(given, RECIPE_DEPTH); // once, before it is checked: the caller's may be a framework's proxy, which structuredClone() refuses
  if (!isRecord(quantization)) throw new TypeError(`quantization is ${show(quantization)}; expected a preset's name or a recipe.`);
  const { name, linear, embedding, activations, rounding, activationOrder, equalization, smoothing, observer, outlierThreshold, overrides } = quantization;
  rejectUnknownKeys(quantization, RECIPE_FIELDS, "quantization");
  if (name !== undefined && typeof name !== "string") throw new TypeError(`quantization.name is ${show(name)}; expected a string.`);
  validateTensorFormat(linear, "quantization.linear");
  if (embedding !== undefined) validateTensorFormat(embedding, "quantization.embedding");
  if (isRecord(activations)) {
    rejectUnknownKeys(activations, ["type", "ranges"], "quantization.activations");
    oneOf(activations.type, ["int8"], "quantization.activations.type");
    oneOf(activations.ranges, ["dynamic", "static"], "quantization.activations.ranges");
  } else if (activations !== undefined) {
    oneOf(activations, ["float"], "quantization.activations", ' or { type: "int8", ranges }');
  }
  if (rounding !== undefined) oneOf(rounding, ["nearest", "gptq"], "quantization.rounding");
  if (activationOrder !== undefined && typeof activationOrder !== "boolean") throw new TypeError(`quantization.activationOrder is ${show(activationOrder)}; expected true or false.`);
  if (equalization !== undefined) oneOf(equalization, ["none", "smoothquant", "awq"], "quantization.equalization");
  if (smoothing !== undefined && smoothing !== "search") {
    if (typeof smoothing !== "number") throw new TypeError(`quantization.smoothing is ${show(smoothing)}; expected a number from 0 to 1 or "search".`);
    if (!(smoothing >= 0 && smoothing <= 1)) throw new RangeError(`quantization.smoothing is ${smoothing}; expected a number from 0 to 1 or "search".`);
  }
  if (observer !== undefined) oneOf(observer, ["minmax", "percentile", "mse"], "quantization.observer");
  if (outlierThreshold !== undefined) {
    if (typeof outlierThreshold !== "number") throw new TypeError(`quantization.outlierThreshold is ${show(outlierThreshold)}; expected a number.`);
    if (!(outlierThreshold > 0)) throw new RangeError(`quantization.outlierThreshold is ${outlierThreshold}; expected a number above 0.`);
    if (!isRecord(activations)) throw new TypeError(`quantization.outlierThreshold is ${outlierThreshold} beside quantization.activations "float"; expected { type: "int8", ranges }, whose outliers it keeps.`);
  }
  if (overrides !== undefined) {
    if (!isRecord(overrides)) throw new TypeError(`quantization.overrides is ${show(overrides)}; expected an object of globs and formats.`);
    for (const [glob, format] of Object.entries(overrides)) validateTensorFormat(format, `quantization.overrides[${show(glob)}]`);
  }
  return deepFreeze(quantization) as unknown as QuantizationRecipe;
}

/** What of a recipe cannot be worked out without calibration, as its field and value; null where nothing is. */
export function calibratedField({ activations = "float", rounding = "nearest", equalization = "none" }: QuantizationRecipe): string | null {
  if (equalization !== "none") return `equalization "${equalization}"`;
  if (rounding !== "nearest") return `rounding "${rounding}"`;
  return activations !== "float" && activations.ranges === "static" ? 'activations.ranges "static"' : null;
}

/** Whether a recipe has a use for calibration: LLM.int8() does without, but then keeps no f16 columns. */
export function usesCalibration(recipe: QuantizationRecipe): boolean {
  return calibratedField(recipe) !== null || recipe.outlierThreshold !== undefined;
}

/**
 * The format of one matrix under a recipe: the last matching override, else the recipe's for its kind.
 * Not for `wpe`, biases and norms, which stay f32 under any recipe.
 */
export function formatOf(recipe: QuantizationRecipe, tensorName: string, kind: "linear" | "embedding"): TensorFormat {
  const override = Object.entries(recipe.overrides ?? {}).findLast(([glob]) => matches(glob, tensorName));
  if (override) return override[1];
  return kind === "linear" ? recipe.linear : (recipe.embedding ?? { type: "f16" });
}

/**
 * The override globs that match none of the names, probably mistyped.
 * @param tensorNames every matrix that formatOf may be asked for
 */
export function unmatchedOverrides(recipe: QuantizationRecipe, tensorNames: readonly string[]): string[] {
  return Object.keys(recipe.overrides ?? {}).filter((glob) => !tensorNames.some((name) => matches(glob, name)));
}

/** Throws RangeError for an override that matches none of the names; as unmatchedOverrides(). */
export function requireMatches(recipe: QuantizationRecipe, tensorNames: readonly string[]): void {
  const [unmatched] = unmatchedOverrides(recipe, tensorNames);
  if (unmatched !== undefined) throw new RangeError(`quantization.overrides has "${unmatched}", which matches no matrix of this checkpoint; names look like "${tensorNames[0]}".`);
}

/** `*` stands for any characters, also none and dots; `transformer.` in front counts on neither side. */
function matches(glob: string, tensorName: string): boolean {
  const name = withoutPrefix(tensorName);
  const [head = "", ...parts] = withoutPrefix(glob).split("*");
  const tail = parts.pop();
  if (tail === undefined) return name === head;
  if (!name.startsWith(head)) return false;
  let from = head.length;
  for (const part of parts) {
    const at = name.indexOf(part, from);
    if (at < 0) return false;
    from = at + part.length;
  }
  return name.length - tail.length >= from && name.endsWith(tail);
}

function withoutPrefix(name: string): string {
  return name.replace(/^transformer\./, "");
}

function copyRecord(value: unknown, depth: number): unknown {
  return depth > 0 && isRecord(value) ? Object.fromEntries(Object.entries(value).map(([key, field]) => [key, copyRecord(field, depth - 1)])) : value;
}

function deepFreeze<T extends object>(object: T): T {
  for (const value of Object.values(object)) if (typeof value === "object" && value !== null) deepFreeze(value as object);
  return Object.freeze(object);
}
