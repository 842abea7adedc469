import { EngineError } from "../errors.ts";
import { BytePairTokenizer } from "./bpe.ts";
import type { Vocabulary } from "./bpe.ts";
import { END_OF_TEXT, gpt2Vocabulary, gpt2VocabularySteps } from "./gpt2.ts";
import type { Tokenizer } from "./types.ts";
import { readTokenizerJson, readVocabAndMerges } from "./vocabularyFiles.ts";

export type { Tokenizer, TokenStream } from "./types.ts";

/**
 * The tokenizer of a checkpoint: of its own tokenizer.json, else of its vocab.json and merges.txt, else GPT-2's.
 * Generations end with config.eosTokenId where the model has that token, else with the vocabulary's <|endoftext|>.
 * @param files texts by name; other names are ignored
 * @param config vocabSize: rows of the model's embedding; ids below it always decode, to "" where the vocabulary has no token
 */
export function createTokenizer(files: Readonly<Record<string, string>>, config: { vocabSize: number; eosTokenId: number | null }): Tokenizer {
  const vocabulary = vocabularyOf(files);
  const isOfModel = (id: number | null | undefined): id is number => typeof id === "number" && id < config.vocabSize;
  const endOfTextId = [config.eosTokenId, vocabulary.tokens.indexOf(END_OF_TEXT)].find((id) => isOfModel(id) && id >= 0) ?? null;
  return new BytePairTokenizer(vocabulary, endOfTextId, config.vocabSize);
}

/** createTokenizer() in steps while GPT-2's vocabulary is made; one that the checkpoint brings is read in one step. */
export function* createTokenizerSteps(files: Parameters<typeof createTokenizer>[0], config: Parameters<typeof createTokenizer>[1]): Generator<undefined, Tokenizer> {
  if (!["tokenizer.json", "vocab.json", "merges.txt"].some((name) => name in files)) yield* gpt2VocabularySteps();
  return createTokenizer(files, config);
}

function vocabularyOf(files: Readonly<Record<string, string>>): Vocabulary {
  const { "tokenizer.json": json, "vocab.json": vocab, "merges.txt": merges } = files;
  if (json !== undefined) return readTokenizerJson(json);
  if (vocab === undefined && merges === undefined) return gpt2Vocabulary();
  if (vocab !== undefined && merges !== undefined) return readVocabAndMerges(vocab, merges);
  const [found, missing] = vocab === undefined ? ["merges.txt", "vocab.json"] : ["vocab.json", "merges.txt"];
  throw new EngineError("checkpoint", `The checkpoint brings ${found} without ${missing}; expected both, or tokenizer.json.`, { found, missing });
}
