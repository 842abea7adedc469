import { show } from "../errors.ts";
import { checkWatching } from "../generate/options.ts";
import type { BackendOptions } from "../model/backend.ts";
import { calibratedField } from "../quantize/recipes.ts";
import type { Gpt2Config, LoadOptions, ModelCache, QuantizationRecipe } from "../types.ts";

/** Checks the options that do not depend on the checkpoint. Throws TypeError or RangeError naming the option. */
export function checkLoadOptions(options: Pick<LoadOptions, "backend" | "kvCache" | "cache" | "quantizer" | "signal" | "fetch" | "hub"> & { onProgress?: unknown }): void {
  if (typeof options !== "object" || options === null) throw new TypeError(`options is ${show(options)}; expected an object.`);
  checkWatching(options);
  const { fetch, hub = {} } = options;
  if (fetch !== undefined && typeof fetch !== "function") throw new TypeError(`fetch is ${show(fetch)}; expected a function.`);
  if (typeof hub !== "object" || hub === null) throw new TypeError(`hub is ${show(hub)}; expected an object.`);
  for (const name of ["endpoint", "revision", "token"] as const) {
    if (hub[name] !== undefined && typeof hub[name] !== "string") throw new TypeError(`hub.${name} is ${show(hub[name])}; expected a string.`);
  }
  oneOf("backend", options.backend, ["auto", "webgpu", "cpu"]);
  oneOf("quantizer", options.quantizer, ["workers", "inline"]);
  oneOf("kvCache", options.kvCache, ["f32", "f16", "int8"]);
  if (!isModelCache(options.cache)) oneOf("cache", options.cache, ["opfs", "none"], ", or an object with match(), put() and delete()");
}

/** @throws TypeError for a recipe that needs calibration where there is none */
export function requireCalibration(recipe: QuantizationRecipe, calibration: LoadOptions["calibration"]): void {
  const field = calibratedField(recipe);
  if (field !== null && calibration === undefined) throw new TypeError(`calibration is missing; expected text or tokens, since quantization.${field} is worked out from them.`);
}

/** contextLength within the model's positions. */
export function resolveContextLength(contextLength: number | undefined, { nPositions }: Gpt2Config): number {
  if (contextLength === undefined) return nPositions;
  if (typeof contextLength !== "number") throw new TypeError(`contextLength is ${show(contextLength)}; expected an integer in 1…${nPositions} (nPositions).`);
  if (!Number.isInteger(contextLength) || contextLength < 1 || contextLength > nPositions) throw new RangeError(`contextLength is ${show(contextLength)}; expected an integer in 1…${nPositions} (nPositions).`);
  return contextLength;
}

/** f32 weights deserve an f32 cache; elsewhere halves cost nothing that shows. */
export function resolveKvCache(kvCache: LoadOptions["kvCache"], recipe: QuantizationRecipe): "f32" | "f16" | "int8" {
  return kvCache ?? (recipe.linear.type === "f32" ? "f32" : "f16");
}

/** What a backend needs to know of a recipe's activations. */
export function activationsOf({ activations = "float", outlierThreshold }: QuantizationRecipe): Pick<BackendOptions, "activations" | "outlierThreshold"> {
  return activations === "float" ? {} : { activations: activations.type, outlierThreshold };
}

function isModelCache(value: unknown): boolean {
  return typeof value === "object" && value !== null && (["match", "put", "delete"] as const).every((name) => typeof (value as Partial<ModelCache>)[name] === "function");
}

function oneOf(option: string, value: unknown, allowed: readonly string[], more = ""): void {
  if (value !== undefined && !allowed.includes(value as string)) throw new TypeError(`${option} is ${show(value)}; expected one of ${allowed.map((a) => `"${a}"`).join(", ")}${more}.`);
}
