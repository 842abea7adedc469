import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import ts from "typescript";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { runCli } from "../../src/cli/cli.ts";
import * as nibble from "../../src/index.ts";
import { evaluationText } from "../fixtures/embeddedModel.ts";
import { seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";

const root = resolve(import.meta.dirname, "../..");
const read = (path: string): string => readFileSync(join(root, path), "utf8");

/** All that people read here, apart from what TypeDoc makes. */
const documents = [
  ...["README.md", "CONTRIBUTING.md", "CHANGELOG.md"],
  ...readdirSync(join(root, "docs"), { recursive: true, encoding: "utf8" }).map((name) => `docs/${name.replaceAll("\\", "/")}`),
].filter((path) => path.endsWith(".md") && !path.startsWith("docs/api/"));

/** What snippets may mention without declaring it, beside the package's names: its type, and below its value. */
const givenTypes: Readonly<Record<string, string>> = {
  model: 'import("nibble-webgpu").Model',
  source: 'import("nibble-webgpu").ModelSource',
  config: "Uint8Array<ArrayBuffer>",
  files: "File[]",
  text: "string",
  calibration: "string",
  sha256: "string",
  progressCallback: '(event: import("nibble-webgpu").TransformersProgressEvent) => void',
  output: "HTMLElement",
  bar: "HTMLProgressElement",
  stopButton: "HTMLButtonElement",
};
const typeOf = (name: string): string => givenTypes[name] ?? `typeof import("nibble-webgpu").${name}`;

interface Snippet {
  /** "docs/guides/embedding.md:11" */
  place: string;
  language: string;
  code: string;
  /** What the snippet takes as there: names below and of the package that it mentions and neither declares nor imports. */
  given: string[];
  /** A first line `// needs: …` names what Node has not, as it has no workers of a page; then types are checked and nothing runs. */
  runs: boolean;
}

function snippetsOf(path: string, text: string): Snippet[] {
  return [...text.matchAll(/^```(\w+)\n(.*?)^```$/gms)].map(({ index, 1: language = "", 2: code = "" }) => ({
    place: `${path}:${text.slice(0, index).split("\n").length}`,
    language,
    code,
    given: [...Object.keys(givenTypes), ...Object.keys(nibble)].filter((name) => new RegExp(`\\b${name}\\b`).test(code) && !new RegExp(`\\b(const|let|using|function|import)\\b[^=;(]*\\b${name}\\b`).test(code)),
    runs: !/^\/\/ needs: |InWorker\(/.test(code),
  }));
}

const snippets = documents.flatMap((path) => snippetsOf(path, read(path)));
const written = snippets.filter(({ language }) => language === "ts" || language === "js");
/** test/package has their packages. */
const examples = written.filter(({ code }) => [...code.matchAll(/ from "([^"]+)"/g)].some(([, name]) => !/^(nibble-webgpu|webgpu|node:.*)$/.test(name!)));
const modules = written.filter((snippet) => !examples.includes(snippet));

describe("snippets", () => {
  /** The errors of the compiler in modules, in one program over all of them. */
  function compile(codes: Readonly<Record<string, string>>): string[] {
    const { options } = ts.parseJsonConfigFileContent(ts.readConfigFile(join(root, "tsconfig.json"), (path) => readFileSync(path, "utf8")).config, ts.sys, root);
    const files = new Map(Object.entries(codes).map(([name, code]) => [join(root, `${name}.snippet.ts`), code]));
    const disk = ts.createCompilerHost(options);
    const host: ts.CompilerHost = {
      ...disk,
      fileExists: (path) => files.has(path) || disk.fileExists(path),
      readFile: (path) => files.get(path) ?? disk.readFile(path),
      getSourceFile: (path, language, ...rest) => (files.has(path) ? ts.createSourceFile(path, files.get(path)!, language) : disk.getSourceFile(path, language, ...rest)),
    };
    const program = ts.createProgram([...files.keys()], { ...options, noUnusedLocals: false }, host);
    return [...files.keys()].flatMap((path) => {
      const file = program.getSourceFile(path)!;
      const errors = [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)];
      return errors.map(({ start = 0, messageText }) => `${path.slice(root.length + 1)}, line ${file.getLineAndCharacterOfPosition(start).line + 1}: ${ts.flattenDiagnosticMessageText(messageText, " ")}`);
    });
  }

  test("fit the types of the package", () => {
    const declared = ({ code, given }: Snippet): string => `${code}${given.map((name) => `declare const ${name}: ${typeOf(name)};\n`).join("")}export {};\n`;
    const wrong = 'import { loadModel } from "nibble-webgpu";\nvoid loadModel("a/b", { quantisation: "nf4" });\n';
    const errors = compile({ ...Object.fromEntries(modules.map((snippet) => [snippet.place.replaceAll(/[/:.]/g, "_"), declared(snippet)])), wrong });
    expect(errors).toEqual([expect.stringMatching(/^wrong.snippet.ts, line 2: .*quantisation/)]); // the control case alone
  }, 120_000);

  test("that import other packages are tried by test/package", () => {
    const names = examples.map(({ code }) => /^export function (\w+)/m.exec(code)?.[1]);
    const tried = [...read("test/package/examples.mjs").matchAll(/"(\w+)"/g)].map(([, name]) => name);
    expect(names).toContain("useModel");
    expect(names.filter((name) => !tried.includes(name))).toEqual([]);
  });

  describe("run in Node, on a small model of GPT-2's vocabulary", () => {
    const source = seededCheckpoint(tinyCheckpoints.fullVocabulary);
    let given: Record<string, unknown>;
    let model: nibble.Model;

    beforeAll(async () => {
      const text = await evaluationText();
      model = await nibble.loadModel(source);
      const files = Object.entries(source).map(([name, content]) => new File([content], name));
      const append = (): void => undefined;
      const sha256 = createHash("sha256").update(source["model.safetensors"]).digest("hex");
      given = { model, source, files, sha256, config: source["config.json"], text: text.slice(0, 400), calibration: text.slice(-800), progressCallback: append, output: { append }, bar: {}, stopButton: {} };
    }, 60_000);
    afterAll(() => model.dispose());

    beforeEach(() => {
      vi.stubGlobal("document", { baseURI: "http://page.test/", body: given.output });
      vi.stubGlobal("console", { ...console, log: () => undefined });
      const kept = new Map<string, Blob>();
      const cache = { match: async (key: string) => kept.has(key) ? new Response(kept.get(key)) : undefined, put: async (key: string, entry: Response) => void kept.set(key, await entry.blob()), delete: async (key: string) => kept.delete(key) };
      vi.stubGlobal("caches", { open: async () => cache }); // the Cache API
      vi.stubGlobal("fetch", async (input: URL) => {
        const name = input.pathname.split("/").at(-1)!.replace("model-v2", "model");
        const content = input.pathname.includes("/raw/") ? undefined : source[name as keyof typeof source]; // no LFS pointers
        return new Response(content, { status: content ? 200 : 404 });
      });
    });
    afterEach(() => vi.unstubAllGlobals());

    test.each(modules.filter(({ runs }) => runs))("$place", async ({ code, given: names }) => {
      const AsyncFunction = (async () => {}).constructor as new (...parametersAndBody: string[]) => (...values: unknown[]) => Promise<void>;
      const { outputText } = ts.transpileModule(code, { compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.CommonJS } });
      const require = (name: string): unknown => (name === "nibble-webgpu" ? nibble : {});
      const values = names.map((name) => given[name] ?? nibble[name as keyof typeof nibble]);
      await new AsyncFunction("require", "exports", ...names, outputText)(require, {}, ...values);
    }, 60_000);
  });
});

describe("commands", () => {
  /** 2 where the command line refuses what was typed; what would follow fails. */
  async function exitCode(command: string): Promise<number> {
    const words = [...command.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain!);
    const stop = (): never => {
      throw new nibble.EngineError("unsupported", "Nothing runs here.");
    };
    const silent = { write: () => undefined, isTTY: false };
    const readText = async (): Promise<string> => JSON.stringify({ linear: { type: "f16" } });
    const io = { stdout: silent, stderr: silent, signal: new AbortController().signal, readText, writeText: stop, writeStream: stop, requestGpu: async () => null, calibrate: stop, compareQuantizations: stop, exportSafetensors: stop, loadModel: stop };
    return runCli(words, io);
  }
  const shell = snippets.filter(({ language }) => language === "sh").flatMap(({ code }) => code.split("\n"));
  const commands = shell.filter((line) => line.startsWith("npx nibble ") && !line.includes("$")).map((line) => line.replace(/^npx nibble | +#.*/g, ""));

  test.each(commands)("nibble %s is one", async (command) => {
    expect(await exitCode(command)).not.toBe(2);
    expect(await exitCode(`${command} --no-such-option`)).toBe(2); // control case
  });
  test("of npm are scripts of package.json", () => {
    const { scripts } = JSON.parse(read("package.json")) as { scripts: Record<string, string> };
    const named = documents.flatMap((path) => [...read(path).matchAll(/npm run ([\w:-]+)/g)].map(([, name]) => name!));
    expect(named.length).toBeGreaterThan(0);
    expect(named.filter((name) => !(name in scripts))).toEqual([]);
  });
});

describe("links and names", () => {
  /** As GitHub makes them. */
  const anchorsOf = (path: string): string[] =>
    [...read(path).replaceAll(/^```.*?^```$/gms, "").matchAll(/^#+ (.+)$/gm)].map(([, heading]) => heading!.toLowerCase().replaceAll(/[^\p{L}\p{N}\s_-]/gu, "").replaceAll(" ", "-"));

  /** Links of a document to files and headings that do not exist. */
  function brokenLinks(path: string, text: string): string[] {
    const links = [...text.replaceAll(/^```.*?^```$/gms, "").matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target!);
    return links.filter((target) => {
      if (/^https?:/.test(target)) return false;
      const [file, anchor] = target.split("#");
      const found = file ? join(dirname(path), file) : path;
      return !existsSync(join(root, found)) || (anchor !== undefined && !anchorsOf(found).includes(anchor));
    });
  }

  test("lead to files and headings that exist", () => {
    expect(brokenLinks("README.md", "[a](docs/none.md) [b](LICENSE) [c](#nowhere)")).toEqual(["docs/none.md", "#nowhere"]); // control case
    expect(documents.flatMap((path) => brokenLinks(path, read(path)).map((target) => `${path}: ${target}`))).toEqual([]);
  });
  test("of files in the repository are names of files", () => {
    const named = documents.flatMap((path) => [...read(path).matchAll(/`((?:src|test|docs|shaders|models|demo)\/[\w./-]+)`/g)].map(([, name]) => ({ path, name: name! })));
    expect(named.filter(({ name }) => !name.startsWith("docs/api") && !existsSync(join(root, name)))).toEqual([]);
  });
  test("every guide is named by the README", () => {
    const readme = read("README.md");
    expect(documents.filter((path) => path.startsWith("docs/") && !readme.includes(`(${path})`))).toEqual([]);
  });
  test("every property, method and custom property of the panel is in its guide", () => {
    const described = read("demo/panel/panelElement.ts");
    const [, body] = /export interface PerplexityPanelElement .*?{\n(.*?)^}/ms.exec(described)!;
    const names = [...body!.matchAll(/^ {2}(\w+)[:(]/gm), ...described.matchAll(/(--[a-z-]+)/g)].map(([, name]) => name!);
    const guide = read("docs/guides/panel.md");
    expect(names).toContain("tokenLimit");
    expect(names.filter((name) => !new RegExp(`\`${name}[\`(]`).test(guide))).toEqual([]);
  });
  test("every error code has a heading in the guide to troubleshooting, and no other has", () => {
    const codes = [.../type EngineErrorCode =\n(.*?);/s.exec(read("src/errors.ts"))![1]!.matchAll(/"(\w+)"/g)].map(([, code]) => code!);
    expect(codes.length).toBeGreaterThan(5);
    expect([...read("docs/guides/troubleshooting.md").matchAll(/^## `(\w+)`$/gm)].map(([, code]) => code)).toEqual(codes);
  });
});
