import { describe, expect, test } from "vitest";
import { planWindows, shardOf } from "../../src/evaluate/protocols.ts";
import type { PerplexityOptions } from "../../src/types.ts";
import golden from "../fixtures/golden/stories-eval.json" with { type: "json" };

/** Index in the text of every scored token, in order, with the tokens of context it is predicted from. */
function scored(tokenCount: number, options: PerplexityOptions, nPositions = 1024): { token: number; context: number }[] {
  return planWindows(tokenCount, options, nPositions).windows.flatMap(({ start, length, scoreFrom, scoreTo }) => {
    expect(start + length).toBeLessThanOrEqual(tokenCount);
    expect(scoreTo).toBeLessThan(length);
    return Array.from({ length: scoreTo - scoreFrom }, (_, i) => ({ token: start + scoreFrom + i + 1, context: scoreFrom + i + 1 }));
  });
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

describe("planWindows", () => {
  test("strided: window starts 0, S, 2S…, each scoring what no earlier one scored, up to the end", () => {
    const plan = planWindows(11, { protocol: "strided", windowTokens: 6, strideTokens: 2 }, 6);
    expect(plan).toEqual({
      protocol: "strided",
      windowTokens: 6,
      strideTokens: 2,
      windows: [
        { start: 0, length: 6, scoreFrom: 0, scoreTo: 5 },
        { start: 2, length: 6, scoreFrom: 3, scoreTo: 5 },
        { start: 4, length: 6, scoreFrom: 3, scoreTo: 5 },
        { start: 6, length: 5, scoreFrom: 3, scoreTo: 4 },
      ],
      scoredTokens: 10,
    });
  });

  test.each([
    [2, 4, 2],
    [3, 4, 1],
    [4, 4, 2],
    [5, 4, 2],
    [100, 7, 3],
    [101, 7, 6],
    [1000, 64, 1],
    [1025, 1024, 512],
  ])("strided: scores every token but the first exactly once (%i tokens, window %i, stride %i)", (tokenCount, windowTokens, strideTokens) => {
    const tokens = scored(tokenCount, { windowTokens, strideTokens });
    expect(tokens.map(({ token }) => token)).toEqual(range(1, tokenCount));
    // Past the first window a token sees at least window − stride tokens.
    for (const { token, context } of tokens) if (token >= windowTokens) expect(context).toBeGreaterThanOrEqual(windowTokens - strideTokens);
  });

  test("strided with stride = window: cannot score the tokens that begin a window, and drops a last window of one token", () => {
    const tokens = scored(9, { windowTokens: 4, strideTokens: 4 });
    expect(tokens.map(({ token }) => token)).toEqual([1, 2, 3, 5, 6, 7]);
    expect(scored(10, { windowTokens: 4, strideTokens: 4 }).map(({ token }) => token)).toEqual([1, 2, 3, 5, 6, 7, 9]);
  });

  test("disjoint: whole windows, all but the first token of each, the remainder dropped", () => {
    const plan = planWindows(14, { protocol: "disjoint", windowTokens: 4 }, 8);
    expect(plan.windows.map(({ start, length }) => [start, length])).toEqual([[0, 4], [4, 4], [8, 4]]);
    expect(scored(14, { protocol: "disjoint", windowTokens: 4 }).map(({ token }) => token)).toEqual([1, 2, 3, 5, 6, 7, 9, 10, 11]);
    expect(plan.scoredTokens).toBe(9);
    expect(plan.strideTokens).toBe(4);
  });

  test("llama.cpp: 255 predictions of a window of 512, from rows 256 to 510", () => {
    const plan = planWindows(1500, { protocol: "llama.cpp" }, 1024);
    expect(plan.windows).toEqual([
      { start: 0, length: 512, scoreFrom: 256, scoreTo: 511 },
      { start: 512, length: 512, scoreFrom: 256, scoreTo: 511 },
    ]);
    expect(plan.scoredTokens).toBe(2 * 255);
    expect(scored(512, { protocol: "llama.cpp" }).map(({ token }) => token)).toEqual(range(257, 512));
  });

  test.each([
    [3, [2]],
    [4, [3]],
    [5, [3, 4]],
    [8, [5, 6, 7]],
  ])("llama.cpp: scores rows ⌊n/2⌋ … n − 2 of a window of %i", (windowTokens, tokens) => {
    expect(scored(windowTokens, { protocol: "llama.cpp", windowTokens }).map(({ token }) => token)).toEqual(tokens);
  });

  test("takes the model's context for a window and half of it for a stride; llama.cpp at most 512", () => {
    expect(planWindows(5000, {}, 1024)).toMatchObject({ protocol: "strided", windowTokens: 1024, strideTokens: 512 });
    expect(planWindows(5000, { windowTokens: 7 }, 1024).strideTokens).toBe(3);
    expect(planWindows(5000, { protocol: "disjoint" }, 1024).windowTokens).toBe(1024);
    expect(planWindows(5000, { protocol: "llama.cpp" }, 256).windowTokens).toBe(256);
  });

  test("counts the windows and tokens of the golden evaluation", () => {
    for (const protocol of ["disjoint", "strided"] as const) {
      const { windows, scoredTokens } = golden[protocol];
      const plan = planWindows(golden.tokens, { protocol, windowTokens: 256, strideTokens: 128 }, 256);
      expect([plan.windows.length, plan.scoredTokens]).toEqual([windows, scoredTokens]);
    }
  });

  test.each([
    [1024, 281],
    [512, 561],
  ])("cuts WikiText-2 (287,644 tokens) at stride %i into the %i windows of Hugging Face's guide", (strideTokens, windows) => {
    expect(planWindows(287644, { strideTokens }, 1024).windows).toHaveLength(windows);
  });

  test.each<[string, PerplexityOptions, PerplexityOptions, typeof TypeError | typeof RangeError]>([
    ["windowTokens is 1;", { windowTokens: 1 }, { windowTokens: 2 }, RangeError],
    ["windowTokens is 65;", { windowTokens: 65 }, { windowTokens: 64 }, RangeError],
    ["windowTokens is 8.5;", { windowTokens: 8.5 }, { windowTokens: 8 }, RangeError],
    ["windowTokens is string;", { windowTokens: "8" as unknown as number }, { windowTokens: 8 }, TypeError],
    ["windowTokens is 2;", { protocol: "llama.cpp", windowTokens: 2 }, { protocol: "llama.cpp", windowTokens: 3 }, RangeError],
    ["strideTokens is 0;", { windowTokens: 8, strideTokens: 0 }, { windowTokens: 8, strideTokens: 1 }, RangeError],
    ["strideTokens is 9;", { windowTokens: 8, strideTokens: 9 }, { windowTokens: 8, strideTokens: 8 }, RangeError],
    ["strideTokens is NaN;", { strideTokens: NaN }, { strideTokens: 8 }, RangeError],
    ['protocol is "rolling";', { protocol: "rolling" as "strided" }, { protocol: "disjoint" }, RangeError],
  ])("rejects: %s", (message, wrong, right, errorClass) => {
    planWindows(100, right, 64); // control case
    expect(() => planWindows(100, wrong, 64)).toThrow(errorClass);
    expect(() => planWindows(100, wrong, 64)).toThrow(message);
  });

  test.each([
    ["strided", 2],
    ["disjoint", 16],
    ["llama.cpp", 16],
  ] as const)("%s: needs %i tokens for a window of 16", (protocol, needed) => {
    expect(planWindows(needed, { protocol, windowTokens: 16 }, 64).scoredTokens).toBeGreaterThan(0); // control case
    expect(() => planWindows(needed - 1, { protocol, windowTokens: 16 }, 64)).toThrow(`text has ${needed - 1} tokens; expected at least ${needed} `);
  });
});

describe("shardOf", () => {
  const plan = planWindows(100, { protocol: "strided", windowTokens: 16, strideTokens: 8 }, 64);

  test.each([1, 2, 3, 20])("deals the windows of a plan to %d shards in turn, some of them to none", (count) => {
    const shards = Array.from({ length: count }, (_, index) => shardOf(plan, { index, count }));
    for (const [j, window] of plan.windows.entries()) expect(shards[j % count]!.windows[Math.floor(j / count)]).toEqual(window);
    expect(shards.reduce((sum, { windows }) => sum + windows.length, 0)).toBe(plan.windows.length);
    expect(shards.reduce((sum, { scoredTokens }) => sum + scoredTokens, 0)).toBe(plan.scoredTokens);
  });

  test.each([
    [{ index: 0, count: 0 }, "shard.count is 0; expected an integer from 1"],
    [{ index: 3, count: 3 }, "shard.index is 3; expected an integer from 0 to 2."],
    [{ index: -1, count: 3 }, "shard.index is -1"],
  ])("throws RangeError for %j", (shard, message) => {
    expect(() => shardOf(plan, shard)).toThrow(RangeError);
    expect(() => shardOf(plan, shard)).toThrow(message);
    expect(shardOf(plan, { index: 2, count: 3 }).windows.length).toBeGreaterThan(0); // control case
  });
});
