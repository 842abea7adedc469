import { isMatrix } from "../checkpoint/gpt2Weights.ts";
import { EngineError } from "../errors.ts";
import { inspectQuantized, type InspectionOptions, type QuantizationInspection } from "../quantize/inspect.ts";
import { quantizeTensor } from "../quantize/nearest.ts";
import { formatOf, resolveRecipe } from "../quantize/recipes.ts";
import type { LoadOptions, ModelSource, QuantizedTensor, WorkerLoadOptions } from "../types.ts";
import { openModel } from "./loadModel.ts";
import { checkLoadOptions, requireCalibration } from "./options.ts";
import { hasCodes } from "./quantizeInto.ts";
import { readOne } from "./readTensor.ts";

/** Options of inspectTensor(): of loadModel() and inspectQuantization(). */
export interface InspectTensorOptions extends LoadOptions, InspectionOptions {}

/** Options of inspectTensorInWorker(): of loadModelInWorker() and inspectQuantization(). */
export interface WorkerInspectTensorOptions extends WorkerLoadOptions, InspectionOptions {}

/** What a recipe does to one matrix. */
export interface TensorInspection extends QuantizationInspection {
  /** As in the checkpoint, without `transformer.`. */
  name: string;
  /** How the weights that it shows were rounded. */
  rounding: "nearest" | "gptq";
}

/**
 * inspectQuantization() of one matrix of a checkpoint under a recipe. A recipe that rounds by GPTQ is loaded for it, as loadModel() does, which a second
 * matrix then finds in the cache; where a recipe equalizes, whose factors move between matrices, and in every other case the weights are rounded to nearest.
 * The statistics are computed at a stretch: a page calls inspectTensorInWorker().
 * @param name as for readTensor()
 * @throws as readTensor() and loadModel(); EngineError `checkpoint` for a vector, which no recipe quantizes
 */
export async function inspectTensor(source: ModelSource, name: string, { bins, outlierFactor, ...load }: InspectTensorOptions = {}): Promise<TensorInspection> {
  checkLoadOptions(load);
  const recipe = resolveRecipe(load.quantization);
  requireCalibration(recipe, load.calibration);
  const { tensor, values } = await readOne(source, name, { hub: load.hub, fetch: load.fetch, signal: load.signal });
  if (!isMatrix(tensor)) throw new EngineError("checkpoint", `Tensor "${tensor.name}" is a ${tensor.kind}, which stays f32; expected a matrix of a block, wte.weight or lm_head.weight.`, { tensor: tensor.name });
  const format = formatOf(recipe, tensor.name, tensor.kind);
  const rounding = recipe.rounding === "gptq" && (recipe.equalization ?? "none") === "none" && tensor.kind === "linear" && hasCodes(format) ? "gptq" : "nearest";
  const quantized = rounding === "gptq" ? await readLoaded(source, tensor.name, load) : quantizeTensor(values, tensor.shape, format);
  return { name: tensor.name, rounding, ...inspectQuantized(values, quantized, { bins, outlierFactor }) };
}

/** A matrix as a model has it once it is loaded. */
async function readLoaded(source: ModelSource, name: string, load: LoadOptions): Promise<QuantizedTensor> {
  const { backend } = await openModel(source, load);
  try {
    return (await backend.readTensor(name, load.signal)) as QuantizedTensor;
  } finally {
    backend.dispose();
  }
}
