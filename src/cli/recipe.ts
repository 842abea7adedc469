import { basename } from "node:path";
import type { LoadOptions, PresetName, QuantizationRecipe } from "../index.ts";
import type { CliIo } from "./io.ts";
import { presetNames } from "./load.ts";
import { type OptionSpec, type OptionSpecs, type ParsedOptions, UsageError } from "./usage.ts";

export const calibrationOption: OptionSpec = { value: "file", help: "text for recipes that need calibration; not the one that is scored" };

/** Options of the commands that load under one recipe. */
export const recipeOptions: OptionSpecs = {
  quantization: { value: "preset", help: "how to quantize: f32, int8, nf4… or a recipe as JSON (mine.json) [as the model is stored, else int8]" },
  calibration: calibrationOption,
};

/** A preset by name, or a recipe from a JSON file, named like the file where it has no name. Its fields are the engine's to check. */
export async function readRecipe(io: CliIo, option: string, word: string): Promise<PresetName | QuantizationRecipe> {
  if (!word.endsWith(".json")) {
    const preset = presetNames.find((name) => name === word);
    if (preset === undefined) throw new UsageError(`Option --${option} has "${word}"; expected a .json file or of ${presetNames.join(", ")}.`);
    return preset;
  }
  const json = await io.readText(word);
  try {
    const recipe: unknown = JSON.parse(json);
    if (typeof recipe !== "object" || recipe === null) throw new UsageError(`The recipe file "${word}" holds no object; expected one with the field "linear".`);
    return { name: basename(word, ".json"), ...recipe } as QuantizationRecipe;
  } catch (error) {
    if (error instanceof SyntaxError) throw new UsageError(`The recipe file "${word}" is no JSON: ${error.message}`, { cause: error });
    throw error;
  }
}

export async function readCalibration(io: CliIo, options: ParsedOptions): Promise<string | undefined> {
  const path = options.text("calibration");
  return path === undefined ? undefined : io.readText(path);
}

/** What recipeOptions say; without --quantization the engine takes what the model is stored in, else int8. */
export async function readQuantization(io: CliIo, options: ParsedOptions): Promise<Pick<LoadOptions, "quantization" | "calibration">> {
  const word = options.text("quantization");
  if (word?.includes(",")) throw new UsageError("Option --quantization takes one preset or recipe here.");
  return { quantization: word === undefined ? undefined : await readRecipe(io, "quantization", word.trim()), calibration: await readCalibration(io, options) };
}
