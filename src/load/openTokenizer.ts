import { openCheckpoint } from "../checkpoint/openCheckpoint.ts";
import { openSource } from "../source/openSource.ts";
import type { Gpt2Config, LoadOptions, Model, ModelSource } from "../types.ts";
import { readTokenizer } from "./readTokenizer.ts";

/** What of a model needs no weights. */
export interface ModelTokenizer extends Pick<Model, "encode" | "decode"> {
  readonly config: Gpt2Config;
}

/**
 * Reads a checkpoint's config.json and tokenizer, not its weights: to count and cut tokens before anything is loaded.
 * @throws EngineError network, checkpoint; signal.reason on abort
 */
export async function openTokenizer(source: ModelSource, { hub, fetch, signal }: Pick<LoadOptions, "hub" | "fetch" | "signal"> = {}): Promise<ModelTokenizer> {
  signal?.throwIfAborted();
  const { config, tokenizerFiles } = await openCheckpoint(openSource(source, { hub, fetch, signal }), { signal });
  const tokenizer = await readTokenizer(tokenizerFiles, config, signal);
  return { config, encode: (text, options) => tokenizer.encode(text, options), decode: (tokens) => tokenizer.decode(tokens) };
}
