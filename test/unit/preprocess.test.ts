import { describe, expect, test } from "vitest";
import { preprocess, type ShaderConstants } from "../../src/gpu/preprocess.ts";

const lines = (...text: string[]): string => text.join("\n");
/** Whether the lines under `#if condition` are kept. */
const holds = (condition: string, constants: ShaderConstants): boolean => preprocess(lines(`#if ${condition}`, "kept", "#endif"), constants).endsWith("kept");

describe("preprocess, constants", () => {
  test("puts every number in front as an unsigned const, in order, and leaves strings and booleans to #if", () => {
    expect(preprocess("fn main() {}", { WG: 64, CODE: "int8", ROLLED: true, BASE: 0 })).toBe(lines("const WG = 64u;", "const BASE = 0u;", "fn main() {}"));
  });
  test("leaves a source without directives and constants as it is, blank lines and indentation included", () => {
    const source = lines("fn f() {", "", "  return;", "}", "");
    expect(preprocess(source, {})).toBe(source);
  });
  test.each([-1, 0.5, NaN, Infinity])("rejects the constant %s, having accepted 1", (value) => {
    expect(preprocess("", { N: 1 })).toBe(lines("const N = 1u;", ""));
    expect(() => preprocess("", { N: value })).toThrow(new SyntaxError(`Shader constant N is ${value}; expected an unsigned integer.`));
  });
});

describe("preprocess, #import", () => {
  test("replaces the line by the piece, whose own imports and conditions are expanded with the same constants", () => {
    const pieces = { outer: lines("outer 1", '#import "inner"', "outer 2"), inner: lines("#if DEEP", "deep", "#else", "shallow", "#endif") };
    const source = lines("a", '  #import "outer"', "b");
    expect(preprocess(source, { DEEP: true }, pieces)).toBe(lines("a", "outer 1", "deep", "outer 2", "b"));
    expect(preprocess(source, { DEEP: false }, pieces)).toBe(lines("a", "outer 1", "shallow", "outer 2", "b"));
  });
  test("looks for a piece only where the line is kept", () => {
    expect(preprocess(lines("#if A", '#import "absent"', "#endif", "b"), { A: false })).toBe("b");
  });
  test("rejects an unknown piece with file and line, having accepted a known one", () => {
    const pieces = { known: "k", outer: lines("", '#import "absent"') };
    expect(preprocess('#import "known"', {}, pieces)).toBe("k");
    expect(() => preprocess(lines("", '#import "absent"'), {}, pieces)).toThrow(new SyntaxError('main.wgsl:2: no piece named "absent"'));
    expect(() => preprocess(lines('#import "known"', '#import "outer"'), {}, pieces)).toThrow(new SyntaxError('outer.wgsl:2: no piece named "absent"'));
  });
});

describe("preprocess, #if", () => {
  test("keeps the first branch that holds, else the last", () => {
    const source = lines("#if N == 1", "one", "#elif N == 2", "two", "#elif N < 9", "few", "#else", "many", "#endif", "end");
    for (const [N, kept] of [[1, "one"], [2, "two"], [3, "few"], [9, "many"]] as const) {
      expect(preprocess(source, { N })).toBe(lines(`const N = ${N}u;`, kept, "end"));
    }
  });
  test("nests, and keeps nothing within a branch that is left out", () => {
    const inner = (name: string): string[] => ["#if B", `${name} B`, "#elif C", `${name} C`, "#else", `${name} else`, "#endif"];
    const source = lines("#if A", "A", ...inner("A"), "#else", "not A", ...inner("not A"), "#endif");
    for (const A of [true, false]) {
      for (const [B, C, name] of [[true, false, "B"], [true, true, "B"], [false, true, "C"], [false, false, "else"]] as const) {
        const outer = A ? "A" : "not A";
        expect(preprocess(source, { A, B, C })).toBe(lines(outer, `${outer} ${name}`));
      }
    }
  });
  test("reads conditions only where they decide", () => {
    expect(preprocess(lines("#if A", "a", "#elif UNKNOWN", "b", "#endif", "#if !A", "#if UNKNOWN", "c", "#elif UNKNOWN", "d", "#endif", "#endif"), { A: true })).toBe("a");
  });
});

describe("preprocess, conditions", () => {
  test.each([
    ["CODE == int8", true],
    ["CODE == int4", false],
    ["CODE != int4", true],
    ["CODE != int8", false],
    ["N == 8", true],
    ["N != 8", false],
    ["N < 8", false],
    ["N < 9", true],
    ["N > 8", false],
    ["N > 7", true],
    ["N <= 7", false],
    ["N <= 8", true],
    ["N >= 9", false],
    ["N >= 8", true],
    ["N < M", true], // 8 < 16 as numbers, not as text
    ["N == M", false],
    ["M == M", true],
    ["ON", true],
    ["OFF", false],
    ["!ON", false],
    ["!OFF", true],
    ["ON && OFF", false],
    ["ON && !OFF", true],
    ["OFF || ON", true],
    ["OFF || !ON", false],
    ["ON || OFF && OFF", true], // && binds tighter
    ["OFF && OFF || ON", true],
    ["  CODE==int8  &&  N>7 ", true],
  ])("%s is %s", (condition, expected) => {
    expect(holds(condition, { CODE: "int8", N: 8, M: 16, ON: true, OFF: false })).toBe(expected);
  });
  test.each(["", "code == int8", "N ==", "N = 8", "(N == 8)", "N == 8 9", "N + 1", "!N == 8", "ON &&"])("rejects %j as unreadable, having accepted N == 8", (condition) => {
    const constants = { N: 8, ON: true };
    expect(holds("N == 8", constants)).toBe(true);
    expect(() => holds(condition, constants)).toThrow(SyntaxError);
    expect(() => holds(condition, constants)).toThrow("main.wgsl:1: cannot read the condition");
  });
  test("rejects a constant without a value, having accepted one that is false", () => {
    expect(holds("ROLLED", { ROLLED: false })).toBe(false);
    expect(() => holds("ROLLED", {})).toThrow(new SyntaxError("main.wgsl:1: constant ROLLED has no value"));
  });
});

describe("preprocess, structure", () => {
  const control = lines("#if A", "a", "#else", "b", "#endif");
  test.each([
    ["an unknown directive", lines("", "#ifdef A"), "main.wgsl:2: unknown directive #ifdef"],
    ["#elif without #if", "#elif A", "main.wgsl:1: #elif without #if"],
    ["#else without #if", "#else", "main.wgsl:1: #else without #if"],
    ["#endif without #if", lines(control, "#endif"), "main.wgsl:6: #endif without #if"],
    ["#if without #endif", "#if A", "main.wgsl: 1 #if without #endif"],
    ["two of them", lines("#if A", "#if A"), "main.wgsl: 2 #if without #endif"],
  ])("rejects %s, having accepted a complete chain", (_, source, message) => {
    expect(preprocess(control, { A: true })).toBe("a");
    expect(() => preprocess(source, { A: true })).toThrow(new SyntaxError(message));
  });
  test("a piece closes what it opens: its #if is not closed by the file around it", () => {
    const source = lines('#import "piece"', "#endif");
    expect(() => preprocess(source, { A: true }, { piece: "#if A" })).toThrow(new SyntaxError("piece.wgsl: 1 #if without #endif"));
    expect(preprocess(lines("#if A", '#import "piece"', "#endif"), { A: true }, { piece: control })).toBe("a");
  });
});

describe("preprocess, after #else", () => {
  test("takes #endif and nothing else", () => {
    const source = (directive: string) => `#if A\na\n#else\nb\n${directive}\nc\n#endif`;
    expect(preprocess("#if A\na\n#else\nb\n#endif", { A: false })).toBe("b"); // control
    expect(() => preprocess(source("#else"), { A: false })).toThrow("#else after #else");
    expect(() => preprocess(source("#elif A"), { A: false })).toThrow("#elif after #else");
  });
});

describe("preprocess, #repeat", () => {
  test("writes its lines so often as a number or a constant says, with 0, 1, … for the letter, in names and in literals", () => {
    const source = lines("a", "#repeat n 2", "let x$n = $nu;", "#endrepeat", "#repeat m ROWS", "row$m", "#endrepeat", "b");
    expect(preprocess(source, { ROWS: 3 })).toBe(lines("const ROWS = 3u;", "a", "let x0 = 0u;", "let x1 = 1u;", "row0", "row1", "row2", "b"));
    expect(preprocess(source, { ROWS: 0 })).toBe(lines("const ROWS = 0u;", "a", "let x0 = 0u;", "let x1 = 1u;", "b"));
  });
  test("nests, and expands conditions and imports within each round", () => {
    const source = lines("#repeat n 2", "#repeat m 2", "#if DEEP", '#import "piece"', "s$n$m", "#endif", "#endrepeat", "#endrepeat");
    expect(preprocess(source, { DEEP: true }, { piece: "p" })).toBe(lines("p", "s00", "p", "s01", "p", "s10", "p", "s11"));
    expect(preprocess(source, { DEEP: false })).toBe("");
  });
  test("is passed over where its branch is not kept, its counts unread", () => {
    expect(preprocess(lines("#if A", "#repeat n MISSING", "x", "#endrepeat", "#endif", "b"), { A: false })).toBe("b");
  });
  test.each([
    [["#repeat n 2", "x"], "main.wgsl:1: #repeat without #endrepeat"],
    [["#endrepeat"], "main.wgsl:1: unknown directive #endrepeat"],
    [["#repeat 2", "#endrepeat"], 'main.wgsl:1: cannot read "#repeat 2"; expected a letter and a count'],
    [["", "#repeat n ROWS", "#endrepeat"], "main.wgsl:2: #repeat counts to ROWS, which is no constant and no number"],
  ])("rejects %j with its line", (source, message) => {
    expect(preprocess(lines("#repeat n 1", "ok", "#endrepeat"), {})).toBe("ok"); // control case
    expect(() => preprocess(lines(...source), {})).toThrow(new SyntaxError(message));
  });
});

describe("preprocess, enable", () => {
  test("moves the directives that WGSL wants first in front of the constants", () => {
    expect(preprocess(lines("a", "#if F", "enable subgroups;", "#endif", "b"), { N: 1, F: true })).toBe(lines("enable subgroups;", "const N = 1u;", "a", "b"));
    expect(preprocess(lines("a", "#if F", "enable subgroups;", "#endif", "b"), { N: 1, F: false })).toBe(lines("const N = 1u;", "a", "b"));
  });
});
