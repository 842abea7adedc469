import { EngineError, show } from "../errors.ts";
import type { AddedToken, Vocabulary } from "./bpe.ts";
import { utf8ByteString } from "./byteStrings.ts";
import { END_OF_TEXT } from "./gpt2.ts";
import { MAX_TOKEN_COUNT } from "./merge.ts";

/** Printable char of each byte in vocabulary files: itself where printable, else 256, 257, … in order (openai/gpt-2, encoder.py, bytes_to_unicode). */
const byteChars = Array.from({ length: 256 }, (_, byte) => byte).map((byte, _, bytes) =>
  String.fromCharCode(isPrintable(byte) ? byte : 256 + bytes.slice(0, byte).filter((other) => !isPrintable(other)).length),
);
/** Byte, as a byte string, of each char code that stands for one. */
const byteByCharCode: (string | undefined)[] = [];
byteChars.forEach((char, byte) => (byteByCharCode[char.charCodeAt(0)] = String.fromCharCode(byte)));

function isPrintable(byte: number): boolean {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

/**
 * The vocabulary that a checkpoint brings: of its tokenizer.json, else of its vocab.json and merges.txt.
 * @param files texts by name; other names are ignored
 */
export function vocabularyOf({ "tokenizer.json": json, "vocab.json": vocab, "merges.txt": merges }: Readonly<Record<string, string>>): Vocabulary {
  if (json !== undefined) return readTokenizerJson(json);
  if (vocab !== undefined && merges !== undefined) return readVocabAndMerges(vocab, merges);
  const [found, missing] = vocab === undefined ? ["merges.txt", "vocab.json"] : ["vocab.json", "merges.txt"];
  throw new EngineError("checkpoint", `The checkpoint brings ${found} without ${missing}; expected both, or tokenizer.json.`, { found, missing });
}

/**
 * Reads the tokenizer.json of a byte-level BPE, as Hugging Face's tokenizers writes it. Its post-processor is not applied: no token is added to a text.
 * @throws EngineError `checkpoint` for what is malformed, `unsupported` for another kind of tokenizer
 */
function readTokenizerJson(text: string): Vocabulary {
  const file = "tokenizer.json";
  const json = record(parseJson(text, file), file, "the file");
  const model = record(json.model, file, "model");
  requireOneOf(file, "model.type", model.type ?? "BPE", ["BPE"]); // old files do not name it
  requireOneOf(file, "normalizer", describeStep(json.normalizer), [null]);
  requireOneOf(file, "model.dropout", model.dropout || null, [null]);
  for (const field of ["continuing_subword_prefix", "end_of_word_suffix"]) requireOneOf(file, `model.${field}`, model[field] || null, [null]);
  for (const field of ["byte_fallback", "ignore_merges"]) requireOneOf(file, `model.${field}`, model[field] ?? false, [false]);
  const preTokenizer = soleStep(json.pre_tokenizer);
  requireOneOf(file, "pre_tokenizer", describeStep(preTokenizer), ["ByteLevel"]);
  const { use_regex: useRegex = true, add_prefix_space: addPrefixSpace = true } = record(preTokenizer, file, "pre_tokenizer");
  requireOneOf(file, "pre_tokenizer.use_regex", useRegex, [true]);

  const merges = list(model.merges, file, "model.merges").map((merge, i): [left: string, right: string] => {
    const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge;
    if (isPair(pair)) return pair;
    throw malformed(file, `model.merges[${i}]`, merge, "two tokens");
  });
  const addedTokens = list(json.added_tokens ?? [], file, "added_tokens").map((token, i) => addedToken(token, file, `added_tokens[${i}]`));
  return buildVocabulary({ file, vocab: model.vocab, mergesFile: file, merges, addedTokens, addPrefixSpace: addPrefixSpace === true });
}

/**
 * Reads GPT-2's original pair of files.
 * @throws EngineError `checkpoint` for what is malformed
 */
function readVocabAndMerges(vocabText: string, mergesText: string): Vocabulary {
  const vocab = record(parseJson(vocabText, "vocab.json"), "vocab.json", "the file");
  const merges: [string, string][] = [];
  mergesText.split(/\r?\n/).forEach((line, i) => {
    if (line === "" || (i === 0 && line.startsWith("#version"))) return;
    const pair = line.split(" ");
    if (!isPair(pair)) throw malformed("merges.txt", `line ${i + 1}`, line, "two tokens with a blank between");
    merges.push(pair);
  });
  const endOfTextId = Object.hasOwn(vocab, END_OF_TEXT) ? vocab[END_OF_TEXT] : undefined;
  const addedTokens = typeof endOfTextId === "number" ? [{ content: END_OF_TEXT, id: endOfTextId, special: true }] : [];
  return buildVocabulary({ file: "vocab.json", vocab, mergesFile: "merges.txt", merges, addedTokens, addPrefixSpace: false });
}

interface VocabularyParts {
  file: string;
  vocab: unknown;
  mergesFile: string;
  merges: readonly (readonly [left: string, right: string])[];
  addedTokens: readonly AddedToken[];
  addPrefixSpace: boolean;
}

function buildVocabulary({ file, vocab, mergesFile, merges, addedTokens, addPrefixSpace }: VocabularyParts): Vocabulary {
  const texts = new Map<number, string>();
  const ids = new Map<string, number>();
  let tokenCount = 0;
  const setText = (id: number, byteString: string): void => {
    texts.set(id, byteString);
    tokenCount = Math.max(tokenCount, id + 1);
  };
  for (const [token, id] of Object.entries(record(vocab, file, "the vocabulary"))) {
    if (!isTokenId(id)) throw malformed(file, `the id of ${show(token)}`, id, ID_RANGE);
    if (texts.has(id)) throw malformed(file, `the id of ${show(token)}`, id, "an id that no other token has");
    setText(id, fromByteChars(token));
    ids.set(token, id);
  }
  const byteIds = byteChars.map((char, byte) => {
    const id = ids.get(char);
    if (id === undefined) throw malformed(file, `the token ${show(char)} of byte ${byte}`, id, "all 256 bytes in a byte-level vocabulary");
    return id;
  });
  const addedCharacters = addedTokens.reduce((sum, { content }) => sum + content.length, 0);
  if (addedCharacters > MAX_ADDED_CHARACTERS) throw malformed(file, "the length of all added tokens", addedCharacters, `at most ${MAX_ADDED_CHARACTERS} characters`);
  for (const { content, id } of addedTokens) {
    if (texts.has(id) && ids.get(content) !== id) throw malformed(file, `the id of the added token ${show(content)}`, id, "an id that no other token has");
    setText(id, utf8ByteString(content));
  }
  const tokens = new Array<string | undefined>(tokenCount).fill(undefined); // no holes: they make an array slow
  for (const [id, byteString] of texts) tokens[id] = byteString;

  if (merges.length > MAX_TOKEN_COUNT) throw malformed(mergesFile, "the number of merges", merges.length, `at most ${MAX_TOKEN_COUNT}`);
  const ranks = new Map<number, number>();
  const mergedIds = merges.map(([left, right], rank) => {
    const leftId = ids.get(left);
    const rightId = ids.get(right);
    const mergedId = ids.get(left + right);
    if (leftId === undefined || rightId === undefined || mergedId === undefined) {
      const unknown = [left, right, left + right].find((token) => !ids.has(token));
      throw malformed(mergesFile, `merge ${rank} (${show(`${left} ${right}`)})`, unknown, "tokens of the vocabulary");
    }
    const key = leftId * MAX_TOKEN_COUNT + rightId;
    if (ranks.has(key)) throw malformed(mergesFile, `merge ${rank}`, `${left} ${right}`, `a pair that merge ${ranks.get(key)!} has not`);
    ranks.set(key, rank);
    return mergedId;
  });
  return {
    tokens,
    byteIds,
    merges: { rank: (left, right) => ranks.get(left * MAX_TOKEN_COUNT + right) ?? -1, merged: (rank) => mergedIds[rank]! },
    addedTokens,
    addPrefixSpace,
  };
}

/** A token as files write it, as a byte string; one that is not of the byte alphabet stands for its own text. */
function fromByteChars(token: string): string {
  let bytes = "";
  for (let i = 0; i < token.length; i++) {
    const byte = byteByCharCode[token.charCodeAt(i)];
    if (byte === undefined) return utf8ByteString(token);
    bytes += byte;
  }
  return bytes;
}

function addedToken(value: unknown, file: string, place: string): AddedToken {
  const token = record(value, file, place);
  const { content, id, special = false } = token;
  if (typeof content !== "string" || content === "" || content.length > MAX_ADDED_LENGTH) throw malformed(file, `${place}.content`, content, `a text of at most ${MAX_ADDED_LENGTH} characters`);
  for (const field of ["lstrip", "rstrip", "single_word"]) requireOneOf(file, `${place}.${field}`, token[field] ?? false, [false]);
  if (!isTokenId(id)) throw malformed(file, `${place}.id`, id, ID_RANGE);
  return { content, id, special: special === true };
}

/** Added tokens are looked for by a regular expression: V8 refuses one for a text of some ten thousand characters, or a million in all. */
const MAX_ADDED_LENGTH = 1024;
const MAX_ADDED_CHARACTERS = 65_536;

const ID_RANGE = `an integer from 0 to ${MAX_TOKEN_COUNT - 1}`;

function isTokenId(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value < MAX_TOKEN_COUNT;
}

/** The one step of a Sequence of one, else the value itself. */
function soleStep(step: unknown): unknown {
  const steps: unknown = isRecord(step) && step.type === "Sequence" ? step.pretokenizers : undefined;
  return Array.isArray(steps) && steps.length === 1 ? steps[0] : step;
}

function describeStep(step: unknown): unknown {
  return isRecord(step) ? (step.type ?? "an object without type") : (step ?? null);
}

function requireOneOf(file: string, place: string, value: unknown, supported: readonly unknown[]): void {
  if (supported.includes(value)) return;
  const expected = supported.map(show).join(" or ");
  throw new EngineError("unsupported", `${file}: ${place} is ${show(value)}; expected ${expected}, as in a byte-level BPE.`, { file, place, found: show(value) });
}

function parseJson(text: string, file: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new EngineError("checkpoint", `${file} is not JSON; it begins with ${show(text.slice(0, 40))}.`, { file }, { cause });
  }
}

function record(value: unknown, file: string, place: string): Record<string, unknown> {
  if (isRecord(value)) return value;
  throw malformed(file, place, value, "an object");
}

function list(value: unknown, file: string, place: string): unknown[] {
  if (Array.isArray(value)) return value;
  throw malformed(file, place, value, "a list");
}

function isPair(value: unknown): value is [string, string] {
  return Array.isArray(value) && value.length === 2 && value.every((part) => typeof part === "string" && part !== "");
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function malformed(file: string, place: string, found: unknown, expected: string): EngineError {
  const shown = found === undefined ? "missing" : show(found);
  return new EngineError("checkpoint", `${file}: ${place} is ${shown}; expected ${expected}.`, { file, place, found: shown });
}
