import { calibratedField, describeFormat, presets, type PresetName, type QuantizationRecipe, type TensorFormat } from "nibble-webgpu";

export type Recipe = PresetName | QuantizationRecipe;

export const presetNames = Object.keys(presets) as PresetName[];

/** The presets that need no calibration text. */
export const uncalibratedPresets = presetNames.filter((name) => !needsCalibration(name));

export function needsCalibration(recipe: Recipe): boolean {
  return calibratedField(recipeOf(recipe)) !== null;
}

/** LLM.int8() finds its columns in calibration text, and does without where there is none. */
export function usesCalibration(recipe: Recipe): boolean {
  return needsCalibration(recipe) || recipeOf(recipe).outlierThreshold !== undefined;
}

export function recipeOf(recipe: Recipe): QuantizationRecipe {
  return typeof recipe === "string" ? presets[recipe] : recipe;
}

export function nameOf(recipe: Recipe): string {
  return typeof recipe === "string" ? recipe : (recipe.name ?? "unnamed");
}

/** "int8, per token" where the recipe rounds the inputs of the matrices too, else null. */
export function activationNote({ activations = "float", outlierThreshold }: QuantizationRecipe): string | null {
  if (activations === "float") return null;
  const outliers = outlierThreshold === undefined ? "" : `, beyond ${outlierThreshold} float`;
  return `inputs int8, ${activations.ranges === "dynamic" ? "per token" : "calibrated"}${outliers}`;
}

/** Everything in which a recipe differs from plain floats, in a few words. */
export function recipeNote(recipe: Recipe): string {
  const full = recipeOf(recipe);
  const { linear, rounding = "nearest", equalization = "none", overrides } = full;
  const parts = [
    describeFormat(linear),
    rounding === "gptq" ? "GPTQ" : null,
    { none: null, smoothquant: "SmoothQuant", awq: "AWQ" }[equalization],
    activationNote(full),
    overrides && Object.keys(overrides).length > 0 ? `${Object.keys(overrides).length} overrides` : null,
  ];
  return parts.filter((part) => part !== null).join("; ");
}

const groups = [32, 64, 128] as const;
const blocks = [32, 64, 128, 256] as const;
const integerFormats = (type: "int8" | "int4"): TensorFormat[] =>
  (["absmax", "zeropoint"] as const).flatMap((mode) => (["tensor", "channel", ...groups.map((group) => ({ group }))] as const).map((granularity): TensorFormat => ({ type, mode, granularity })));
const codebookFormats = (type: "nf4" | "fp4"): TensorFormat[] =>
  blocks.flatMap((block): TensorFormat[] => [{ type, block }, { type, block, doubleQuantization: true }]);

/** Every format there is, by kind, each with its name. */
export const formatsByKind: readonly (readonly [kind: string, formats: readonly (readonly [name: string, format: TensorFormat])[]])[] = (
  [
    ["floats", [{ type: "f32" }, { type: "f16" }]],
    ["8-bit integers", integerFormats("int8")],
    ["4-bit integers", integerFormats("int4")],
    ["4-bit NormalFloat", codebookFormats("nf4")],
    ["4-bit floats", codebookFormats("fp4")],
  ] as const
).map(([kind, formats]) => [kind, formats.map((format) => [describeFormat(format), format] as const)] as const);

const formatsByName = new Map(formatsByKind.flatMap(([, formats]) => formats));

/** The format that describeFormat() calls so. */
export function formatNamed(name: string): TensorFormat {
  return formatsByName.get(name)!;
}
