import type { CheckpointTensor } from "../checkpoint/types.ts";
import { EngineError } from "../errors.ts";
import { KernelCompiler } from "../gpu/pipeline.ts";
import type { BackendOptions } from "../model/backend.ts";
import { planGpu } from "../model/gpuBuffers.ts";
import type { MemoryPlan } from "../model/plan.ts";
import { formatOf, presets, resolveRecipe } from "../quantize/recipes.ts";
import { openSource } from "../source/openSource.ts";
import type { Gpt2Config, ModelPlan, ModelSource, PlanOptions, PresetName, QuantizationRecipe } from "../types.ts";
import { type BackendChoice, chooseBackend, disposeChoice } from "./openBackend.ts";
import { openVerified } from "./openVerified.ts";
import { activationsOf, checkLoadOptions, resolveContextLength, resolveKvCache } from "./options.ts";
import { defaultRecipe } from "./stored.ts";
import { closingTransfers } from "./transfers.ts";

/** What a plan depends on beside the place where the model is to run. */
interface Wanted {
  config: Gpt2Config;
  recipe: QuantizationRecipe;
  contextLength: number;
  kvCache: PlanOptions["kvCache"];
}

/**
 * Finds out what a model would take and whether it fits, before its weights are downloaded: config.json and the start of the weights are all that is read.
 * loadModel() does the same before it reads on, and rejects with `outOfMemory` where the model does not fit.
 * @param source as loadModel()'s, or only a config
 * @throws TypeError or RangeError for wrong options; EngineError as loadModel, but not for what does not fit; signal.reason on abort
 */
export async function planModel(source: ModelSource | Gpt2Config, options: PlanOptions = {}): Promise<ModelPlan> {
  checkLoadOptions(options);
  options.signal?.throwIfAborted();
  return closingTransfers(options.signal, (signal) => planOpened(source, options, signal), "always");
}

async function planOpened(source: ModelSource | Gpt2Config, options: PlanOptions, signal: AbortSignal): Promise<ModelPlan> {
  const given = options.quantization === undefined ? null : resolveRecipe(options.quantization);
  const checkpoint = isConfig(source) ? null : await openVerified(openSource(source, { hub: options.hub, fetch: options.fetch }), { signal });
  const config = checkpoint?.config ?? (source as Gpt2Config);
  const recipe = given ?? (checkpoint ? (await defaultRecipe(checkpoint, signal)).recipe : resolveRecipe());
  const contextLength = resolveContextLength(options.contextLength, config);
  const choice = await chooseBackend({ ...options, signal }, config);
  try {
    signal.throwIfAborted();
    const wanted = { config, recipe, contextLength, kvCache: options.kvCache };
    return {
      backend: choice.kind,
      recipe,
      contextLength,
      kvCache: resolveKvCache(options.kvCache, recipe),
      ...planOn(choice, wanted),
      ...alternatives(choice, wanted),
      downloadBytes: checkpoint?.weightBytes ?? null,
      notices: choice.kind === "cpu" ? choice.notices : [],
    };
  } finally {
    disposeChoice(choice);
  }
}

/** @throws EngineError `outOfMemory` for a model that does not fit, naming the first thing that does not, and what would */
export function requireRoom(choice: BackendChoice, wanted: Wanted): void {
  const { memory, shortages } = planOn(choice, wanted);
  const [first] = shortages;
  if (!first) return;
  const { what, needBytes, limitBytes, limit } = first;
  const { fittingPresets, fittingContextLength } = alternatives(choice, wanted);
  const ways = [fittingContextLength === null ? null : `a contextLength of ${fittingContextLength}`, fittingPresets.length > 0 ? `quantization ${fittingPresets.join(", ")}` : null].filter((way) => way !== null);
  const found = `The model does not fit: ${what} needs ${needBytes} bytes; this ${choice.kind === "cpu" ? "engine" : "device"} allows ${limitBytes} (${limit}).`;
  throw new EngineError("outOfMemory", `${found} ${ways.length > 0 ? `What would fit: ${ways.join(", or ")}.` : "No preset and no shorter context would fit."}`, { needBytes, limitBytes, limit, what, totalBytes: memory.total, shortages, fittingPresets, fittingContextLength });
}

function planOn(choice: BackendChoice, { config, recipe, contextLength, kvCache }: Wanted): MemoryPlan {
  const options: BackendOptions = { config, contextLength, kvCache: resolveKvCache(kvCache, recipe), ...activationsOf(recipe) };
  const format = (tensor: CheckpointTensor): ReturnType<typeof formatOf> => formatOf(recipe, tensor.name, tensor.kind === "linear" ? "linear" : "embedding");
  return choice.kind === "cpu" ? choice.cpu.planCpu(options, format) : planGpu(options, format, { limits: choice.gpu.device.limits, variants: new KernelCompiler(choice.gpu).variants });
}

function fits(choice: BackendChoice, wanted: Wanted): boolean {
  return planOn(choice, wanted).shortages.length === 0;
}

function alternatives(choice: BackendChoice, wanted: Wanted): Pick<ModelPlan, "fittingPresets" | "fittingContextLength"> {
  const fittingPresets = (Object.keys(presets) as PresetName[]).filter((name) => fits(choice, { ...wanted, recipe: presets[name] }));
  let [fitting, tooLong] = [0, wanted.config.nPositions + 1];
  while (tooLong - fitting > 1) {
    const contextLength = Math.floor((fitting + tooLong) / 2);
    if (fits(choice, { ...wanted, contextLength })) fitting = contextLength;
    else tooLong = contextLength;
  }
  return { fittingPresets, fittingContextLength: fitting === 0 ? null : fitting };
}

function isConfig(source: ModelSource | Gpt2Config): source is Gpt2Config {
  return typeof source === "object" && source !== null && "nLayer" in source && typeof source.nLayer === "number";
}
