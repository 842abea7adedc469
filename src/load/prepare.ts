import type { Checkpoint } from "../checkpoint/types.ts";
import { tokensOf } from "../generate/options.ts";
import type { BackendBuilder } from "../model/backend.ts";
import { Pacer } from "../model/cpu/pacer.ts";
import { equalized, findFactors } from "../quantize/equalization.ts";
import { f16ColumnsOf, type InputStatistics, outliersBeyond, withoutOutliers } from "../quantize/inputStatistics.ts";
import { staticRange } from "../quantize/observers.ts";
import { usesCalibration } from "../quantize/recipes.ts";
import { materialize } from "../source/materialize.ts";
import type { CheckpointSource } from "../source/types.ts";
import type { Tokenizer } from "../tokenizer/types.ts";
import type { Gpt2Config, LoadOptions, QuantizationRecipe, QuantizationReport, TensorInputReport } from "../types.ts";
import { Calibration, calibrationWindows, type CalibrationWindows, type FloatModel, openFloat } from "./calibration.ts";
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
  /** Opens a checkpoint in floats. */
  openModel: (checkpoint: Checkpoint, progress: ProgressMeter) => Promise<FloatModel>;
}

/** The windows of LoadOptions.calibration. @throws TypeError or RangeError naming it */
export function readCalibration(calibration: NonNullable<LoadOptions["calibration"]>, tokenizer: Tokenizer, config: Gpt2Config, contextLength: number): CalibrationWindows {
  return calibrationWindows("calibration", tokensOf("calibration", calibration, tokenizer, config.vocabSize), contextLength);
}

/** How openVerified() downloads a checkpoint that is read several times. */
export function downloadFirst(progress: ProgressMeter, signal: AbortSignal | undefined): (source: CheckpointSource) => Promise<CheckpointSource> {
  progress.spanTo(DOWNLOAD_END);
  return (source) => materialize(source, { signal, onBytes: ({ file, loadedBytes, totalBytes }) => progress.downloaded({ file, fileBytes: loadedBytes, fileTotalBytes: totalBytes, loadedBytes, totalBytes }) });
}

/** quantizeCalibrated() for one model. openBuilder: of a model in floats, where the other is */
export function quantizeByWindows(builder: BackendBuilder, checkpoint: Checkpoint, recipe: QuantizationRecipe, windows: CalibrationWindows, { openBuilder, ...options }: QuantizeOptions & { openBuilder: () => Promise<BackendBuilder> }): Promise<QuantizationReport> {
  const { signal } = options;
  const openModel: CalibratedLoad["openModel"] = async (floats, meter) => openFloat(await openBuilder(), floats, meter, signal);
  return quantizeCalibrated(builder, checkpoint, recipe, { ...options, openModel, calibration: new Calibration((meter) => openModel(checkpoint, meter), windows, signal) });
}

/** quantizeInto() after what calibration has to find out for the recipe. The models that it opens are gone when it ends, however it ends. */
export async function quantizeCalibrated(builder: BackendBuilder, checkpoint: Checkpoint, recipe: QuantizationRecipe, load: CalibratedLoad): Promise<QuantizationReport> {
  const { calibration } = load;
  const open: Calibration[] = [];
  try {
    const prepared = calibration && usesCalibration(recipe) ? await prepare(checkpoint, recipe, { ...load, calibration }, open) : unprepared(checkpoint, recipe);
    return await quantizeInto(builder, prepared, recipe, load);
  } finally {
    for (const each of open) await each.release();
  }
}

async function prepare(original: Checkpoint, recipe: QuantizationRecipe, { calibration, reportsOnly = false, openModel, progress, signal }: CalibratedLoad & { calibration: Calibration }, open: Calibration[]): Promise<Prepared> {
  const { rounding = "nearest", equalization = "none", smoothing, activations = "float", outlierThreshold } = recipe;
  const found: Findings = { statistics: new Map(), smoothing: new Map() };
  const prepared: Prepared = {
    ...unprepared(original, recipe),
    inputReport: (name, coded) => inputReport(recipe, found, name, coded),
    f16Columns: (name) => {
      const seen = found.statistics.get(name);
      return seen && outlierThreshold !== undefined && !reportsOnly ? f16ColumnsOf(outlierThreshold, seen) : undefined;
    },
  };
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
    found.smoothing = new Map([...factors].map(([name, { alpha }]) => [name, alpha]));
    current = new Calibration((meter) => openModel(prepared.checkpoint, meter), calibration.windows, signal);
    open.push(current);
    progress.spanTo(EQUALIZED_RUN_END);
  }
  if (outlierThreshold !== undefined || (activations !== "float" && activations.ranges === "static")) found.statistics = await current.statistics(progress);
  if (rounding === "gptq") {
    prepared.withGram = (name) => current.withGram(name, progress);
    await current.load(progress);
  } else {
    await current.release(); // the weights of one model at a time
  }
  progress.spanTo(1);
  return prepared;
}

/** What calibration found, by matrix. */
interface Findings {
  /** Of its inputs; empty where the recipe makes no use of them. */
  statistics: ReadonlyMap<string, InputStatistics>;
  /** α where equalization scaled it; undefined where a search found none. */
  smoothing: ReadonlyMap<string, number | undefined>;
}

/** What calibration did with a matrix's input; see Prepared. */
function inputReport({ activations = "float", observer = "minmax", outlierThreshold }: QuantizationRecipe, { statistics, smoothing }: Findings, name: string, coded: boolean): TensorInputReport | undefined {
  const report: TensorInputReport = {};
  const seen = coded ? statistics.get(name) : undefined;
  if (seen && outlierThreshold !== undefined) {
    const { columns, share } = outliersBeyond(outlierThreshold, seen);
    Object.assign(report, { outlierShare: share, outlierColumns: columns.length });
  }
  if (seen && activations !== "float" && activations.ranges === "static") {
    const range = staticRange(outlierThreshold === undefined ? seen : withoutOutliers(outlierThreshold, seen), observer);
    Object.assign(report, { range, observer });
  }
  const alpha = smoothing.get(name);
  if (alpha !== undefined) report.smoothing = alpha;
  return Object.keys(report).length > 0 ? report : undefined;
}
