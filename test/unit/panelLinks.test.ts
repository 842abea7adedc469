import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { linkTo, readLink } from "../../demo/panel/link.ts";
import { modelName } from "../../demo/panel/modelName.ts";
import type { Settings } from "../../demo/panel/settings.ts";
import { sha256, TextReader } from "../../demo/panel/textReader.ts";

const page = "https://page.test/nibble/";
beforeEach(() => {
  vi.stubGlobal("isSecureContext", true);
  vi.stubGlobal("document", { baseURI: `${page}?backend=cpu` });
  vi.stubGlobal("location", { href: `${page}?backend=cpu#elsewhere` });
});
afterEach(() => vi.unstubAllGlobals());

const settings: Settings = {
  text: { kind: "file", file: null },
  calibration: { kind: "offered", label: "the given text" },
  protocol: "disjoint",
  windowTokens: 64,
  strideTokens: null,
  tokenLimit: 512,
  chosen: ["int8", "mine"],
  own: [{ name: "mine", linear: { type: "nf4", block: 64 }, rounding: "gptq", activationOrder: true }],
  continuation: { prompt: "Ein Bär 🐻", maxTokens: 4, temperature: 0, seed: 7 },
};

describe("linkTo and readLink", () => {
  test("give back every setting, model and hashes; a short text comes along, of a long one only the hash", async () => {
    for (const [text, linked] of [["Short 🐻.", { kind: "pasted", text: "Short 🐻." }], ["long ".repeat(500), { kind: "file", file: null }]] as const) {
      const link = new URL(await linkTo("./models/a/", settings, text, "calibration"));
      expect(link.href.startsWith(`${page}?backend=cpu#panel=`)).toBe(true);
      expect(readLink(link.hash, { ...settings, protocol: "strided", chosen: [], own: [] })).toEqual({
        model: "./models/a/",
        textSha256: await sha256(text),
        calibrationSha256: await sha256("calibration"),
        settings: { ...settings, text: linked },
      });
    }
    expect(readLink("#compare", settings)).toBeNull();
    expect(() => readLink("#panel=e30x", settings)).toThrow(/^The link is damaged: /);
  });
});

describe("modelName", () => {
  test.each([
    ["an address below the page", new URL("models/a/", page), {}, "./models/a/"],
    ["an address elsewhere", "https://other.test/m/", {}, "https://other.test/m/"],
    ["a hub id", "owner/name", {}, "owner/name"],
    ["a hub id with a revision", "owner/name", { revision: "v2" }, "owner/name@v2"],
    ["files", { "config.json": new Uint8Array() }, {}, null],
  ] as const)("names %s", (_what, source, hub, name) => {
    expect(modelName(source, hub)).toBe(name);
  });
});

describe("TextReader", () => {
  const offered = [{ label: "a", text: "first text" }, { label: "b", text: new URL("b.txt", page) }];

  test("finds an offered text by its hash, whatever it is called, and asks for a file where none has it", async () => {
    vi.stubGlobal("fetch", async () => new Response("second text"));
    const find = async (text: string): Promise<unknown> => new TextReader().find({ kind: "offered", label: "another name" }, await sha256(text), offered);
    expect(await find("first text")).toEqual({ kind: "offered", label: "a" });
    expect(await find("second text")).toEqual({ kind: "offered", label: "b" });
    expect(await find("third text")).toEqual({ kind: "file", file: null });
    expect(await new TextReader().find({ kind: "pasted", text: "x" }, await sha256("first text"), offered)).toEqual({ kind: "pasted", text: "x" });
  });

  test("fetches an address once, but again after a failure", async () => {
    let calls = 0;
    vi.stubGlobal("fetch", async () => new Response("second text", { status: calls++ === 0 ? 503 : 200 }));
    const reader = new TextReader();
    const read = (): Promise<string> => reader.read({ kind: "offered", label: "b" }, offered);
    await expect(read()).rejects.toThrow("answered 503");
    expect([await read(), await read(), calls]).toEqual(["second text", "second text", 2]);
    expect(await reader.read({ kind: "offered", label: "none" }, offered)).toBe("");
  });
});
