import { show } from "../errors.ts";
import { fromByteString } from "./byteStrings.ts";
import { mergePiece, type MergeRules, remembering } from "./merge.ts";
import { forEachPiece } from "./pieces.ts";
import { streamTokens, utf8Decoder } from "./stream.ts";
import type { Tokenizer, TokenStream } from "./types.ts";

/** A text that is one token wherever it stands. */
export interface AddedToken {
  content: string;
  id: number;
  /** Left as ordinary text under `specialTokens: "text"`. */
  special: boolean;
}

/** What makes one byte-level BPE tokenizer differ from another. */
export interface Vocabulary {
  /** Bytes of each token by id, as byte strings; undefined: no such token. */
  tokens: readonly (string | undefined)[];
  /** Ids of the 256 single bytes. */
  byteIds: readonly number[];
  merges: MergeRules;
  addedTokens: readonly AddedToken[];
  /** Put a blank before a text that begins without one. */
  addPrefixSpace: boolean;
}

const utf8 = new TextEncoder();

/** Pieces whose tokens are remembered; the memory is emptied when full. Text repeats its words: 3 times faster on the evaluation text. */
const CACHED_PIECES = 32_768;
const CACHED_PIECE_LENGTH = 64;

/** Byte-level BPE as GPT-2 has it: every text has an encoding, and decoding gives it back. */
export class BytePairTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly endOfTextId: number | null;
  private readonly vocabulary: Vocabulary;
  private readonly decodableCount: number;
  private readonly splitters: Record<"parse" | "text", RegExp | null>;
  private readonly addedIds: ReadonlyMap<string, number>;
  private readonly cache = new Map<string, readonly number[]>();

  /** @param decodableCount ids below it decode to "" where the vocabulary has no token: models pad their vocabulary */
  constructor(vocabulary: Vocabulary, endOfTextId: number | null, decodableCount = 0) {
    const { tokens, addedTokens } = vocabulary;
    this.vocabulary = { ...vocabulary, merges: remembering(vocabulary.merges) };
    this.vocabSize = tokens.length;
    this.endOfTextId = endOfTextId;
    this.decodableCount = Math.max(decodableCount, tokens.length);
    this.addedIds = new Map(addedTokens.map(({ content, id }) => [content, id]));
    this.splitters = { parse: splitterFor(addedTokens), text: splitterFor(addedTokens.filter(({ special }) => !special)) };
  }

  encode(text: string, { specialTokens = "parse" }: { specialTokens?: "parse" | "text" } = {}): number[] {
    if (typeof text !== "string") throw new TypeError(`text is ${show(text)}; expected a string.`);
    if (specialTokens !== "parse" && specialTokens !== "text") throw new TypeError(`specialTokens is ${show(specialTokens)}; expected "parse" or "text".`);
    const ids: number[] = [];
    const splitter = this.splitters[specialTokens];
    const parts = splitter ? text.split(splitter) : [text]; // the splitter captures: text, added token, text, …
    parts.forEach((part, i) => {
      if (i % 2 === 1) ids.push(this.addedIds.get(part)!);
      else if (part !== "") this.encodeOrdinary(part, ids);
    });
    return ids;
  }

  decode(tokens: readonly number[]): string {
    const given: unknown = tokens;
    if (!Array.isArray(given) && !ArrayBuffer.isView(given)) throw new TypeError(`tokens is ${show(tokens)}; expected an array of token ids.`);
    const byteStrings = Array.from(tokens, (token, i) => this.byteString(token, `tokens[${i}]`));
    return utf8Decoder().decode(fromByteString(byteStrings.join("")));
  }

  stream(): TokenStream {
    return streamTokens((token) => fromByteString(this.byteString(token, "token")));
  }

  private encodeOrdinary(text: string, ids: number[]): void {
    const prefixed = this.vocabulary.addPrefixSpace && !text.startsWith(" ") ? ` ${text}` : text;
    forEachPiece(prefixed, (piece) => {
      for (const id of this.encodePiece(piece)) ids.push(id);
    });
  }

  private encodePiece(piece: string): readonly number[] {
    const cached = this.cache.get(piece);
    if (cached) return cached;
    const { byteIds, merges } = this.vocabulary;
    const bytes = utf8.encode(piece); // lone surrogates become U+FFFD
    const byteTokens = new Int32Array(bytes.length);
    for (let i = 0; i < bytes.length; i++) byteTokens[i] = byteIds[bytes[i]!]!;
    const ids = mergePiece(byteTokens, merges);
    if (piece.length > CACHED_PIECE_LENGTH) return ids;
    if (this.cache.size >= CACHED_PIECES) this.cache.clear();
    this.cache.set(piece, ids);
    return ids;
  }

  private byteString(token: number, name: string): string {
    if (!Number.isInteger(token) || token < 0 || token >= this.decodableCount) throw new RangeError(`${name} is ${show(token)}; expected an integer from 0 to ${this.decodableCount - 1}.`);
    return this.vocabulary.tokens[token] ?? "";
  }
}

/** Matches any of the tokens, the longest where several begin at one place; null where there is none. */
function splitterFor(addedTokens: readonly AddedToken[]): RegExp | null {
  const contents = addedTokens.map(({ content }) => content).sort((a, b) => b.length - a.length);
  return contents.length === 0 ? null : new RegExp(`(${contents.map((content) => content.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|")})`);
}
