import { readFile } from "node:fs/promises";
import { afterEach, describe, expect, test, vi } from "vitest";
import { loadModel } from "../../src/index.ts";
import { budgetRows, nameOfRow, readmeTable, tableRows } from "../bench/tableRows.mjs";
import { embeddedModel } from "../fixtures/embeddedModel.ts";

const read = async (path: string): Promise<string> => readFile(new URL(`../../${path}`, import.meta.url), "utf8");
const readme = await read("README.md");
const snippets = [...readme.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code]) => code!);
const importLine = 'import { loadModel } from "nibble-webgpu";\n';

/** Runs a module's text whose only import is loadModel, as a page would. */
async function runModule(code: string): Promise<void> {
  expect(code.startsWith(importLine)).toBe(true);
  const AsyncFunction = (async () => {}).constructor as new (parameter: string, body: string) => (loadModelOption: typeof loadModel) => Promise<void>;
  await new AsyncFunction("loadModel", code.slice(importLine.length))(loadModel);
}

describe("README.md", () => {
  afterEach(() => vi.unstubAllGlobals());

  test("has one snippet, of six lines", () => {
    expect(snippets).toHaveLength(1);
    expect(snippets[0]!.trimEnd().split("\n")).toHaveLength(6);
  });

  test("has a snippet that writes a story into a page which serves the embedded model", async () => {
    const files = await embeddedModel();
    const written: string[] = [];
    const base = "http://page.test/";
    vi.stubGlobal("document", { baseURI: base, body: { append: (text: string) => written.push(text) } });
    vi.stubGlobal("fetch", async (input: URL) => {
      const content = files[input.href.slice(`${base}models/stories-12m/`.length)];
      return new Response(content, { status: content ? 200 : 404 });
    });
    await runModule(snippets[0]!);
    expect(written.length).toBeGreaterThan(30);
    expect(written.join("")).toMatch(/^ there was a /);
  }, 30_000);

  test("repeats rows of the guide's tables, as they were measured", async () => {
    const tablesOf = (page: string): string => /<!-- table:begin -->\n(.*?)<!-- table:end -->/s.exec(page)![1]!;
    const tables = tablesOf(await read("docs/guides/quantization.md"));
    const names = [...tables.matchAll(/^\| `(.+?)`/gm)].map(([, name]) => name);
    expect(names).toEqual(["f32", ...tableRows.map(nameOfRow), "f32", "f16", "int8", ...budgetRows]); // recipes, KV caches, budgets
    expect(tablesOf(readme)).toBe(readmeTable(tables));
    expect(tablesOf(readme)).toMatch(/^\| `f32`.*^\| `nf4` .*^Made by `npm run table/ms);
  });

  test("takes at most 14 KB", () => {
    expect(new TextEncoder().encode(readme).length).toBeLessThanOrEqual(14 * 1024);
  });
});
