import { openCheckpoint } from "../checkpoint/openCheckpoint.ts";
import { resolveRecipe } from "../quantize/recipes.ts";
import { openSource } from "../source/openSource.ts";
import { createTokenizer } from "../tokenizer/index.ts";
import type { LoadOptions, Model, ModelSource } from "../types.ts";
import { LoadedModel } from "./model.ts";
import { chooseBackend, createBuilder } from "./openBackend.ts";
import { activationsOf, checkLoadOptions, resolveContextLength, resolveKvCache } from "./options.ts";
import { ProgressMeter } from "./progress.ts";
import { quantizeInto } from "./quantizeInto.ts";

/**
 * Loads a Hugging Face GPT-2 checkpoint and quantizes it on the way: config, then each tensor is read, quantized, packed, uploaded and dropped.
 * @throws TypeError or RangeError for wrong options; EngineError network, checkpoint, quantize, unsupported, outOfMemory, shader or deviceLost;
 * signal.reason on abort. Whatever it throws, nothing stays allocated.
 */
export async function loadModel(source: ModelSource, options: LoadOptions = {}): Promise<Model> {
  const { signal, hub, fetch } = options;
  signal?.throwIfAborted();
  const recipe = resolveRecipe(options.quantization);
  checkLoadOptions(options);
  const checkpoint = await openCheckpoint(openSource(source, { hub, fetch, signal }), { signal });
  const { config } = checkpoint;
  const contextLength = resolveContextLength(options.contextLength, config);
  const tokenizer = createTokenizer(checkpoint.tokenizerFiles, config);
  const progress = new ProgressMeter(options.onProgress);
  const builder = createBuilder(await chooseBackend(options, config), { config, contextLength, kvCache: resolveKvCache(options.kvCache, recipe), ...activationsOf(recipe) });
  try {
    signal?.throwIfAborted();
    const quantization = await quantizeInto(builder, checkpoint, recipe, progress, signal);
    progress.compiling(0, 1);
    const backend = await builder.finish(signal);
    progress.compiling(1, 1);
    return new LoadedModel({ config, contextLength, backend, tokenizer, quantization });
  } catch (error) {
    builder.abandon();
    throw error;
  }
}
