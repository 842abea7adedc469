import { describe, expect, test } from "vitest";
import { EngineError } from "../../src/errors.ts";
import { complete, createGeneration, type GenerationSetup } from "../../src/generate/generation.ts";
import { Turnstile } from "../../src/generate/queue.ts";
import { StopMatcher } from "../../src/generate/stopStrings.ts";
import { BytePairTokenizer } from "../../src/tokenizer/bpe.ts";
import type { GeneratedToken, GenerateOptions, Generation } from "../../src/types.ts";
import { byteTokenizer } from "../fixtures/byteTokenizer.ts";
import { FormulaBackend, formulaConfig, type LogitFormula } from "../fixtures/formulaBackend.ts";
import { gpt2Vocabulary } from "../fixtures/tokenizers.ts";

const V = byteTokenizer.vocabSize;
const END = 256;
const PROMPT = "ab"; // two tokens

/** Makes `script` (text as bytes, then end of text) the likeliest continuation of a two-token prompt. */
function scripted(script: string): LogitFormula {
  return scriptedIds(byteTokenizer.encode(script), END);
}

function scriptedIds(ids: readonly number[], endOfTextId: number): LogitFormula {
  return (context, id) => (id === (ids[context.length - 2] ?? endOfTextId) ? 5 : Math.sin(id));
}

function setUp(formula: LogitFormula, overrides: Partial<GenerationSetup> = {}): { backend: FormulaBackend; turnstile: Turnstile; start: (options?: GenerateOptions) => Generation } {
  const backend = new FormulaBackend(V, formula);
  const turnstile = new Turnstile();
  const start = (options: GenerateOptions = {}): Generation =>
    createGeneration({
      backend,
      tokenizer: byteTokenizer,
      config: formulaConfig(V),
      contextLength: 64,
      prompt: PROMPT,
      options: { temperature: 0, ...options },
      acquire: (signal) => turnstile.acquire(signal),
      ...overrides,
    });
  return { backend, turnstile, start };
}

async function collect(generation: Generation): Promise<GeneratedToken[]> {
  const tokens: GeneratedToken[] = [];
  for await (const token of generation) tokens.push(token);
  return tokens;
}

/** Passes only when the turnstile is free: acquire() of a free turnstile settles within a few microtasks. */
async function isFree(turnstile: Turnstile): Promise<boolean> {
  const attempt = new AbortController();
  const acquired = turnstile.acquire(attempt.signal).then(
    (release) => (release(), true),
    () => false,
  );
  for (let i = 0; i < 8; i++) await Promise.resolve();
  attempt.abort();
  return acquired;
}

describe("createGeneration", () => {
  test("runs the prompt once, then one token at a time at the next position", async () => {
    const { backend, start } = setUp(scripted("xyz"));
    expect(await collect(start())).toMatchObject([{ text: "x" }, { text: "y" }, { text: "z" }]);
    expect(backend.calls).toEqual(["forward 97 98 at 0", "forward 120 at 2", "forward 121 at 3", "forward 122 at 4"]);
  });

  test("ends at the end-of-text token without handing it out", async () => {
    const { start } = setUp(scripted("xyz"));
    const generation = start();
    expect(generation.summary).toBeNull();
    expect((await collect(generation)).map(({ id }) => id)).toEqual([120, 121, 122]);
    expect(generation.summary).toMatchObject({ finishReason: "endOfText", promptTokens: 2, newTokens: 3 });
  });

  test("takes the end-of-text token from the config before the tokenizer's", async () => {
    const { start } = setUp(scripted("xyz"), { config: formulaConfig(V, { eosTokenId: 121 }) });
    expect(await collect(start())).toMatchObject([{ text: "x" }]);
  });

  test.each([0, 1, 2, 3])("ends after maxTokens: %i", async (maxTokens) => {
    const { backend, start } = setUp(scripted("xyz"));
    const generation = start({ maxTokens });
    expect(await collect(generation)).toHaveLength(maxTokens);
    expect(generation.summary).toMatchObject({ finishReason: "maxTokens", newTokens: maxTokens });
    expect(backend.calls).toHaveLength(maxTokens);
  });

  test.each([
    [2, 1],
    [3, 2],
    [5, 4],
  ])("with a context of %i positions and a prompt of 2 tokens, gives %i tokens, the last from the last position", async (contextLength, newTokens) => {
    const { backend, start } = setUp(scripted("uvwxyz"), { contextLength });
    const generation = start();
    expect(await collect(generation)).toHaveLength(newTokens);
    expect(generation.summary).toMatchObject({ finishReason: "contextFull", newTokens });
    expect(backend.calls).toHaveLength(newTokens);
    expect(backend.calls.at(-1)).toMatch(new RegExp(`at ${newTokens === 1 ? 0 : contextLength - 1}$`));
  });

  test("says maxTokens where the last token allowed also fills the context", async () => {
    const { start } = setUp(scripted("uvwxyz"), { contextLength: 3 });
    const generation = start({ maxTokens: 2 });
    await collect(generation);
    expect(generation.summary?.finishReason).toBe("maxTokens");
  });

  test("measures the prefill to the first token and the decoding from first to last", async () => {
    const { start } = setUp(scripted("xyz"));
    const generation = start();
    await collect(generation);
    expect(generation.summary!.prefillMs).toBeGreaterThan(0);
    expect(generation.summary!.decodeMs).toBeGreaterThan(0);
    const one = start({ maxTokens: 1 });
    await collect(one);
    expect(one.summary!.decodeMs).toBe(0);
  });

  test.each(["plain", "naïve café", "日本語", "🙂", "a🙂b👩‍👩‍👧é", "x\0y"])("streams %j in whole characters that join to the decoded text", async (text) => {
    const { start } = setUp(scripted(text));
    const tokens = await collect(start());
    expect(tokens.map(({ id }) => id)).toEqual(byteTokenizer.encode(text));
    expect(tokens.map((token) => token.text).join("")).toBe(text);
    expect(tokens.filter((token) => token.text !== "").map((token) => token.text)).toEqual([...text]);
  });

  test("streams whole characters with GPT-2's own vocabulary", async () => {
    const tokenizer = new BytePairTokenizer(gpt2Vocabulary(), 50256);
    const text = "Zoë 🙂👩‍👩‍👧 日本語 🦊";
    const ids = tokenizer.encode(text);
    const formula = scriptedIds(ids, tokenizer.endOfTextId!);
    const { start } = setUp(formula, { backend: new FormulaBackend(50257, formula), tokenizer, config: formulaConfig(50257), prompt: [1, 2] });
    const tokens = await collect(start());
    expect(tokens.map(({ id }) => id)).toEqual(ids);
    expect(tokens.map((token) => token.text).join("")).toBe(text);
    expect(tokens.filter((token) => token.text === "").length).toBeGreaterThan(0);
    expect(tokens.some((token) => token.text.includes("\uFFFD"))).toBe(false);
  });

  test.each([
    ["maxTokens", { maxTokens: 3 }, 64],
    ["contextFull", {}, 4],
  ] as const)("gives the last token the rest of an unfinished character when it ends by %s", async (reason, options, contextLength) => {
    const { start } = setUp(scripted("a🙂"), { contextLength }); // 61 f0 9f 99 82
    const generation = start(options);
    expect((await collect(generation)).map(({ text }) => text)).toEqual(["a", "", "\uFFFD"]);
    expect(generation.summary?.finishReason).toBe(reason);
  });

  test("gives the last token the rest of an unfinished character when the text ends", async () => {
    const { start } = setUp((context, id) => Number(id === ([0x61, 0xf0, 0x9f][context.length - 2] ?? END)));
    expect((await collect(start())).map(({ text }) => text)).toEqual(["a", "", "\uFFFD"]);
  });

  test("ends before a stop string, and streams no part of it", async () => {
    const { start } = setUp(scripted("one. The end. More"));
    const generation = start({ stop: ["The end", "zzz"] });
    const tokens = await collect(generation);
    expect(tokens.map(({ text }) => text).join("")).toBe("one. ");
    expect(tokens).toHaveLength("one. The end".length);
    expect(generation.summary).toMatchObject({ finishReason: "stop", newTokens: "one. The end".length });
  });

  test("gives text held back for a stop string to a later token when it was none", async () => {
    const { start } = setUp(scripted("abcab"));
    expect((await collect(start({ stop: ["abd"] }))).map(({ text }) => text)).toEqual(["", "", "abc", "", "ab"]);
  });

  test("gives text held back for a stop string to the last token allowed", async () => {
    const { start } = setUp(scripted("abcab"));
    expect((await collect(start({ stop: ["bcd"], maxTokens: 3 }))).map(({ text }) => text)).toEqual(["a", "", "bc"]);
  });

  test("reports alternatives with their text only when asked", async () => {
    const { start } = setUp(scripted("xyz"));
    const [plain] = await collect(start());
    expect(plain).not.toHaveProperty("top");
    const [token] = await collect(start({ logProbs: 2 }));
    expect(token!.top).toHaveLength(2);
    expect(token!.top![0]).toEqual({ id: token!.id, text: "x", logProb: token!.logProb });
    expect(token!.logProb).toBeCloseTo(new FormulaBackend(V, scripted("xyz")).logSoftmax([97, 98])[120]!, 6);
  });

  test("gives the same tokens from the same seed", async () => {
    const { start } = setUp((context, id) => 2 * Math.sin(id + context.length) - Number(id === END) * 9);
    const draw = async (seed: number): Promise<number[]> => (await collect(start({ temperature: 1, seed, maxTokens: 20 }))).map(({ id }) => id);
    expect(await draw(1)).toEqual(await draw(1));
    expect(await draw(1)).not.toEqual(await draw(2));
  });

  test("starts when iterated, once", async () => {
    const { backend, turnstile, start } = setUp(scripted("xyz"));
    const generation = start();
    expect(await isFree(turnstile)).toBe(true);
    expect(backend.calls).toEqual([]);
    await collect(generation);
    expect(() => generation[Symbol.asyncIterator]()).toThrow(TypeError);
  });

  test("begins an empty prompt with the beginning-of-text token, as Hugging Face's generate() does", async () => {
    const withStart = { config: formulaConfig(V, { bosTokenId: END }) };
    for (const prompt of ["", []]) {
      const { backend, start } = setUp(scripted("xyz"), { ...withStart, prompt });
      await collect(start({ maxTokens: 1 }));
      expect(backend.calls).toEqual(["forward 256 at 0"]);
      expect(() => setUp(scripted("xyz"), { prompt }).start()).toThrow(RangeError);
    }
  });

  test.each<[unknown, typeof TypeError | typeof RangeError]>([
    [[0, V], RangeError],
    [[0, -1], RangeError],
    [[0.5], RangeError],
    [["a"], TypeError],
    [7, TypeError],
    [null, TypeError],
  ])("throws at once for the prompt %j, having accepted ids within the vocabulary", (prompt, errorClass) => {
    setUp(scripted("xyz"), { prompt: [0, V - 1] }).start(); // control case
    const { start } = setUp(scripted("xyz"), { prompt: prompt as number[] });
    expect(() => start()).toThrow(errorClass);
    expect(() => start()).toThrow(/^prompt/);
  });

  test("throws at once for a prompt of four thousand million holes", () => {
    expect(() => setUp(scripted("xyz"), { prompt: new Array<number>(2 ** 32 - 1) }).start()).toThrow(new TypeError("prompt[0] is undefined; expected a token id."));
  });

  test("throws at once for a wrong option", () => {
    expect(() => setUp(scripted("xyz")).start({ topP: 2 })).toThrow("topP is 2");
    setUp(scripted("xyz")).start({ stop: ["a", "b"] }); // control case
    expect(() => setUp(scripted("xyz")).start({ stop: ["a", , "b"] as string[] })).toThrow(new TypeError("stop[1] is undefined; expected a string."));
  });

  test("rejects a prompt longer than the context with both numbers, and accepts one that fills it", async () => {
    const prompt = [1, 2, 3, 4];
    await collect(setUp(scripted("xyz"), { prompt, contextLength: 4 }).start()); // control case
    const { backend, start } = setUp(scripted("xyz"), { prompt, contextLength: 3 });
    const generation = start();
    await expect(collect(generation)).rejects.toMatchObject({
      code: "promptTooLong",
      message: "The prompt has 4 tokens; expected at most the context length of 3.",
      details: { promptTokens: 4, contextLength: 3 },
    });
    expect(generation.summary).toEqual({ finishReason: "failed", promptTokens: 4, newTokens: 0, prefillMs: 0, decodeMs: 0 });
    expect(backend.calls).toEqual([]);
  });

  describe("releases the backend and sets the summary", () => {
    test("when the consumer breaks", async () => {
      const { backend, turnstile, start } = setUp(scripted("xyz"));
      const generation = start();
      for await (const token of generation) {
        expect(token.text).toBe("x");
        expect(await isFree(turnstile)).toBe(false);
        break;
      }
      expect(generation.summary).toMatchObject({ finishReason: "cancelled", newTokens: 1 });
      expect(backend.calls).toHaveLength(1);
      expect(await isFree(turnstile)).toBe(true);
    });

    test("when the consumer throws", async () => {
      const { turnstile, start } = setUp(scripted("xyz"));
      const generation = start();
      const own = new Error("mine");
      await expect(
        (async () => {
          for await (const _ of generation) throw own;
        })(),
      ).rejects.toBe(own);
      expect(generation.summary).toMatchObject({ finishReason: "cancelled", newTokens: 1 });
      expect(await isFree(turnstile)).toBe(true);
    });

    test.each([
      ["before it starts", -1, 0],
      ["during the prefill", 0, 0],
      ["during the decoding", 2, 2],
    ])("when aborted %s, with the reason untouched", async (_, abortAt, newTokens) => {
      const controller = new AbortController();
      const reason = { why: "enough" };
      const { backend, turnstile, start } = setUp(scripted("uvwxyz"));
      const forward = backend.forward.bind(backend);
      backend.forward = async (tokens, position, signal) => {
        if (backend.calls.length === abortAt) controller.abort(reason);
        return forward(tokens, position, signal);
      };
      if (abortAt < 0) controller.abort(reason);
      const generation = start({ signal: controller.signal });
      await expect(collect(generation)).rejects.toBe(reason);
      expect(generation.summary).toMatchObject({ finishReason: "cancelled", newTokens });
      expect(await isFree(turnstile)).toBe(true);
    });

    test("when aborted between two tokens", async () => {
      const controller = new AbortController();
      const { backend, turnstile, start } = setUp(scripted("uvwxyz"));
      const generation = start({ signal: controller.signal });
      await expect(
        (async () => {
          for await (const _ of generation) controller.abort("stop");
        })(),
      ).rejects.toBe("stop");
      expect(generation.summary).toMatchObject({ finishReason: "cancelled", newTokens: 1 });
      expect(backend.calls).toHaveLength(1);
      expect(await isFree(turnstile)).toBe(true);
    });

    test("when the backend fails", async () => {
      const { backend, turnstile, start } = setUp(scripted("uvwxyz"));
      const failure = new EngineError("deviceLost", "The device was lost.");
      const forward = backend.forward.bind(backend);
      backend.forward = (...args) => (backend.calls.length === 2 ? Promise.reject(failure) : forward(...args));
      const generation = start();
      await expect(collect(generation)).rejects.toBe(failure);
      expect(generation.summary).toMatchObject({ finishReason: "failed", newTokens: 2 });
      expect(await isFree(turnstile)).toBe(true);
    });

    test("when the logits are not finite", async () => {
      const { turnstile, start } = setUp((context, id) => (context.length === 3 && id === 7 ? NaN : 0));
      const generation = start();
      await expect(collect(generation)).rejects.toMatchObject({ code: "shader", details: { id: 7 } });
      expect(generation.summary?.finishReason).toBe("failed");
      expect(await isFree(turnstile)).toBe(true);
    });
  });

  test("runs generations of one backend one after the other, in the order of their first next()", async () => {
    const { backend, start } = setUp(scripted("xy"));
    await Promise.all([collect(start()), collect(start()), collect(start())]);
    const one = ["forward 97 98 at 0", "forward 120 at 2", "forward 121 at 3"];
    expect(backend.calls).toEqual([...one, ...one, ...one]);
  });
});

describe("complete", () => {
  test("gives text, tokens and summary", async () => {
    const { start } = setUp(scripted("héllo"));
    const generation = start();
    expect(await complete(generation)).toEqual({ text: "héllo", tokens: byteTokenizer.encode("héllo"), ...generation.summary });
  });

  test("rejects as the generation does", async () => {
    const { start } = setUp(scripted("xyz"));
    await expect(complete(start({ signal: AbortSignal.abort("why") }))).rejects.toBe("why");
  });
});

describe("StopMatcher", () => {
  test.each([
    ["nothing to stop at", [], "abc", "abc", false],
    ["no match", ["x"], "abc", "abc", false],
    ["at the start", ["ab"], "abc", "", true],
    ["in the middle", ["c"], "abcd", "ab", true],
    ["at the end", ["cd"], "abcd", "ab", true],
    ["only its beginning, at the end", ["cde"], "abcd", "abcd", false],
    ["a beginning that repeats", ["aab"], "aaaab", "aa", true],
    ["a beginning that fails and begins again", ["abac"], "ababac", "ab", true],
    ["the string that is complete first", ["abcd", "bc"], "abcd", "a", true],
    ["the longer of two complete at once", ["bc", "abc"], "xabcd", "x", true],
    ["a line break", ["\n\n"], "a\nb\n\nc", "a\nb", true],
    ["beyond ASCII", ["🙂é"], "a🙂🙂éb", "a🙂", true],
  ] as [string, string[], string, string, boolean][])("stops before the match, whole text or one character at a time: %s", (_, stops, text, expected, matched) => {
    for (const pieces of [[text], [...text]]) {
      const matcher = new StopMatcher(stops);
      const shown = pieces.map((piece) => matcher.push(piece)).join("") + matcher.flush();
      expect(shown).toBe(expected);
      expect(matcher.matched).toBe(matched);
    }
  });

  test("holds back only what could be the beginning of a stop string", () => {
    const matcher = new StopMatcher(["</end>"]);
    expect(["a", "<", "b", "</en", "</end", "!"].map((piece) => matcher.push(piece))).toEqual(["a", "", "<b", "", "</en", "</end!"]);
    expect(matcher.holds).toBe(false);
    matcher.push("<");
    expect(matcher.holds).toBe(true);
    expect(matcher.flush()).toBe("<");
  });
});

describe("Turnstile", () => {
  test("lets one in at a time, in the order of asking", async () => {
    const turnstile = new Turnstile();
    const log: string[] = [];
    const visit = async (name: string): Promise<void> => {
      const release = await turnstile.acquire();
      log.push(`${name} in`);
      await Promise.resolve();
      log.push(`${name} out`);
      release();
    };
    await Promise.all(["a", "b", "c"].map(visit));
    expect(log).toEqual(["a in", "a out", "b in", "b out", "c in", "c out"]);
  });

  test("does not let a newcomer in before the one who was woken", async () => {
    const turnstile = new Turnstile();
    const order: string[] = [];
    const release = await turnstile.acquire();
    const woken = turnstile.acquire().then((next) => (order.push("woken"), next()));
    release();
    const newcomer = turnstile.acquire().then((next) => (order.push("newcomer"), next()));
    await Promise.all([woken, newcomer]);
    expect(order).toEqual(["woken", "newcomer"]);
  });

  test("releases once, however often the function is called", async () => {
    const turnstile = new Turnstile();
    const release = await turnstile.acquire();
    const second = turnstile.acquire();
    release();
    await second;
    release();
    expect(await isFree(turnstile)).toBe(false);
  });

  test("takes one who aborts out of the queue, with the reason untouched", async () => {
    const turnstile = new Turnstile();
    const release = await turnstile.acquire();
    const controller = new AbortController();
    const aborted = turnstile.acquire(controller.signal);
    const next = turnstile.acquire();
    const reason = new Error("no longer");
    controller.abort(reason);
    await expect(aborted).rejects.toBe(reason);
    release();
    (await next)();
    expect(await isFree(turnstile)).toBe(true);
    await expect(turnstile.acquire(controller.signal)).rejects.toBe(reason);
    expect(await isFree(turnstile)).toBe(true);
  });

  test("ignores an abort after entering", async () => {
    const turnstile = new Turnstile();
    const release = await turnstile.acquire();
    const controller = new AbortController();
    const second = turnstile.acquire(controller.signal);
    release();
    controller.abort();
    (await second)();
    expect(await isFree(turnstile)).toBe(true);
  });

  test("rejects everyone with disposed once disposed, and still lets the holder release", async () => {
    const turnstile = new Turnstile();
    const release = await turnstile.acquire();
    const waiting = turnstile.acquire();
    turnstile.dispose();
    turnstile.dispose();
    await expect(waiting).rejects.toMatchObject({ code: "disposed" });
    release();
    await expect(turnstile.acquire()).rejects.toMatchObject({ code: "disposed" });
  });
});
