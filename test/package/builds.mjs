// The example page, built from an installed package by each bundler as its users would. Every function leaves main.js and what it starts in `out`.
import nodeResolve from "@rollup/plugin-node-resolve";
import * as esbuild from "esbuild";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { rollup } from "@rollup/wasm-node";
import { build as viteBuild } from "vite";
import webpack from "webpack";

/** @typedef {(project: string, out: string) => Promise<unknown>} Build */

/** Bundlers that leave new URL("./worker.js", import.meta.url) as it is: the worker's script becomes an entry beside the page's. */
const entries = (/** @type {string} */ project) => ({ main: join(project, "main.js"), worker: "nibble-webgpu/worker", serviceWorker: join(project, "serviceWorker.js") });

/** @type {Readonly<Record<string, Build>>} */
export const builds = {
  vite: (project, out) => viteBuild({ configFile: false, root: project, base: "./", logLevel: "error", build: { outDir: out, target: "es2022" } }),

  webpack: (project, out) =>
    new Promise((resolve, reject) => {
      const config = /** @type {import("webpack").Configuration} */ ({ mode: "production", context: project, entry: "./main.js", output: { path: out, filename: "main.js", module: true }, experiments: { outputModule: true }, optimization: { minimize: false }, performance: false });
      webpack(config, (error, stats) => {
        if (error ?? stats?.hasErrors()) reject(error ?? new Error(stats?.toString({ errors: true, all: false })));
        else resolve(undefined);
      });
    }),

  esbuild: (project, out) => esbuild.build({ absWorkingDir: project, entryPoints: entries(project), outdir: out, bundle: true, splitting: true, format: "esm", minify: true, logLevel: "error", target: "es2022" }),

  rollup: async (project, out) => {
    const bundle = await rollup({ input: entries(project), plugins: [nodeResolve({ rootDir: project })], onwarn: () => undefined });
    await bundle.write({ dir: out, format: "es", entryFileNames: "[name].js" });
    await bundle.close();
  },

  /** No bundler: the files of the packages as they are, and an import map for the page. */
  folder: async (project, out) => {
    cpSync(join(project, "node_modules"), join(out, "node_modules"), { recursive: true });
    cpSync(join(project, "main.js"), join(out, "main.js"));
  },
};
