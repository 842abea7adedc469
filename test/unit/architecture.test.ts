import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import ts from "typescript";
import { describe, expect, test } from "vitest";

const root = resolve(import.meta.dirname, "../..");

/** Each area may import the areas of the lines above it and itself; areas on one line do not know each other. */
const layers = [
  ["errors"],
  ["types", "parts"],
  ["source", "tokenizer", "safetensors"],
  ["checkpoint"],
  ["quantize"],
  ["gpu"],
  ["kernels"],
  ["model"],
  ["generate", "evaluate"],
  ["load", "openai", "export"],
  ["worker"],
  ["index"],
];
/** Users of the package: they see its root only. */
const users = ["cli", "demo"];

const rank = (area: string) => layers.findIndex((layer) => layer.includes(area));

/** "src/gpu/device.ts" is in gpu, "src/load.ts" in load, "demo/panel/chart.ts" in demo; null outside of both. */
function areaOf(path: string): string | null {
  const [top, next] = path.split("/");
  return top === "demo" ? "demo" : top === "src" ? (next ?? "").replace(/\.ts$/, "") : null;
}

interface Source {
  /** Relative to the repository, with slashes. */
  path: string;
  text: string;
  /** Module names as written: imports, re-exports, import types. */
  imports: string[];
  /** Constructs that style.md forbids, with their line. */
  forbidden: string[];
}

function readSource(path: string, text: string): Source {
  const file = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
  const source: Source = { path, text, imports: [], forbidden: [] };
  const forbid = (node: ts.Node, what: string) => source.forbidden.push(`${path}:${file.getLineAndCharacterOfPosition(node.getStart()).line + 1}: ${what}`);
  const wgslNames = new Set<string>();
  const visit = (node: ts.Node): void => {
    if ((ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) && node.moduleSpecifier && ts.isStringLiteral(node.moduleSpecifier)) {
      source.imports.push(node.moduleSpecifier.text);
      const name = ts.isImportDeclaration(node) ? node.importClause?.name : undefined;
      if (name && node.moduleSpecifier.text.includes(".wgsl")) wgslNames.add(name.text);
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument) && ts.isStringLiteral(node.argument.literal)) {
      source.imports.push(node.argument.literal.text);
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      const part = /^fetchPart\(.*, \(\) => import\("(\.[^"]*)"\)/.exec(node.parent.parent.getText());
      if (part) source.imports.push(part[1]!);
      else forbid(node, "import() outside of fetchPart()");
    } else if (ts.isCallExpression(node) && node.expression.getText() === "eval") {
      forbid(node, "eval()");
    } else if ((ts.isNewExpression(node) || ts.isCallExpression(node)) && node.expression.getText() === "Function") {
      forbid(node, "Function()");
    } else if (ts.isCallExpression(node) && /^WebAssembly\b/.test(node.expression.getText())) {
      forbid(node, "WebAssembly");
    } else if (ts.isTemplateExpression(node) && /@compute|@group|@binding|\bvar<|\bfn \w+\(/.test(node.getText())) {
      forbid(node, "WGSL built by a template with ${…}");
    } else if (ts.isPropertyAccessExpression(node) && /^replace(All)?$/.test(node.name.text) && wgslNames.has(node.expression.getText())) {
      forbid(node, `${node.getText()}: string replacement inside WGSL`);
    }
    ts.forEachChild(node, visit);
  };
  visit(file);
  return source;
}

function filesUnder(folder: string, ending: RegExp): string[] {
  if (!existsSync(join(root, folder))) return [];
  const names = readdirSync(join(root, folder), { recursive: true, encoding: "utf8" });
  return names.filter((name) => ending.test(name)).map((name) => `${folder}/${name.replaceAll("\\", "/")}`);
}

const read = (path: string) => readFileSync(join(root, path), "utf8");

/** Every import of one file against the direction, as "importer -> imported". */
function wrongImports({ path, imports }: Source): string[] {
  const area = areaOf(path) ?? "";
  return imports
    .filter((name) => name.startsWith(".") && !name.includes(".wgsl"))
    .map((name) => relative(root, resolve(root, dirname(path), name)).replaceAll("\\", "/"))
    .filter((target) => {
      const targetArea = areaOf(target);
      if (targetArea === area) return false;
      if (area === "demo") return !target.startsWith("models/");
      if (area === "cli") return targetArea !== "index" && target !== "package.json";
      return targetArea === null || rank(targetArea) === -1 || rank(area) <= rank(targetArea);
    })
    .map((target) => `${path} -> ${target}`);
}

/** What one file imports from Node though it must run in a page. */
const nodeImports = ({ path, imports }: Source) => imports.filter((name) => name.startsWith("node:")).map((name) => `${path} -> ${name}`);

const sources = [...filesUnder("src", /\.ts$/), ...filesUnder("demo", /\.ts$/)].map((path) => readSource(path, read(path)));
const library = sources.filter(({ path }) => path.startsWith("src/") && areaOf(path) !== "cli");

describe("the import direction", () => {
  test("has a place for every folder and file of src", () => {
    expect(sources.filter(({ path }) => rank(areaOf(path) ?? "") === -1 && !users.includes(areaOf(path) ?? "")).map(({ path }) => path)).toEqual([]);
  });
  test("is kept by every import of src and demo", () => {
    expect(sources.flatMap(wrongImports)).toEqual([]);
  });
  test.each([
    ["src/gpu/a.ts", "../errors.ts", []],
    ["src/gpu/a.ts", "./b.ts", []],
    ["src/gpu/a.ts", "../model/b.ts", ["src/gpu/a.ts -> src/model/b.ts"]],
    ["src/source/a.ts", "../tokenizer/b.ts", ["src/source/a.ts -> src/tokenizer/b.ts"]],
    ["src/cli/a.ts", "../index.ts", []],
    ["src/cli/a.ts", "../load.ts", ["src/cli/a.ts -> src/load.ts"]],
    ["demo/panel/a.ts", "../b.ts", []],
    ["demo/a.ts", "../src/index.ts", ["demo/a.ts -> src/index.ts"]],
  ])("lets %s import %s, or names the pair: %j", (path, imported, wrong) => {
    expect(wrongImports(readSource(path, `import type { x } from "${imported}";`))).toEqual(wrong);
    expect(wrongImports(readSource(path, `type X = import("${imported}").X;`))).toEqual(wrong);
    expect(wrongImports(readSource(path, `fetchPart("X", () => import("${imported}"), signal);`))).toEqual(wrong);
  });
  test("keeps Node out of everything but the command line", () => {
    expect(nodeImports(readSource("src/gpu/a.ts", 'import "node:fs";'))).toEqual(["src/gpu/a.ts -> node:fs"]); // control case
    expect([...library, ...sources.filter(({ path }) => path.startsWith("demo/"))].flatMap(nodeImports)).toEqual([]);
  });
  test("lets in nothing but GPT-2's vocabulary, which comes along in the package", () => {
    expect(JSON.parse(read("package.json"))).not.toHaveProperty("dependencies");
    const packages = library.flatMap(({ imports }) => imports.filter((name) => !name.startsWith(".")).map((name) => name.split("/")[0] ?? name));
    expect([...new Set(packages)]).toEqual(["gpt-tokenizer"]);
  });
});

describe("the source of the library", () => {
  test("holds no code made at run time", () => {
    expect(library.flatMap(({ forbidden }) => forbidden)).toEqual([]);
  });
  test.each([
    ["await import('x');", "import() outside of fetchPart()"],
    ["fetchPart('x', async () => import('./x.ts'));", "import() outside of fetchPart()"],
    ["eval('1');", "eval()"],
    ["new Function('return 1');", "Function()"],
    ["await WebAssembly.instantiate(x);", "WebAssembly"],
    ["const code = `@compute fn main() { ${body} }`;", "WGSL built by a template with ${…}"],
    ['import code from "./a.wgsl?raw"; code.replace("N", "8");', "code.replace: string replacement inside WGSL"],
  ])("would be caught with %s", (text, what) => {
    expect(readSource("src/a.ts", text).forbidden).toEqual([`src/a.ts:1: ${what}`]);
  });
  test("is not caught for naming such things in words, strings or types", () => {
    expect(readSource("src/a.ts", '// eval()\nconst x = "new Function()"; type T = import("./b.ts").T; const s = `fn ${x}`;').forbidden).toEqual([]);
  });
});

describe("the shaders", () => {
  const shaders = filesUnder("shaders", /\.wgsl$/).map((path) => ({ path, name: path.slice("shaders/".length, -".wgsl".length), text: read(path) }));
  const kernels = shaders.filter(({ text }) => text.includes("@compute"));

  test("that are kernels open with a comment that names an oracle that exists", () => {
    const wrong = kernels.filter(({ text }) => {
      const header = /^(\/\/.*\n)+/.exec(text)?.[0] ?? "";
      const [, file, name] = /Oracle: (\S+), (\w+)\(\)/.exec(header) ?? [];
      return file === undefined || !existsSync(join(root, file)) || !new RegExp(`\\b(function|const) ${name}\\b`).test(read(file));
    });
    expect(wrong.map(({ path }) => path)).toEqual([]);
  });
  test("that are kernels are named by a test", () => {
    const tests = filesUnder("test", /\.(test|spec)\.ts$|^conformance\/.*\.ts$/).filter((path) => path !== "test/unit/architecture.test.ts").map(read);
    const camelCase = (name: string) => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
    const untested = kernels.filter(({ name }) => !tests.some((text) => new RegExp(`\\b(${name}|${camelCase(name)})\\b`, "i").test(text)));
    expect(untested.map(({ path }) => path)).toEqual([]);
  });
  test("that are not kernels are imported by one", () => {
    const unused = shaders.filter(({ name, text }) => !text.includes("@compute") && !shaders.some((other) => other.text.includes(`#import "${name}"`)));
    expect(unused.map(({ path }) => path)).toEqual([]);
  });
});
