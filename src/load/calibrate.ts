import { show } from "../errors.ts";
import { headName } from "../checkpoint/gpt2Weights.ts";
import { type InputStatistics, outliersBeyond } from "../quantize/inputStatistics.ts";
import { staticRange } from "../quantize/observers.ts";
import { tokensOf } from "../generate/options.ts";
import { openSource } from "../source/openSource.ts";
import type { AdapterSummary, CalibrateOptions, CalibrationReport, InputReport, ModelSource } from "../types.ts";
import { Calibration, calibrationWindows, openFloat } from "./calibration.ts";
import { chooseBackend, createBuilder } from "./openBackend.ts";
import { openVerified } from "./openVerified.ts";
import { checkLoadOptions, resolveContextLength } from "./options.ts";
import { ProgressMeter } from "./progress.ts";
import { readTokenizer } from "./readTokenizer.ts";
import { LossCounter } from "./recovery.ts";

/** LLM.int8()'s. */
const OUTLIER_THRESHOLD = 6;

/**
 * Runs a text through a checkpoint in floats and reports what the linear matrices of its blocks and the head were given: ranges, outlier columns.
 * @throws TypeError or RangeError for wrong options; EngineError as loadModel, `shader` for NaN or Infinity; signal.reason on abort. Nothing stays allocated.
 */
export async function calibrate(source: ModelSource, options: CalibrateOptions): Promise<CalibrationReport> {
  const { signal, hub, fetch, integrity, outlierThreshold = OUTLIER_THRESHOLD } = options;
  checkLoadOptions(options);
  signal?.throwIfAborted();
  if (typeof outlierThreshold !== "number") throw new TypeError(`outlierThreshold is ${show(outlierThreshold)}; expected a number.`);
  if (!(outlierThreshold > 0)) throw new RangeError(`outlierThreshold is ${outlierThreshold}; expected a number above 0.`);
  const checkpoint = await openVerified(openSource(source, { hub, fetch, signal }), { signal, integrity });
  const { config, tensors } = checkpoint;
  const contextLength = resolveContextLength(options.contextLength, config);
  const tokens = tokensOf("text", options.text, await readTokenizer(checkpoint.tokenizerFiles, config, signal), config.vocabSize);
  const windows = calibrationWindows("text", tokens, contextLength);
  const progress = new ProgressMeter(options.onProgress);

  const observe = async (): Promise<{ adapter: AdapterSummary; found: ReadonlyMap<string, InputStatistics> }> => {
    const builder = createBuilder(await chooseBackend(options, config), { config, contextLength, kvCache: "f32", notices: windows.notices });
    const calibration = new Calibration(() => openFloat(builder, checkpoint, progress, signal), windows, signal);
    try {
      const { backend: { adapter } } = await calibration.load(progress);
      return { adapter, found: await calibration.statistics(progress) };
    } finally {
      await calibration.release();
    }
  };
  const losses = new LossCounter(options);
  const { adapter, found } = await losses.retry(observe);
  const inputs: InputReport[] = [];
  for (const name of [...tensors.filter(({ kind }) => kind === "linear").map(({ name }) => name), headName(config)]) {
    const statistics = found.get(name)!;
    const { absmax, meanAbs } = statistics;
    const { columns, share } = outliersBeyond(outlierThreshold, statistics);
    inputs.push({
      name,
      columns: absmax.length,
      absmax: absmax.reduce((max, value) => Math.max(max, value), 0),
      meanAbs: meanAbs.reduce((sum, value) => sum + value, 0) / meanAbs.length,
      ranges: { minmax: staticRange(statistics, "minmax"), percentile: staticRange(statistics, "percentile"), mse: staticRange(statistics, "mse") },
      outlierColumns: columns,
      outlierShare: share,
    });
  }
  return { tokens: windows.tokens, windows: windows.windows.length, windowTokens: windows.windows[0]!.length, outlierThreshold, inputs, adapter: losses.noticed(adapter) };
}
