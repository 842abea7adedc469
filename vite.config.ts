import { playwright } from "@vitest/browser-playwright";
import asc from "assemblyscript/asc";
import { createHash } from "node:crypto";
import { cpSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, resolve, sep } from "node:path";
import type { Plugin, UserConfig } from "vite";
import { defineConfig } from "vitest/config";
import { chromiumFlags, findChromium, findLavapipe, findSwiftShader, vulkanEnvironment } from "./test/setup/locate.mjs";

const root = import.meta.dirname;
/** Users and the page import the package by name; here that is the source. */
const alias = {
  "nibble-webgpu/panel": resolve(root, "demo/panel/index.ts"),
  "nibble-webgpu/safetensors": resolve(root, "src/safetensors/index.ts"),
  "nibble-webgpu": resolve(root, "src/index.ts"),
};

/** Serves models/ beside the page in development and copies it there in a build (the TypeScript in it is code, not content). */
function modelFiles(): Plugin {
  const models = resolve(root, "models");
  return {
    name: "nibble:models",
    configureServer(server) {
      server.middlewares.use((request, _response, next) => {
        if (request.url?.startsWith("/models/") && !/\.ts(\?|$)/.test(request.url)) request.url = `/@fs${root.split(sep).join("/")}${request.url}`;
        next();
      });
    },
    writeBundle({ dir }) {
      cpSync(models, resolve(dir ?? "dist-page", "models"), { recursive: true, filter: (path) => !path.endsWith(".ts") });
    },
  };
}

/** Source to module: the page and each of its workers are bundled by themselves. */
const compiled = new Map<string, string>();

/** Compiles AssemblyScript where it is imported: a file.as is a module whose default export is the WebAssembly in base64. */
function assemblyScript(): Plugin {
  return {
    name: "nibble:assemblyscript",
    async load(id) {
      const path = id.split("?")[0]!;
      if (!path.endsWith(".as")) return null;
      this.addWatchFile(path);
      const source = readFileSync(path, "utf8");
      const known = compiled.get(source);
      if (known !== undefined) return known;
      let binary: Uint8Array = new Uint8Array();
      let messages = "";
      const stderr = { write: (text: string | Uint8Array) => void (messages += text.toString()) };
      const { error } = await asc.main(["source.ts", "--outFile", "binary", "--runtime", "stub", "--noAssert", "--importMemory", "--enable", "simd", "-O3"], {
        readFile: (name) => (name === "source.ts" ? source : null),
        writeFile: (_name, content) => void (binary = content as Uint8Array),
        listFiles: () => [],
        stderr,
      });
      if (error) throw new Error(`${path}: ${error.message}\n${messages}`);
      const code = `export default "${Buffer.from(binary).toString("base64")}";`;
      compiled.set(source, code);
      return code;
    },
  };
}

/** Leaves out of built shaders what only readers need: comments, empty lines, and spaces but those between words. */
function leanShaders(): Plugin {
  return {
    name: "nibble:lean-shaders",
    apply: "build",
    enforce: "pre",
    load(id) {
      if (!id.endsWith(".wgsl?raw")) return null;
      const lean = (line: string): string => (line.startsWith("#") ? line : line.replace(/\/\/.*/, "").replace(/ *([,;:{}()=*/|&?<>[\]]+) */g, "$1").replace(/ ([+-]) (?![+-])/g, "$1").trim());
      const lines = readFileSync(id.slice(0, -"?raw".length), "utf8").split("\n");
      return `export default ${JSON.stringify(lines.map(lean).filter(Boolean).join("\n"))};`;
    },
  };
}

/** Tells the service worker what the page consists of: it names the built files, with a hash of each. */
function offlineFiles(): Plugin {
  const notNeeded = /\.(map|md)$|^serviceWorker\.js$/;
  return {
    name: "nibble:offline-files",
    writeBundle: {
      order: "post",
      sequential: true,
      handler({ dir = "dist-page" }) {
        const names = readdirSync(dir, { recursive: true, encoding: "utf8" }).filter((name) => statSync(resolve(dir, name)).isFile() && !notNeeded.test(name));
        const hash = (name: string): string => createHash("sha256").update(readFileSync(resolve(dir, name))).digest("hex").slice(0, 16);
        const files = Object.fromEntries(names.map((name) => [name.split(sep).join("/").replace(/^index\.html$/, ""), hash(name)]));
        const worker = resolve(dir, "serviceWorker.js");
        writeFileSync(worker, readFileSync(worker, "utf8").replace("PAGE_FILES", () => JSON.stringify(files)));
      },
    },
  };
}

/** Scripts that run in workers: their file in the package, without .js, and their source. */
const workers: Readonly<Record<string, string>> = {
  worker: "src/worker/engineWorker.ts",
  quantizer: "src/quantize/quantizerWorker.ts",
};

/**
 * In the package a worker is a file beside the one that starts it: new URL("./someWorker.ts", import.meta.url) becomes new URL("./name.js", import.meta.url),
 * as bundlers and plain browsers know it. It does so last, or Vite would look for that file and inline it.
 */
function packageWorkers(): Plugin {
  const nameOf = new Map(Object.entries(workers).map(([name, source]) => [resolve(root, source), name]));
  return {
    name: "nibble:workers",
    enforce: "pre",
    transform(code, id) {
      const named = code.replace(/new URL\("(\.[^"]*Worker\.ts)", import\.meta\.url\)/g, (_, path: string) => {
        const name = nameOf.get(resolve(dirname(id), path));
        if (name === undefined) throw new Error(`${id} starts ${path}, which is not in the table of workers.`);
        return `__nibble_worker_${name}__`;
      });
      return named === code ? null : { code: named, map: null };
    },
    renderChunk: (code) => ({ code: code.replace(/__nibble_worker_(\w+)__/g, (_, name) => `new URL("./${name}.js", import.meta.url)`), map: null }),
  };
}

/**
 * GPT-2's vocabulary is larger than all the code; apart, it loads in parallel and stays cached when the code changes. Page and worker are two builds;
 * with `var` in both, which Vite has set for the page alone, the chunks are equal to the byte, and one file.
 */
const vocabularyApart = { codeSplitting: { groups: [{ name: "vocabulary", test: /gpt-tokenizer/, priority: 1 }] }, topLevelVar: true };
/** A worker's engine in one file, not in one for each set of modules that some of its parts need. */
const engineTogether = { ...vocabularyApart, codeSplitting: { groups: [...vocabularyApart.codeSplitting.groups, { name: "engine", test: /src\/load\/loadModel\.ts$/ }] } };

/** The page: demo/ becomes dist-page/, with relative addresses, so that it works in any folder of any server. */
const page: UserConfig = {
  root: resolve(root, "demo"),
  base: "./",
  resolve: { alias },
  plugins: [modelFiles(), assemblyScript(), leanShaders(), offlineFiles()],
  worker: { format: "es", plugins: () => [assemblyScript(), leanShaders()], rolldownOptions: { output: engineTogether } },
  server: { host: "127.0.0.1", fs: { allow: [root] } },
  preview: { host: "127.0.0.1" },
  build: {
    outDir: resolve(root, "dist-page"),
    emptyOutDir: true,
    target: "es2022",
    sourcemap: true,
    rolldownOptions: {
      input: { page: resolve(root, "demo/index.html"), serviceWorker: resolve(root, "demo/serviceWorker.ts") },
      output: {
        entryFileNames: ({ name }) => (name === "serviceWorker" ? "serviceWorker.js" : "assets/[name]-[hash].js"), // beside the page, whose folder is then its scope
        ...vocabularyApart,
      },
    },
  },
};

/** Takes the engine's parts along, where import() is forbidden or would split what must be one file: that of fetchPart() becomes a static import. */
function partsInside(): Plugin {
  return {
    name: "nibble:parts-inside",
    enforce: "pre",
    transform(code) {
      const paths: string[] = [];
      const inside = code.replace(/\(\) => import\(("\.[^"]*")\)/g, (_, path: string) => `() => Promise.resolve(part${paths.push(path)})`);
      return paths.length === 0 ? null : { code: `${inside}\n${paths.map((path, i) => `import * as part${i + 1} from ${path};`).join("\n")}`, map: null };
    },
  };
}

/** One build of the package. shared: files by a module that goes there with all that it imports; the first of them takes what several would. */
function packageBuild(mode: "library" | "whole", entry: Readonly<Record<string, string>>, shared: Readonly<Record<string, RegExp>>): UserConfig {
  return {
    root,
    resolve: { alias },
    plugins: [assemblyScript(), leanShaders(), packageWorkers(), ...(mode === "whole" ? [partsInside()] : [])],
    publicDir: false,
    build: {
      outDir: "dist",
      emptyOutDir: mode === "library",
      target: "es2022",
      minify: false,
      sourcemap: true,
      lib: { entry, formats: ["es"] },
      rolldownOptions: {
        external: [/^node:/, "webgpu"],
        output: {
          chunkFileNames: ({ name }) => `${name === "src" ? "laboratory" : name}.js`, // what else index exports
          codeSplitting: { groups: Object.entries(shared).map(([name, test], i, { length }) => ({ name, test, priority: length - i })) },
          banner: ({ name }) => (name === "vocabulary" ? "/*! From gpt-tokenizer (MIT License): https://github.com/niieani/gpt-tokenizer */" : ""),
        },
      },
    },
  };
}

/** GPT-2's vocabulary comes along: a worker resolves no bare name without a bundler, since import maps do not reach it. */
const vocabulary = /gpt-tokenizer/;

/**
 * The package: the library in parts, the panel with Lit and its charts, and the command line. Bundlers shake a file's statements but do not split it, so
 * what one export or part needs without the others is a file: the parser, formats and recipes, the client of a worker, what every load needs.
 */
const library = packageBuild(
  "library",
  { index: "src/index.ts", safetensors: "src/safetensors/index.ts", panel: "demo/panel/index.ts", cli: "src/cli/main.ts" },
  { vocabulary, parser: /src\/(safetensors\/index|quantize\/finite)\.ts$/, recipes: /src\/quantize\/recipes\.ts$/, calls: /src\/worker\/client\.ts$/, engine: /src\/load\/loadModel\.ts$/ },
);

/** Built after it, into the same folder, what must do without import(): workers, each of which bundlers make one file, and the library for service workers. */
const whole = packageBuild(
  "whole",
  { static: "src/index.ts", ...workers },
  { vocabulary, quantizing: /src\/quantize\/matrixQuantizer\.ts$/, whole: /src\/(load\/(loadModel|compareQuantizations|fitToBudget|inspectTensor)|worker\/sentError)\.ts$/ },
);

/** Which Vulkan driver Dawn uses in Node: NIBBLE_GPU=lavapipe (default), swiftshader, or system (whatever the machine has). */
const dawnDriver = { lavapipe: findLavapipe, swiftshader: findSwiftShader, system: () => null }[process.env.NIBBLE_GPU ?? "lavapipe"];
if (dawnDriver === undefined) throw new RangeError(`NIBBLE_GPU is "${process.env.NIBBLE_GPU}"; expected lavapipe, swiftshader or system.`);

const tests = {
  root,
  plugins: [assemblyScript()],
  resolve: { alias },
  publicDir: false as const,
  server: { host: "127.0.0.1" },
  test: {
    projects: [
      { extends: true as const, test: { name: "unit", include: ["test/unit/**/*.test.ts"], environment: "node" } },
      {
        extends: true as const,
        test: {
          name: "gpu",
          include: ["test/gpu/**/*.test.ts"],
          environment: "node",
          env: { ...vulkanEnvironment(dawnDriver()), NIBBLE_GPU: process.env.NIBBLE_GPU ?? "lavapipe" },
          pool: "forks" as const,
          fileParallelism: false, // a software driver takes every core by itself
          testTimeout: 300_000,
          hookTimeout: 120_000,
        },
      },
      {
        extends: true as const,
        test: {
          name: "browser",
          include: ["test/browser/**/*.test.ts"],
          fileParallelism: false,
          testTimeout: 300_000,
          hookTimeout: 120_000,
          browser: {
            enabled: true,
            headless: true,
            screenshotFailures: false,
            provider: playwright({ launchOptions: { executablePath: findChromium() ?? undefined, args: chromiumFlags } }),
            instances: [{ browser: "chromium" as const }],
          },
        },
      },
    ],
  },
};

export default defineConfig(({ mode }) => (mode === "test" ? tests : mode === "library" ? library : mode === "whole" ? whole : page));
