import bpeRanks from "gpt-tokenizer/bpeRanks/r50k_base"; // the vocabulary alone: its encoder needs quadratic time on long runs and overlooks special tokens after other text
import type { Vocabulary } from "./bpe.ts";
import { toByteString, utf8ByteString } from "./byteStrings.ts";

export const END_OF_TEXT = "<|endoftext|>";

let vocabulary: Vocabulary | undefined;

/** Tokens between two steps: about a millisecond. */
const STEP_TOKENS = 2048;

/** GPT-2's own vocabulary, r50k_base with <|endoftext|>, 50,257 tokens, in steps, for who has something else to do meanwhile; made once, then shared. Rank and id of a token are the same number. */
export function* gpt2VocabularySteps(): Generator<undefined, Vocabulary> {
  if (vocabulary) return vocabulary;
  const tokens: string[] = [];
  const ids = new Map<string, number>();
  for (const token of bpeRanks) {
    const bytes = typeof token === "string" ? utf8ByteString(token) : toByteString(token);
    ids.set(bytes, tokens.length);
    if (tokens.push(bytes) % STEP_TOKENS === 0) yield;
  }
  const endOfTextId = tokens.push(END_OF_TEXT) - 1; // after the map: its bytes never merge into it
  vocabulary = {
    tokens,
    byteIds: Array.from({ length: 256 }, (_, byte) => ids.get(String.fromCharCode(byte))!),
    merges: { rank: (left, right) => ids.get(tokens[left]! + tokens[right]!) ?? -1, merged: (rank) => rank },
    addedTokens: [{ content: END_OF_TEXT, id: endOfTextId, special: true }],
    addPrefixSpace: false,
  };
  return vocabulary;
}
