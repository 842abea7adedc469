import { readFileSync } from "node:fs";
import bpeRanks from "gpt-tokenizer/bpeRanks/r50k_base";
import { encode as encodeByPackage } from "gpt-tokenizer/encoding/r50k_base";
import { describe, expect, test, vi } from "vitest";
import { fromByteString, toByteString, utf8ByteString } from "../../src/tokenizer/byteStrings.ts";
import { openTokenizer } from "../../src/load/openTokenizer.ts";
import { mergePiece } from "../../src/tokenizer/merge.ts";
import { forEachPiece } from "../../src/tokenizer/pieces.ts";
import type { Tokenizer } from "../../src/tokenizer/types.ts";
import { seededCheckpoint } from "../fixtures/seededCheckpoint.ts";
import { gpt2Vocabulary, tokenizerOf } from "../fixtures/tokenizers.ts";
import { Choices } from "../fuzz/choices.ts";

const file = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");
const gpt2 = tokenizerOf({}, { vocabSize: 50_257, eosTokenId: 50_256 });

/** Texts that take BPE apart at every kind of seam. */
const mixedTexts: [string, string][] = [
  ["English", "Once upon a time, there was a girl. She'd said: \"I'm here, we've seen it, they'll come, it's DON'T!\""],
  ["contractions of both cases", "'s 't 're 've 'm 'll 'd 'S 'LL ''s '' x'lx 'r 'v 'e I'd've"],
  ["code", "for (let i = 0; i < n; i++) {\n\tconst x = a[i] ?? -1.5e-3; // µs\n  return `${x}`;\n}\n"],
  ["Chinese", "从前有一只小猫，它住在森林里。今天天气很好，我们去公园吧！"],
  ["other scripts", "Привет, мир! שלום עולם مرحبا नमस्ते สวัสดี 안녕하세요 ñandú Œuvre ßtraße"],
  ["emoji", "a😀b 👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽🇩🇪 ok ☃️"],
  ["combining marks", "e\u0301 a\u0308\u0323 Z\u0351\u036b\u0343\u036a\u0302 ก็"],
  ["whitespace runs", "  a   b\n\n\n c \t\t d\u00a0\u00a0e \u2003f\u3000\u3000g   "],
  ["line ends", "a\r\nb\r\n\r\nc\n\r d\r"],
  ["numbers", "0 1 12 123 1234567890 3.14159 ½ ² ⅷ ٣٤ 1st 2nd x2y"],
  ["NUL and control characters", "\0a\0\0b\x01\x1f\x7f \0"],
  ["symbols", "!!! ... --- === #hash @at $5 100% (a)[b]{c} <|x|> «q» – — … ™©®"],
  ["long runs", `${"a".repeat(300)} ${"!".repeat(300)}${" ".repeat(300)}${"=".repeat(300)}${"7".repeat(300)}\n`],
];

describe("the GPT-2 tokenizer", () => {
  test("has the vocabulary of the published r50k_base.tiktoken, byte for byte", () => {
    const { tokens } = gpt2Vocabulary();
    const lines = file("node_modules/gpt-tokenizer/data/r50k_base.tiktoken").trim().split("\n");
    expect(lines).toHaveLength(50_256);
    for (const line of lines) {
      const [base64, rank] = line.split(" ") as [string, string];
      if (tokens[Number(rank)] !== atob(base64)) expect.fail(`token ${rank}`);
    }
    expect(tokens).toHaveLength(50_257);
    expect([gpt2.vocabSize, gpt2.endOfTextId]).toEqual([50_257, 50_256]);
  });

  test("makes its vocabulary in steps of at most 2,048 tokens where someone else is waiting, once", async () => {
    vi.resetModules();
    const again = await import("../../src/tokenizer/gpt2.ts");
    const [steps, further] = [[...again.gpt2VocabularySteps()], [...again.gpt2VocabularySteps()]];
    expect(steps).toHaveLength(Math.floor(50_256 / 2_048));
    expect(further).toHaveLength(0);
    expect(again.gpt2VocabularySteps().next().value!.tokens).toEqual(gpt2Vocabulary().tokens);
  });

  test.each(mixedTexts)("encodes as gpt-tokenizer does, and decodes to the same text: %s", (_, text) => {
    const ids = gpt2.encode(text);
    expect(ids).toEqual(encodeByPackage(text));
    expect(gpt2.decode(ids)).toBe(text);
  });

  test("encodes words of thousands of characters as gpt-tokenizer does", () => {
    const alphabets = ["abcdefghijklmnopqrstuvwxyz", "aB", "äßçñ", "从前有一只小猫", "-=_*", "0123456789", "\0\x01", "🙂👍é"];
    for (const alphabet of alphabets) {
      const characters = [...alphabet];
      const word = Array.from({ length: 2_000 }, (_, i) => characters[(i * i * 31 + i * 7 + (i >> 3)) % characters.length]).join("");
      expect(gpt2.encode(word)).toEqual(encodeByPackage(word));
      expect(gpt2.decode(gpt2.encode(word))).toBe(word);
    }
  });

  test("gives the evaluation text 8,594 tokens", () => {
    const text = file("models/texts/stories-eval.txt");
    const ids = gpt2.encode(text);
    expect(ids).toHaveLength(8_594);
    expect(gpt2.decode(ids)).toBe(text);
  });

  test.each([1, 7, 64, 232, 256])("encodes and decodes the golden prompt of %i tokens", (count) => {
    const { text, tokens } = JSON.parse(file(`test/fixtures/golden/prompt-${count}.json`)) as { text: string; tokens: number[] };
    expect(gpt2.encode(text)).toEqual(tokens);
    expect(gpt2.decode(tokens)).toBe(text);
  });

  test("returns characters of every Unicode plane", () => {
    for (let plane = 0; plane <= 16; plane++) {
      let text = "";
      for (let low = 0; low < 0x10000; low += plane === 0 ? 7 : 331) {
        const codePoint = plane * 0x10000 + low;
        if (codePoint < 0xd800 || codePoint > 0xdfff) text += String.fromCodePoint(codePoint);
      }
      text += String.fromCodePoint(plane * 0x10000 + 0xffff);
      expect(gpt2.decode(gpt2.encode(text)) === text, `plane ${plane}`).toBe(true);
    }
  });

  test("encodes characters of every plane as gpt-tokenizer does, and decodes them, in texts of 30", () => {
    for (let seed = 0; seed < 300; seed++) {
      const choices = new Choices(seed);
      const text = Array.from({ length: 30 }, () => {
        const codePoint = choices.below(choices.pick([0x80, 0x400, 0x3000, 0xd800, 0x110000]));
        const isSurrogate = codePoint >= 0xd800 && codePoint < 0xe000;
        return isSurrogate || codePoint === 0x85 || codePoint === 0xfeff ? " " : String.fromCodePoint(codePoint); // the package has JavaScript's \s
      }).join("");
      const ids = gpt2.encode(text);
      expect(ids, `seed ${seed}`).toEqual(encodeByPackage(text));
      expect(gpt2.decode(ids), `seed ${seed}`).toBe(text);
    }
  });

  test("encodes 10,000 lines of mixed text as gpt-tokenizer does", () => {
    const words = mixedTexts.slice(0, -1).flatMap(([, text]) => text.match(/\s+|\S+/g)!);
    const choices = new Choices(6);
    for (let line = 0; line < 10_000; line++) {
      const text = Array.from({ length: choices.below(12) }, () => {
        const word = choices.pick(words);
        return choices.oneIn(3) ? [...word].slice(choices.below(word.length)).join("") : word;
      }).join("");
      const ids = gpt2.encode(text);
      if (String(ids) !== String(encodeByPackage(text))) expect.fail(`line ${line}: ${JSON.stringify(text)}`);
    }
  });

  test("takes 10 MB of text, and gives it back", { timeout: 60_000 }, () => {
    const unit = mixedTexts.slice(0, -1).map(([, text]) => text).join("\0");
    const text = unit.repeat(Math.ceil(1e7 / new TextEncoder().encode(unit).length));
    expect(gpt2.decode(gpt2.encode(text)) === text).toBe(true);
  });

  test("keeps a byte order mark", () => {
    expect(gpt2.decode(gpt2.encode("\ufeffa\ufeff"))).toBe("\ufeffa\ufeff");
  });

  test("takes a lone surrogate as U+FFFD", () => {
    for (const text of ["\ud83d", "a\ud83db", "\ude00\ud83d", " \udfff "]) {
      expect(gpt2.encode(text)).toEqual(gpt2.encode(text.replace(/[\ud800-\udfff]/g, "\ufffd")));
      expect(gpt2.decode(gpt2.encode(text))).toBe(text.replace(/[\ud800-\udfff]/g, "\ufffd"));
    }
  });

  test("gives no tokens for no text, and no text for no tokens", () => {
    expect(gpt2.encode("")).toEqual([]);
    expect(gpt2.decode([])).toBe("");
  });

  test("makes <|endoftext|> one token wherever it stands", () => {
    expect(gpt2.encode("<|endoftext|>")).toEqual([50_256]);
    expect(gpt2.encode("Hello<|endoftext|><|endoftext|> there<|endoftext|")).toEqual([15_496, 50_256, 50_256, 612, 27, 91, 437, 1_659, 5_239, 91]);
    expect(gpt2.decode([15_496, 50_256, 612])).toBe("Hello<|endoftext|> there");
  });

  test("makes <|endoftext|> ordinary text where asked to", () => {
    const text = "Hello<|endoftext|> there";
    const ids = gpt2.encode(text, { specialTokens: "text" });
    expect(ids).toEqual(encodeByPackage(text, { disallowedSpecial: new Set() }));
    expect(ids).not.toContain(50_256);
    expect(gpt2.decode(ids)).toBe(text);
  });

  test.each([["a letter", "a"], ["blanks", " "], ["emoji", "😀"], ["punctuation", "!?"]])("takes long runs in less than quadratic time: %s", (_, unit) => {
    const text = `${unit.repeat(100_000)}.`; // a merge in quadratic time takes a minute
    expect(gpt2.decode(gpt2.encode(text)) === text).toBe(true);
  });

  test("rejects what is no text or no token, having accepted what is", () => {
    gpt2.encode("a", { specialTokens: "parse" }); // control case
    expect(() => gpt2.encode(5 as unknown as string)).toThrow(new TypeError("text is 5; expected a string."));
    expect(() => gpt2.encode("a", { specialTokens: "ignore" as "text" })).toThrow(TypeError);
    gpt2.decode([0, 50_256]); // control case
    expect(() => gpt2.decode([0, 50_257])).toThrow(new RangeError("tokens[1] is 50257; expected an integer from 0 to 50256."));
    for (const token of [-1, 1.5, NaN]) expect(() => gpt2.decode([token])).toThrow(RangeError);
    expect(() => gpt2.stream().push(50_257)).toThrow(RangeError);
    expect(gpt2.decode(Uint32Array.of(64) as unknown as number[])).toBe("a"); // control case
    expect(() => gpt2.decode(64 as unknown as number[])).toThrow(new TypeError("tokens is 64; expected an array of token ids."));
    expect(() => gpt2.decode(new Array<number>(2 ** 32 - 1))).toThrow(new RangeError("tokens[0] is undefined; expected an integer from 0 to 50256."));
  });
});

describe("TokenStream", () => {
  const streamed = (tokenizer: Tokenizer, ids: readonly number[]): string[] => {
    const stream = tokenizer.stream();
    return [...ids.map((id) => stream.push(id)), stream.flush()];
  };

  test.each(mixedTexts)("gives texts that joined are the whole, none with half a character: %s", (_, text) => {
    const texts = streamed(gpt2, gpt2.encode(text));
    expect(texts.join("")).toBe(text);
    for (const part of texts) expect(part).not.toMatch(/[\ud800-\udfff\ufffd]/u); // under "u" only lone surrogates match
  });

  test("gives a character with the token that completes it", () => {
    expect(gpt2.encode("a😀b")).toEqual([64, 47_249, 222, 65]);
    expect(streamed(gpt2, [64, 47_249, 222, 65])).toEqual(["a", "", "😀", "b", ""]);
  });

  test("gives a replacement character for what stays unfinished, as decode does", () => {
    expect(streamed(gpt2, [64, 47_249])).toEqual(["a", "", "\ufffd"]);
    expect(gpt2.decode([64, 47_249])).toBe("a\ufffd");
  });

  test("agrees with decode on any tokens, valid UTF-8 or not", () => {
    const ids = Array.from({ length: 3_000 }, (_, i) => (i * 7_919 + (i % 5) * 131) % 256);
    expect(streamed(gpt2, ids).join("")).toBe(gpt2.decode(ids));
    const any = Array.from({ length: 3_000 }, (_, i) => (i * 7_919) % 50_257);
    expect(streamed(gpt2, any).join("")).toBe(gpt2.decode(any));
  });

  test("begins anew after flush, and two streams do not share their bytes", () => {
    const [one, other] = [gpt2.stream(), gpt2.stream()];
    one.push(47_249);
    expect(other.push(64)).toBe("a");
    expect(one.flush()).toBe("\ufffd");
    expect(one.push(64)).toBe("a");
  });
});

describe("forEachPiece", () => {
  const piecesOf = (text: string): string[] => {
    const pieces: string[] = [];
    forEachPiece(text, (piece) => pieces.push(piece));
    return pieces;
  };
  const pattern = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

  test.each(mixedTexts)("cuts where GPT-2's pattern cuts: %s", (_, text) => {
    expect(piecesOf(text)).toEqual(text.match(pattern));
  });

  test("cuts where GPT-2's pattern cuts, on texts of five characters of eleven kinds", () => {
    const kinds = [" ", "\n", "\u00a0", "'", "s", "l", "7", "!", "é", "😀", "\ud800"];
    for (let n = 0; n < kinds.length ** 5; n += 13) {
      const text = [0, 1, 2, 3, 4].map((digit) => kinds[Math.floor(n / kinds.length ** digit) % kinds.length]).join("");
      if (piecesOf(text).join("|") !== text.match(pattern)!.join("|")) expect(piecesOf(text)).toEqual(text.match(pattern));
    }
  });

  test("counts U+0085 as a space and U+FEFF as none, as Unicode and GPT-2 do and JavaScript does not", () => {
    expect(piecesOf("a \u0085 b")).toEqual(["a", " \u0085", " b"]);
    expect(piecesOf("a \ufeff b")).toEqual(["a", " \ufeff", " b"]);
  });

  test("takes a run that overflows the stack of a regular expression as one piece", () => {
    const run = "😀".repeat(4_000_000);
    let count = 0;
    forEachPiece(run, (piece) => (count += piece.length === run.length ? 1 : 1000));
    expect(count).toBe(1);
  });
});

describe("mergePiece", () => {
  /** Tokens 0…9 are the digits; each rule [left, right] makes the token 10 + its rank. */
  const rules = (...pairs: [number, number][]) => ({
    rank: (left: number, right: number): number => pairs.findIndex(([l, r]) => l === left && r === right),
    merged: (rank: number): number => 10 + rank,
  });

  test("merges the lowest rank first, wherever it stands", () => {
    expect(mergePiece([1, 2, 3], rules([2, 3], [1, 2]))).toEqual([1, 10]);
    expect(mergePiece([1, 2, 3], rules([1, 2], [2, 3]))).toEqual([10, 3]);
  });

  test("merges the leftmost of equal ranks first", () => {
    expect(mergePiece([1, 1, 1, 1, 1], rules([1, 1]))).toEqual([10, 10, 1]);
  });

  test("merges what merges have made, also with a rank below theirs", () => {
    expect(mergePiece([1, 2, 3, 1, 2, 3], rules([10, 3], [1, 2]))).toEqual([11, 3, 11, 3]);
    expect(mergePiece([1, 2, 3, 1, 2, 3], rules([1, 2], [10, 3]))).toEqual([11, 11]);
    expect(mergePiece([1, 1, 1, 1], rules([10, 1], [1, 1], [11, 1]))).toEqual([11, 11]);
  });

  test("merges a pair everywhere before what its first merge made, as encoder.py", () => {
    expect(mergePiece([1, 2, 1, 2, 3], rules([11, 1], [1, 2]))).toEqual([11, 11, 3]);
    expect(mergePiece([1, 2, 1, 3], rules([11, 1], [1, 2]))).toEqual([10, 3]); // control case
  });

  test.each<[string, (i: number) => number]>([
    ["one token", () => 1],
    ["tokens at random", (i) => (i * i * 7919 + 3 * i) % 10],
  ])("asks for ranks in proportion to the length of a piece: %s", (_, token) => {
    const askedFor = (length: number): number => {
      let asked = 0;
      mergePiece(Array.from({ length }, (_, i) => token(i)), { rank: (left, right) => (asked++, left === right && left < 20 ? left : (left + right) % 3 === 0 ? 20 : -1), merged: (rank) => 10 + rank });
      return asked;
    };
    for (const length of [100, 10_000]) expect(askedFor(length)).toBeLessThan(4 * length);
  });

  test("leaves what does not merge", () => {
    expect(mergePiece([1, 2], rules())).toEqual([1, 2]);
    expect(mergePiece([5], rules([5, 5]))).toEqual([5]);
    expect(mergePiece([], rules([5, 5]))).toEqual([]);
  });
});

/** GPT-2's printable char of each byte, after encoder.py: itself where printable, else 256 upwards. */
const byteChars: string[] = [];
for (let byte = 0, next = 256; byte < 256; byte++) {
  const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  byteChars.push(String.fromCharCode(printable ? byte : next++));
}
const written = (byteString: string): string => [...fromByteString(byteString)].map((byte) => byteChars[byte]).join("");

/** vocab.json and the merges of merges.txt that r50k_base's ranks stand for: a token's last merge joins what the lower ranks leave of it. */
function gpt2Files(): { vocab: Record<string, number>; merges: string[] } {
  const tokens = bpeRanks.map((token) => (typeof token === "string" ? utf8ByteString(token) : toByteString(token)));
  const ranks = new Map(tokens.map((token, rank) => [token, rank]));
  const merges = tokens.slice(256).map((token, i) => {
    const parts = [...token];
    while (parts.length > 2) {
      let best = -1;
      let bestRank = 256 + i;
      for (let at = 0; at + 1 < parts.length; at++) {
        const rank = ranks.get(parts[at]! + parts[at + 1]!) ?? Infinity;
        if (rank < bestRank) [best, bestRank] = [at, rank];
      }
      parts.splice(best, 2, parts[best]! + parts[best + 1]!);
    }
    return parts.map(written).join(" ");
  });
  return { vocab: { ...Object.fromEntries(tokens.map((token, rank) => [written(token), rank])), "<|endoftext|>": 50_256 }, merges };
}

describe("a tokenizer from a checkpoint's files", () => {
  const { vocab, merges } = gpt2Files();
  const config = { vocabSize: 50_257, eosTokenId: 50_256 };
  const addedToken = { id: 50_256, content: "<|endoftext|>", special: true, lstrip: false, rstrip: false, single_word: false, normalized: true };
  const preTokenizer = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true };
  const tokenizerJson = { added_tokens: [addedToken], normalizer: null, pre_tokenizer: preTokenizer, model: { type: "BPE", dropout: null, unk_token: null, continuing_subword_prefix: "", end_of_word_suffix: "", vocab, merges } };
  const sources: [string, Record<string, string>][] = [
    ["vocab.json and merges.txt", { "vocab.json": JSON.stringify(vocab), "merges.txt": `#version: 0.2\n${merges.join("\n")}\n` }],
    ["tokenizer.json", { "tokenizer.json": JSON.stringify(tokenizerJson), "vocab.json": "ignored beside it" }],
  ];

  test.each(sources)("made of GPT-2's own vocabulary equals the built-in one: %s", (_, files) => {
    const tokenizer = tokenizerOf(files, config);
    expect([tokenizer.vocabSize, tokenizer.endOfTextId]).toEqual([50_257, 50_256]);
    const story = file("models/texts/stories-eval.txt").slice(0, 8_000);
    for (const text of [...mixedTexts.map(([, mixed]) => mixed), story, "a<|endoftext|>b"]) {
      expect(tokenizer.encode(text)).toEqual(gpt2.encode(text));
      expect(tokenizer.decode(gpt2.encode(text))).toBe(text);
      expect(tokenizer.encode(text, { specialTokens: "text" })).toEqual(gpt2.encode(text, { specialTokens: "text" }));
    }
  });

  /** The 256 bytes with their value as id, then "ab", "abc", " a". */
  const smallVocab = { ...Object.fromEntries(byteChars.map((char, byte) => [char, byte])), ab: 256, abc: 257, Ġa: 258 };
  const small = {
    added_tokens: [] as object[],
    normalizer: null as unknown,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false } as unknown,
    model: { type: "BPE", vocab: smallVocab as unknown, merges: ["a b", "ab c", "Ġ a"] as unknown },
  };
  const smallTokenizer = (change: Partial<typeof small> = {}, vocabSize = 300): Tokenizer => tokenizerOf({ "tokenizer.json": JSON.stringify({ ...small, ...change }) }, { vocabSize, eosTokenId: null });
  const model = (change: object): Partial<typeof small> => ({ model: { ...small.model, ...change } });

  /** Of 1,024 characters each, ids from the largest downwards. */
  const longTokens = (count: number) => Array.from({ length: count }, (_, i) => ({ id: 2 ** 21 - 1 - i, content: String(i).padStart(1024, "x") }));

  test("merges by its own ranks", () => {
    expect(smallTokenizer().encode("abcab a abd")).toEqual([257, 256, 258, 32, 256, 100]);
  });

  test("reads merges as text or as pairs, and merges.txt with any line ends and without a version", () => {
    const others = [
      smallTokenizer(model({ merges: [["a", "b"], ["ab", "c"], ["Ġ", "a"]] })), // prettier-ignore
      tokenizerOf({ "vocab.json": JSON.stringify(smallVocab), "merges.txt": "a b\r\nab c\r\nĠ a" }, config),
      tokenizerOf({ "vocab.json": JSON.stringify(smallVocab), "merges.txt": "#version: 0.2\na b\nab c\nĠ a\n" }, config),
    ];
    for (const other of others) expect(other.encode("abcab a abd")).toEqual([257, 256, 258, 32, 256, 100]);
  });

  test("puts a blank before the text where add_prefix_space says so", () => {
    const prefixing = smallTokenizer({ pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "ByteLevel", add_prefix_space: true }] } });
    expect(prefixing.encode("a")).toEqual([258]);
    expect(prefixing.encode(" a")).toEqual([258]);
    expect(prefixing.encode("")).toEqual([]);
  });

  test("finds added tokens anywhere, the longest first; only special ones can become text", () => {
    const tokenizer = smallTokenizer({
      added_tokens: [
        { id: 259, content: "[a]", special: true },
        { id: 260, content: "[a][b]", special: true },
        { id: 261, content: "two words", special: false },
        { id: 262, content: ".*", special: false },
      ],
    });
    expect(tokenizer.encode("x[a]two words[a][b].*")).toEqual([120, 259, 261, 260, 262]);
    expect(tokenizer.encode("[a]two words", { specialTokens: "text" })).toEqual([91, 97, 93, 261]);
    expect(tokenizer.decode([259, 261, 262])).toBe("[a]two words.*");
  });

  test("decodes ids that only the model's padded vocabulary has to nothing", () => {
    const tokenizer = smallTokenizer({}, 260);
    expect(tokenizer.decode([257, 259, 97])).toBe("abca");
    expect(() => tokenizer.decode([260])).toThrow(new RangeError("tokens[0] is 260; expected an integer from 0 to 259."));
  });

  test("ends generations with the config's token, else with <|endoftext|>, where the model has it", () => {
    const files = { "tokenizer.json": JSON.stringify({ ...small, added_tokens: [{ ...addedToken, id: 259 }] }) };
    const endOf = (vocabSize: number, eosTokenId: number | null, from = files): number | null => tokenizerOf(from, { vocabSize, eosTokenId }).endOfTextId;
    expect(endOf(300, 97)).toBe(97);
    expect(endOf(300, null)).toBe(259);
    expect(endOf(300, 50_256)).toBe(259);
    expect(endOf(259, 50_256)).toBeNull();
    expect(endOf(1_003, 50_256, {} as typeof files)).toBeNull();
    expect(endOf(50_257, null, {} as typeof files)).toBe(50_256);
  });

  test.each<[string, Partial<typeof small>, "checkpoint" | "unsupported", string]>([
    ["no model", { model: undefined }, "checkpoint", "model is missing; expected an object"],
    ["another model", model({ type: "WordPiece" }), "unsupported", 'model.type is "WordPiece"; expected "BPE"'],
    ["dropout", model({ dropout: 0.1 }), "unsupported", "model.dropout is 0.1; expected null"],
    ["a word suffix", model({ end_of_word_suffix: "</w>" }), "unsupported", 'model.end_of_word_suffix is "</w>"'],
    ["byte fallback", model({ byte_fallback: true }), "unsupported", "model.byte_fallback is true"],
    ["a normalizer", { normalizer: { type: "NFKC" } }, "unsupported", 'normalizer is "NFKC"; expected null'],
    ["no pre-tokenizer", { pre_tokenizer: null }, "unsupported", 'pre_tokenizer is null; expected "ByteLevel"'],
    ["another pre-tokenizer", { pre_tokenizer: { type: "Metaspace" } }, "unsupported", 'pre_tokenizer is "Metaspace"'],
    ["several pre-tokenizers", { pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "Digits" }, { type: "ByteLevel" }] } }, "unsupported", 'pre_tokenizer is "Sequence"'],
    ["no pattern", { pre_tokenizer: { type: "ByteLevel", use_regex: false } }, "unsupported", "pre_tokenizer.use_regex is false"],
    ["a vocabulary that is a list", model({ vocab: [["a", 0]] }), "checkpoint", 'the vocabulary is [[…]]; expected an object'],
    ["an id that is text", model({ vocab: { ...smallVocab, ab: "256" } }), "checkpoint", 'the id of "ab" is "256"; expected an integer from 0'],
    ["a negative id", model({ vocab: { ...smallVocab, ab: -1 } }), "checkpoint", 'the id of "ab" is -1'],
    ["a huge id", model({ vocab: { ...smallVocab, ab: 2 ** 30 } }), "checkpoint", 'the id of "ab" is 1073741824'],
    ["an id used twice", model({ vocab: { ...smallVocab, abc: 256 } }), "checkpoint", 'the id of "abc" is 256; expected an id that no other token has'],
    ["a byte missing", model({ vocab: { ...smallVocab, Ċ: undefined } }), "checkpoint", 'the token "Ċ" of byte 10 is missing; expected all 256 bytes'],
    ["merges that are text", model({ merges: "a b" }), "checkpoint", 'model.merges is "a b"; expected a list'],
    ["a merge of three", model({ merges: ["a b", "a b c"] }), "checkpoint", 'model.merges[1] is "a b c"; expected two tokens'],
    ["a merge of numbers", model({ merges: [[1, 2]] }), "checkpoint", "model.merges[0] is [1, 2]"],
    ["a merge of an unknown token", model({ merges: ["a b", "xyz c"] }), "checkpoint", 'merge 1 ("xyz c") is "xyz"; expected tokens of the vocabulary'],
    ["a merge into an unknown token", model({ merges: ["a b", "a c"] }), "checkpoint", 'merge 1 ("a c") is "ac"'],
    ["a merge twice", model({ merges: ["a b", "ab c", "a b"] }), "checkpoint", 'merge 2 is "a b"; expected a pair that merge 0 has not'],
    ["an added token without content", { added_tokens: [{ id: 259 }] }, "checkpoint", "added_tokens[0].content is missing"],
    ["an added token with another's id", { added_tokens: [{ id: 97, content: "<x>" }] }, "checkpoint", 'the id of the added token "<x>" is 97'],
    ["an added token too long for a regular expression", { added_tokens: [{ id: 259, content: "x".repeat(1025) }] }, "checkpoint", `added_tokens[0].content is "${"x".repeat(80)}…"; expected a text of at most 1024 characters`],
    ["added tokens too long for a regular expression together", { added_tokens: longTokens(65) }, "checkpoint", "the length of all added tokens is 66560; expected at most 65536 characters"],
    ["an added token that takes blanks", { added_tokens: [{ id: 259, content: "<mask>", lstrip: true }] }, "unsupported", "added_tokens[0].lstrip is true"],
  ])("rejects %s, having accepted the same file without", (_, change, code, message) => {
    smallTokenizer(); // control case
    expect(() => smallTokenizer(change)).toThrow(expect.objectContaining({ code }));
    expect(() => smallTokenizer(change)).toThrow(`tokenizer.json: ${message}`);
  });

  test("takes added tokens as long as they may be, and an id far beyond the others", () => {
    const tokens = longTokens(64);
    const tokenizer = smallTokenizer({ added_tokens: tokens });
    expect(tokenizer.encode(`a${tokens[7]!.content}b`)).toEqual([97, tokens[7]!.id, 98]);
    expect(tokenizer.decode([97, 2 ** 20])).toBe("a");
  });

  test.each<[string, Record<string, string>, string]>([
    ["an id nested deeper than JSON.stringify() goes", { "vocab.json": `{"a":${"[".repeat(20_000)}${"]".repeat(20_000)}}`, "merges.txt": "" }, 'vocab.json: the id of "a" is [[…]]; expected an integer from 0'],
    ["HTML for JSON", { "tokenizer.json": "<!doctype html><p>404" }, 'tokenizer.json is not JSON; it begins with "<!doctype html><p>404".'],
    ["a list for an object", { "tokenizer.json": "[]" }, "tokenizer.json: the file is []; expected an object."],
    ["vocab.json alone", { "vocab.json": "{}" }, "The checkpoint brings vocab.json without merges.txt"],
    ["merges.txt alone", { "merges.txt": "" }, "The checkpoint brings merges.txt without vocab.json"],
    ["a truncated vocab.json", { "vocab.json": '{"a": 1', "merges.txt": "" }, "vocab.json is not JSON"],
    ["a line of three in merges.txt", { "vocab.json": JSON.stringify(smallVocab), "merges.txt": "#version: 0.2\na b\na b c\n" }, 'merges.txt: line 3 is "a b c"; expected two tokens'],
  ])("rejects %s", (_, files, message) => {
    tokenizerOf({ "vocab.json": JSON.stringify(smallVocab), "merges.txt": "#version: 0.2\na b\n" }, config); // control case
    expect(() => tokenizerOf(files, config)).toThrow(expect.objectContaining({ code: "checkpoint" }));
    expect(() => tokenizerOf(files, config)).toThrow(message);
  });
});

describe("openTokenizer", () => {
  const files = seededCheckpoint({ nLayer: 1, nHead: 1, nEmbd: 4, nPositions: 8, vocabSize: 300, seed: 1 });

  test("reads the tokenizer and config.json of a checkpoint whose weights cannot be read", async () => {
    const { config, encode, decode } = await openTokenizer({ ...files, "model.safetensors": Uint8Array.of(1, 2, 3) });
    expect(config).toMatchObject({ nLayer: 1, vocabSize: 300 });
    expect(decode(encode("Hi<|endoftext|>", { specialTokens: "text" }))).toBe("Hi<|endoftext|>");
  });
  test("names the file that is missing", async () => {
    await expect(openTokenizer({ "model.safetensors": files["model.safetensors"] })).rejects.toMatchObject({ code: "checkpoint", details: { file: "config.json" } });
  });
  test("rejects with the signal's reason", async () => {
    await expect(openTokenizer(files, { signal: AbortSignal.abort("enough") })).rejects.toBe("enough");
  });
});
