import { BytePairTokenizer } from "./bpe.ts";
import type { Vocabulary } from "./bpe.ts";
import { END_OF_TEXT } from "./gpt2.ts";
import type { Tokenizer } from "./types.ts";

export { gpt2VocabularySteps } from "./gpt2.ts";
export type { Tokenizer, TokenStream } from "./types.ts";

/**
 * The tokenizer of a vocabulary: one that a checkpoint brings, see vocabularyOf(), or GPT-2's.
 * Generations end with config.eosTokenId where the model has that token, else with the vocabulary's <|endoftext|>.
 * @param config vocabSize: rows of the model's embedding; ids below it always decode, to "" where the vocabulary has no token
 */
export function createTokenizer(vocabulary: Vocabulary, config: { vocabSize: number; eosTokenId: number | null }): Tokenizer {
  const isOfModel = (id: number | null | undefined): id is number => typeof id === "number" && id < config.vocabSize;
  const endOfTextId = [config.eosTokenId, vocabulary.tokens.indexOf(END_OF_TEXT)].find((id) => isOfModel(id) && id >= 0) ?? null;
  return new BytePairTokenizer(vocabulary, endOfTextId, config.vocabSize);
}

/** Whether a checkpoint with these files brings a vocabulary of its own. */
export function bringsVocabulary(files: Readonly<Record<string, string>>): boolean {
  return ["tokenizer.json", "vocab.json", "merges.txt"].some((name) => name in files);
}
