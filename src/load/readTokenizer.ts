import { Pacer } from "../model/cpu/pacer.ts";
import { fetchPart } from "../parts.ts";
import { bringsVocabulary, createTokenizer, gpt2VocabularySteps, type Tokenizer } from "../tokenizer/index.ts";
import type { Gpt2Config } from "../types.ts";

/** The tokenizer of a checkpoint, of GPT-2's vocabulary where it brings none: that one with pauses for the event loop. Throws as vocabularyOf(); signal.reason on abort. */
export async function readTokenizer(files: Readonly<Record<string, string>>, config: Gpt2Config, signal: AbortSignal | undefined): Promise<Tokenizer> {
  if (bringsVocabulary(files)) {
    const { vocabularyOf } = await fetchPart("The reader of tokenizer files", () => import("../tokenizer/vocabularyFiles.ts"), signal);
    return createTokenizer(vocabularyOf(files), config);
  }
  const steps = gpt2VocabularySteps();
  const pacer = new Pacer();
  for (;;) {
    const { done, value } = steps.next();
    if (done) return createTokenizer(value, config);
    if (pacer.isDue()) await pacer.rest(signal);
  }
}
