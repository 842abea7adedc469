import type { Backend } from "../model/backend.ts";
import { fetchPart } from "../parts.ts";
import { resolveRecipe, usesCalibration } from "../quantize/recipes.ts";
import { openSource } from "../source/openSource.ts";
import { pinnedSource } from "../source/pinned.ts";
import type { CheckpointSource } from "../source/types.ts";
import type { Gpt2Config, LoadOptions, Model, ModelSource, QuantizationRecipe, QuantizationReport } from "../types.ts";
import type { Recording } from "./cacheRecording.ts";
import { LoadedModel, type ModelParts } from "./model.ts";
import { type BackendChoice, build, chooseBackend, createBuilder, createBuilderBeside, disposeChoice, prefetchBackend } from "./openBackend.ts";
import { openVerified } from "./openVerified.ts";
import { activationsOf, checkLoadOptions, requireCalibration, resolveContextLength, resolveKvCache } from "./options.ts";
import { requireRoom } from "./planModel.ts";
import { ProgressMeter } from "./progress.ts";
import { quantizeInto, unprepared } from "./quantizeInto.ts";
import { readTokenizer } from "./readTokenizer.ts";
import { LossCounter, RecoveringBackend } from "./recovery.ts";
import { defaultRecipe } from "./stored.ts";
import { closingTransfers } from "./transfers.ts";
import { type CachedCheckpoint, WeightCache } from "./weightCache.ts";

/**
 * Loads a Hugging Face GPT-2 checkpoint and quantizes it on the way: config, then each tensor is read, quantized, packed, uploaded and dropped.
 * A recipe that is worked out from calibration text first runs it through the checkpoint in floats.
 * A checkpoint that is quantized already, by exportSafetensors() or by bitsandbytes to 4 bits, keeps its codes where the recipe asks for the format
 * that they are in, and for all of them where no recipe is given.
 * What was packed is kept in `cache`, and a later load of the same files by the same recipe takes it from there; see WeightCache.
 * When the GPU device is lost, while loading or later, all of it is done again on another, from the cache or else the same source, and running calls go on
 * where they were. The model therefore keeps the source; one that is remote is downloaded again, and refused where it has changed. A device that the
 * caller brought cannot be made again, and ends the model.
 * @throws TypeError or RangeError for wrong options; EngineError network, checkpoint, integrity, quantize, unsupported, outOfMemory, shader or deviceLost;
 * signal.reason on abort. Whatever it throws, nothing stays allocated.
 */
export async function loadModel(source: ModelSource, options: LoadOptions = {}): Promise<Model> {
  return new LoadedModel(await openModel(source, options));
}

/** As loadModel(): what it makes a model of. */
export async function openModel(source: ModelSource, options: LoadOptions): Promise<ModelParts> {
  checkLoadOptions(options);
  options.signal?.throwIfAborted();
  const recipe = options.quantization === undefined ? null : resolveRecipe(options.quantization);
  if (recipe) requireCalibration(recipe, options.calibration);
  const load = { ...options, recipe, progress: new ProgressMeter(options.onProgress) };
  prefetchBackend(options);
  const opened = pinnedSource(openSource(source, { hub: options.hub, fetch: options.fetch })); // its transfers end with the signal of each load
  const notices = new Set<string>();
  const cache = await WeightCache.open(opened, load, notices);
  const losses = new LossCounter(options);
  const parts = { ...(await losses.retry(() => loadParts(opened, load, cache))), notices };
  if (options.device || parts.backend.adapter.backend === "cpu") return parts;
  const rebuild = async (signal: AbortSignal): Promise<Backend> => (await loadParts(opened, { ...load, backend: "webgpu", signal, progress: new ProgressMeter(undefined) }, cache)).backend;
  return { ...parts, backend: new RecoveringBackend({ backend: parts.backend, rebuild, losses }) };
}

/** Options that were checked; recipe: null where the checkpoint is to say it. */
type CheckedLoad = LoadOptions & { recipe: QuantizationRecipe | null; progress: ProgressMeter };
type LoadedParts = ModelParts & { backend: Backend };

/** From the cache or the source to the backend; the same again for the same options. */
async function loadParts(source: CheckpointSource, options: CheckedLoad, cache: WeightCache | null): Promise<LoadedParts> {
  return (await cache?.restore((cached) => loadCached(cached, options), options.signal)) ?? closingTransfers(options.signal, (signal) => loadSource(source, { ...options, signal }, cache));
}

/** Where the model is to run. @throws EngineError `outOfMemory` where it does not fit */
async function chooseRoom(options: LoadOptions, model: { config: Gpt2Config; recipe: QuantizationRecipe; contextLength: number }): Promise<BackendChoice> {
  const choice = await chooseBackend(options, model.config);
  try {
    requireRoom(choice, { ...model, kvCache: options.kvCache });
    return choice;
  } catch (error) {
    disposeChoice(choice);
    throw error;
  }
}

async function loadCached(cached: CachedCheckpoint, { signal, progress, ...options }: CheckedLoad): Promise<LoadedParts> {
  const { config, recipe, description, notices } = cached;
  const contextLength = resolveContextLength(options.contextLength, config);
  const tokenizer = await readTokenizer(cached.tokenizerFiles, config, signal);
  const choice = await chooseRoom(options, { config, recipe, contextLength });
  const builder = createBuilder(choice, { config, contextLength, kvCache: resolveKvCache(options.kvCache, recipe), ...activationsOf(recipe), notices });
  const fill = async (): Promise<QuantizationReport> => {
    const quantization = await cached.fill(builder, progress);
    progress.compiling(0, 1);
    return quantization;
  };
  const { filled: quantization, backend } = await build(builder, fill, signal);
  progress.compiling(1, 1);
  return { config, contextLength, backend, tokenizer, tokenizerFiles: cached.tokenizerFiles, quantization, description };
}

async function loadSource(source: CheckpointSource, options: CheckedLoad, cache: WeightCache | null): Promise<LoadedParts> {
  const { signal, integrity, progress, quantizer, recipe: given } = options;
  const mayCalibrate = options.calibration !== undefined && (!given || usesCalibration(given));
  const calibration = mayCalibrate ? await fetchPart("Calibration", () => import("./prepare.ts"), signal) : null;
  const checkpoint = await openVerified(source, { signal, integrity, download: calibration?.downloadFirst(progress, signal) });
  const { config } = checkpoint;
  const { recipe, ranges } = given ? { recipe: given } : await defaultRecipe(checkpoint, signal);
  if (!ranges?.size) requireCalibration(recipe, options.calibration);
  const contextLength = resolveContextLength(options.contextLength, config);
  const tokenizer = await readTokenizer(checkpoint.tokenizerFiles, config, signal);
  const windows = calibration && usesCalibration(recipe) ? calibration.readCalibration(options.calibration!, tokenizer, config, contextLength) : null;
  const choice = await chooseRoom(options, { config, recipe, contextLength });
  const builder = createBuilder(choice, { config, contextLength, kvCache: resolveKvCache(options.kvCache, recipe), ...activationsOf(recipe), notices: windows?.notices });
  let recording: Recording | null | undefined;
  try {
    signal?.throwIfAborted();
    recording = await cache?.record(builder, checkpoint, { recipe, notices: windows?.notices }, signal);
    const into = recording?.builder ?? builder;
    const quantization = await (windows
      ? calibration!.quantizeByWindows(into, checkpoint, recipe, windows, { openBuilder: () => createBuilderBeside(choice, { config, contextLength, kvCache: "f32" }), progress, quantizer, signal })
      : quantizeInto(into, unprepared(checkpoint, recipe, ranges), recipe, { progress, quantizer, signal }));
    await recording?.finish(quantization);
    progress.compiling(0, 1);
    const backend = await builder.finish(signal);
    progress.compiling(1, 1);
    return { config, contextLength, backend, tokenizer, tokenizerFiles: checkpoint.tokenizerFiles, quantization, description: checkpoint.description };
  } catch (error) {
    recording?.abandon(error);
    builder.abandon();
    throw error;
  }
}
