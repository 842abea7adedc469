import type { Checkpoint } from "../checkpoint/types.ts";
import { checkTokens } from "../generate/options.ts";
import type { InputStatistics } from "../quantize/inputStatistics.ts";
import { calibratedField } from "../quantize/recipes.ts";
import { materialize } from "../source/materialize.ts";
import type { CheckpointSource } from "../source/types.ts";
import type { Tokenizer } from "../tokenizer/types.ts";
import type { Gpt2Config, LoadOptions, QuantizationRecipe } from "../types.ts";
import { Calibration, calibrationWindows, type CalibrationWindows } from "./calibration.ts";
import type { ProgressMeter } from "./progress.ts";

/** How far into the whole load the download and a run of calibration lead, where there are any. */
const DOWNLOAD_END = 0.2;
const RUN_END = 0.5;

/** A checkpoint made ready for a recipe. */
export interface Prepared {
  checkpoint: Checkpoint;
  /** Of its matrices' inputs; empty where the recipe makes no use of them. */
  statistics: ReadonlyMap<string, InputStatistics>;
}

/** @throws TypeError for a recipe that needs calibration where there is none */
export function requireCalibration(recipe: QuantizationRecipe, calibration: LoadOptions["calibration"]): void {
  const field = calibratedField(recipe);
  if (field !== null && calibration === undefined) throw new TypeError(`calibration is missing; expected text or tokens, since quantization.${field} is worked out from them.`);
}

/** Whether a recipe has a use for calibration: LLM.int8() only reports what it would find. */
export function usesCalibration(recipe: QuantizationRecipe): boolean {
  return calibratedField(recipe) !== null || recipe.outlierThreshold !== undefined;
}

/** The windows of LoadOptions.calibration. @throws TypeError or RangeError naming it */
export function readCalibration(calibration: NonNullable<LoadOptions["calibration"]>, tokenizer: Tokenizer, config: Gpt2Config, contextLength: number): CalibrationWindows {
  const tokens = typeof calibration === "string" ? tokenizer.encode(calibration) : calibration;
  checkTokens("calibration", tokens, config.vocabSize);
  return calibrationWindows("calibration", tokens, contextLength);
}

/** The same source, for a checkpoint that is read several times. */
export function materializeFor(progress: ProgressMeter, source: CheckpointSource, signal: AbortSignal | undefined): Promise<CheckpointSource> {
  progress.spanTo(DOWNLOAD_END);
  return materialize(source, { signal, onBytes: ({ file, loadedBytes, totalBytes }) => progress.downloaded(file, loadedBytes, totalBytes) });
}

/** Runs what a recipe needs to know before its weights stream in. */
export async function prepare(recipe: QuantizationRecipe, checkpoint: Checkpoint, calibration: Calibration | null, progress: ProgressMeter): Promise<Prepared> {
  if (!calibration || !usesCalibration(recipe)) return { checkpoint, statistics: new Map() };
  progress.spanTo(RUN_END);
  const statistics = await calibration.statistics(progress);
  await calibration.release();
  progress.spanTo(1);
  return { checkpoint, statistics };
}
