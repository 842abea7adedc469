import { playwright } from "@vitest/browser-playwright";
import asc from "assemblyscript/asc";
import { cpSync, readFileSync } from "node:fs";
import { dirname, resolve, sep } from "node:path";
import type { Plugin, UserConfig } from "vite";
import { defineConfig } from "vitest/config";
import { chromiumFlags, findChromium, findLavapipe, findSwiftShader, vulkanEnvironment } from "./test/setup/locate.mjs";

const root = import.meta.dirname;
/** Users and the page import the package by name; here that is the source. */
const alias = {
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

/** Compiles AssemblyScript where it is imported: a file.as is a module whose default export is the WebAssembly in base64. */
function assemblyScript(): Plugin {
  return {
    name: "nibble:assemblyscript",
    async load(id) {
      const path = id.split("?")[0]!;
      if (!path.endsWith(".as")) return null;
      this.addWatchFile(path);
      const source = readFileSync(path, "utf8");
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
      return `export default "${Buffer.from(binary).toString("base64")}";`;
    },
  };
}

/** Leaves out of built shaders what only readers need: comments, indentation, empty lines. */
function leanShaders(): Plugin {
  return {
    name: "nibble:lean-shaders",
    apply: "build",
    enforce: "pre",
    load(id) {
      if (!id.endsWith(".wgsl?raw")) return null;
      const lines = readFileSync(id.slice(0, -"?raw".length), "utf8").split("\n");
      return `export default ${JSON.stringify(lines.map((line) => line.replace(/\/\/.*/, "").trim()).filter(Boolean).join("\n"))};`;
    },
  };
}

/** Scripts that run in workers: their file in the package, without .js, and their source. */
const workers: Readonly<Record<string, string>> = {
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

/** The page: demo/ becomes dist-page/, with relative addresses, so that it works in any folder of any server. */
const page: UserConfig = {
  root: resolve(root, "demo"),
  base: "./",
  resolve: { alias },
  plugins: [modelFiles(), assemblyScript(), leanShaders()],
  worker: { format: "es", plugins: () => [assemblyScript(), leanShaders()] },
  server: { host: "127.0.0.1", fs: { allow: [root] } },
  preview: { host: "127.0.0.1" },
  build: { outDir: resolve(root, "dist-page"), emptyOutDir: true, target: "es2022", sourcemap: true, chunkSizeWarningLimit: 1500 /* kB; GPT-2's vocabulary is most of it */ },
};

/** The package: the library without its dependency, its workers, and the command line. */
const library: UserConfig = {
  root,
  plugins: [assemblyScript(), leanShaders(), packageWorkers()],
  publicDir: false,
  build: {
    outDir: "dist",
    target: "es2022",
    minify: false,
    sourcemap: true,
    lib: {
      entry: { index: "src/index.ts", safetensors: "src/safetensors/index.ts", cli: "src/cli/main.ts", ...workers },
      formats: ["es"],
    },
    rolldownOptions: {
      external: [/^node:/, /^gpt-tokenizer/, "webgpu"],
      // What index.js and cli.js share; safetensors.js stays apart, so that it can be used without the engine.
      output: { chunkFileNames: ({ name }) => ({ src: "engine.js", safetensors: "parser.js" })[name] ?? "[name].js" },
    },
  },
};

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

export default defineConfig(({ mode }) => (mode === "test" ? tests : mode === "library" ? library : page));
