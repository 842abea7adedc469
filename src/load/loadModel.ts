import { openCheckpoint } from "../checkpoint/openCheckpoint.ts";
import type { Checkpoint } from "../checkpoint/types.ts";
import { resolveRecipe } from "../quantize/recipes.ts";
import { openSource } from "../source/openSource.ts";
import { createTokenizer } from "../tokenizer/index.ts";
import type { LoadOptions, Model, ModelSource } from "../types.ts";
import { Calibration, type FloatModel, openFloat } from "./calibration.ts";
import { LoadedModel } from "./model.ts";
import { chooseBackend, createBuilder, shareDevice } from "./openBackend.ts";
import { activationsOf, checkLoadOptions, resolveContextLength, resolveKvCache } from "./options.ts";
import { materializeFor, quantizeCalibrated, readCalibration, requireCalibration, usesCalibration } from "./prepare.ts";
import { ProgressMeter } from "./progress.ts";

/**
 * Loads a Hugging Face GPT-2 checkpoint and quantizes it on the way: config, then each tensor is read, quantized, packed, uploaded and dropped.
 * A recipe that is worked out from calibration text first runs it through the checkpoint in floats.
 * @throws TypeError or RangeError for wrong options; EngineError network, checkpoint, quantize, unsupported, outOfMemory, shader or deviceLost;
 * signal.reason on abort. Whatever it throws, nothing stays allocated.
 */
export async function loadModel(source: ModelSource, options: LoadOptions = {}): Promise<Model> {
  const { signal, hub, fetch } = options;
  signal?.throwIfAborted();
  const recipe = resolveRecipe(options.quantization);
  checkLoadOptions(options);
  requireCalibration(recipe, options.calibration);
  const progress = new ProgressMeter(options.onProgress);
  const calibrationText = usesCalibration(recipe) ? options.calibration : undefined;
  const opened = openSource(source, { hub, fetch, signal });
  const checkpoint = await openCheckpoint(calibrationText === undefined ? opened : await materializeFor(progress, opened, signal), { signal });
  const { config } = checkpoint;
  const contextLength = resolveContextLength(options.contextLength, config);
  const tokenizer = createTokenizer(checkpoint.tokenizerFiles, config);
  const windows = calibrationText === undefined ? null : readCalibration(calibrationText, tokenizer, config, contextLength);
  const choice = await chooseBackend(options, config);
  const builder = createBuilder(choice, { config, contextLength, kvCache: resolveKvCache(options.kvCache, recipe), ...activationsOf(recipe), notices: windows?.notices });
  const openModel = async (floats: Checkpoint, meter: ProgressMeter): Promise<FloatModel> => openFloat(createBuilder(await shareDevice(choice), { config, contextLength, kvCache: "f32" }), floats, meter, signal);
  const calibration = windows && new Calibration((meter) => openModel(checkpoint, meter), windows, signal);
  try {
    signal?.throwIfAborted();
    const quantization = await quantizeCalibrated(builder, checkpoint, recipe, { calibration, openModel, progress, signal });
    progress.compiling(0, 1);
    const backend = await builder.finish(signal);
    progress.compiling(1, 1);
    return new LoadedModel({ config, contextLength, backend, tokenizer, quantization });
  } catch (error) {
    builder.abandon();
    throw error;
  }
}
