import type { Checkpoint } from "../checkpoint/types.ts";
import { tokensOf } from "../generate/options.ts";
import type { BackendBuilder } from "../model/backend.ts";
import { Pacer } from "../model/cpu/pacer.ts";
import { equalized, findFactors } from "../quantize/equalization.ts";
import type { InputStatistics } from "../quantize/inputStatistics.ts";
import { calibratedField } from "../quantize/recipes.ts";
import type { MaterializeOptions } from "../source/materialize.ts";
import type { Tokenizer } from "../tokenizer/types.ts";
import type { Gpt2Config, LoadOptions, QuantizationRecipe, QuantizationReport } from "../types.ts";
import { Calibration, calibrationWindows, type CalibrationWindows, type FloatModel } from "./calibration.ts";
import type { ProgressMeter } from "./progress.ts";
import { type Prepared, quantizeInto, type QuantizeOptions, unprepared } from "./quantizeInto.ts";

/** How far into the whole load its parts lead, where there are any: download, the run of the checkpoint as it is, that of the equalized one. */
const DOWNLOAD_END = 0.2;
const RUN_END = 0.45;
const EQUALIZED_RUN_END = 0.6;

/** What a load with calibration needs beside the recipe. */
export interface CalibratedLoad extends QuantizeOptions {
  /** null where no text was given. */
  calibration: Calibration | null;
  /** @default false: what it finds for LLM.int8() decides what is kept in f16 */
  reportsOnly?: boolean;
  /** Static ranges that the checkpoint brings, for a recipe that it brings too. */
  storedRanges?: Prepared["storedRanges"];
  /** Opens a checkpoint in floats. */
  openModel: (checkpoint: Checkpoint, progress: ProgressMeter) => Promise<FloatModel>;
}

/** @throws TypeError for a recipe that needs calibration where there is none */
export function requireCalibration(recipe: QuantizationRecipe, calibration: LoadOptions["calibration"]): void {
  const field = calibratedField(recipe);
  if (field !== null && calibration === undefined) throw new TypeError(`calibration is missing; expected text or tokens, since quantization.${field} is worked out from them.`);
}

/** Whether a recipe has a use for calibration: LLM.int8() does without, but then keeps no f16 columns. */
export function usesCalibration(recipe: QuantizationRecipe): boolean {
  return calibratedField(recipe) !== null || recipe.outlierThreshold !== undefined;
}

/** The windows of LoadOptions.calibration. @throws TypeError or RangeError naming it */
export function readCalibration(calibration: NonNullable<LoadOptions["calibration"]>, tokenizer: Tokenizer, config: Gpt2Config, contextLength: number): CalibrationWindows {
  return calibrationWindows("calibration", tokensOf("calibration", calibration, tokenizer, config.vocabSize), contextLength);
}

/** How openVerified() downloads a checkpoint that is read several times. */
export function downloadFirst(progress: ProgressMeter): Pick<MaterializeOptions, "onBytes"> {
  progress.spanTo(DOWNLOAD_END);
  return { onBytes: ({ file, loadedBytes, totalBytes }) => progress.downloaded({ file, fileBytes: loadedBytes, fileTotalBytes: totalBytes, loadedBytes, totalBytes }) };
}

/** quantizeInto() after what calibration has to find out for the recipe. The models that it opens are gone when it ends, however it ends. */
export async function quantizeCalibrated(builder: BackendBuilder, checkpoint: Checkpoint, recipe: QuantizationRecipe, load: CalibratedLoad): Promise<QuantizationReport> {
  const { calibration } = load;
  const open: Calibration[] = [];
  try {
    const prepared = calibration && usesCalibration(recipe) ? await prepare(checkpoint, recipe, { ...load, calibration }, open) : unprepared(checkpoint, load.storedRanges);
    return await quantizeInto(builder, prepared, recipe, load);
  } finally {
    for (const each of open) await each.release();
  }
}

async function prepare(original: Checkpoint, recipe: QuantizationRecipe, { calibration, reportsOnly = false, openModel, progress, signal }: CalibratedLoad & { calibration: Calibration }, open: Calibration[]): Promise<Prepared> {
  const { rounding = "nearest", equalization = "none", smoothing, activations = "float", outlierThreshold } = recipe;
  const prepared: Prepared = { ...unprepared(original), reportsOnly };
  let current = calibration;
  open.push(current);
  progress.spanTo(RUN_END);
  if (equalization !== "none") {
    const needsGram = equalization === "awq" || smoothing === "search";
    const statisticsOf = async (name: string): Promise<InputStatistics> => (needsGram ? calibration.withGram(name, progress) : (await calibration.statistics(progress)).get(name)!);
    const pacer = new Pacer();
    const factors = await findFactors(original, recipe, statisticsOf, { signal, rest: () => pacer.rest(signal) });
    await calibration.release();
    prepared.checkpoint = equalized(original, new Map([...factors].map(([name, { factor }]) => [name, factor])));
    prepared.smoothing = new Map([...factors].map(([name, { alpha }]) => [name, alpha]));
    current = new Calibration((meter) => openModel(prepared.checkpoint, meter), calibration.windows, signal);
    open.push(current);
    progress.spanTo(EQUALIZED_RUN_END);
  }
  if (outlierThreshold !== undefined || (activations !== "float" && activations.ranges === "static")) prepared.statistics = await current.statistics(progress);
  if (rounding === "gptq") {
    prepared.withGram = (name) => current.withGram(name, progress);
    await current.load(progress);
  } else {
    await current.release(); // the weights of one model at a time
  }
  progress.spanTo(1);
  return prepared;
}
