import type { Checkpoint } from "../checkpoint/types.ts";
import { resolveRecipe } from "../quantize/recipes.ts";
import { storedRecipe } from "../quantize/storedRecipe.ts";
import { createTokenizer } from "../tokenizer/index.ts";
import type { LoadOptions, Model, ModelSource, QuantizationRecipe } from "../types.ts";
import { LoadedModel } from "./model.ts";
import { chooseBackend, createBuilder } from "./openBackend.ts";
import { openVerified } from "./openVerified.ts";
import { activationsOf, checkLoadOptions, resolveContextLength, resolveKvCache } from "./options.ts";
import { ProgressMeter } from "./progress.ts";
import { quantizeInto } from "./quantizeInto.ts";

/**
 * Loads a Hugging Face GPT-2 checkpoint and quantizes it on the way: config, then each tensor is read, quantized, packed, uploaded and dropped.
 * A checkpoint that is quantized already, by exportSafetensors() or by bitsandbytes to 4 bits, keeps its codes where the recipe asks for the format
 * that they are in, and for all of them where no recipe is given.
 * @throws TypeError or RangeError for wrong options; EngineError network, checkpoint, integrity, quantize, unsupported, outOfMemory, shader or deviceLost;
 * signal.reason on abort. Whatever it throws, nothing stays allocated.
 */
export async function loadModel(source: ModelSource, options: LoadOptions = {}): Promise<Model> {
  const { signal, hub, fetch, integrity } = options;
  signal?.throwIfAborted();
  const given = options.quantization === undefined ? null : resolveRecipe(options.quantization);
  checkLoadOptions(options);
  const checkpoint = await openVerified(source, { hub, fetch, signal, integrity });
  const { config } = checkpoint;
  const contextLength = resolveContextLength(options.contextLength, config);
  const tokenizer = createTokenizer(checkpoint.tokenizerFiles, config);
  const progress = new ProgressMeter(options.onProgress);
  const recipe = given ?? (await defaultRecipe(checkpoint, signal));
  const builder = createBuilder(await chooseBackend(options, config), { config, contextLength, kvCache: resolveKvCache(options.kvCache, recipe), activations: activationsOf(recipe) });
  try {
    signal?.throwIfAborted();
    const quantization = await quantizeInto(builder, checkpoint, recipe, progress, signal);
    progress.compiling(0, 1);
    const backend = await builder.finish(signal);
    progress.compiling(1, 1);
    return new LoadedModel({ config, contextLength, backend, tokenizer, quantization, description: checkpoint.description });
  } catch (error) {
    builder.abandon();
    throw error;
  }
}

/** What a quantized checkpoint is stored in, else int8. */
async function defaultRecipe(checkpoint: Checkpoint, signal: AbortSignal | undefined): Promise<QuantizationRecipe> {
  const headers = await checkpoint.readHeaders(signal);
  return (headers && storedRecipe(checkpoint, headers)) ?? resolveRecipe();
}
