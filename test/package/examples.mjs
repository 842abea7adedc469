// The package beside what others make: in Node, Deno and Bun; the guides' examples for React and the Vercel AI SDK; OpenAI's own client.
import assert from "node:assert/strict";
import * as esbuild from "esbuild";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { findLavapipe, vulkanEnvironment } from "../setup/locate.mjs";
import { resultsOf } from "./resultsOf.mjs";

const root = resolve(import.meta.dirname, "../..");

/** The guide's snippet that exports this function. @param {string} name */
function snippet(name) {
  const guide = readFileSync(join(root, "docs/guides/embedding.md"), "utf8");
  const code = [...guide.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code]) => code).find((code) => code?.includes(`export function ${name}(`));
  assert(code !== undefined, `docs/guides/embedding.md exports no ${name}()`);
  return code;
}

/**
 * @param {import("./run.mjs").Paths & { run: (command: string, args: string[], cwd: string, env?: Record<string, string>) => string, browser: import("playwright").Browser, address: string }} context
 * @returns {import("./run.mjs").Check[]}
 */
export function exampleChecks({ home, installed, model, story, run, browser, address }) {
  const project = join(home, "examples");
  const modules = join(project, "node_modules");

  /** @typedef {{ text: string, by: string, notices: string[] }} Written */
  /** @param {string} command @param {string[]} args @param {"cpu" | "webgpu"} backend */
  function inRuntime(command, args, backend) {
    /** @type {{ direct: Written, inWorker?: Written }} */
    const results = JSON.parse(run(command, [...args, "runtime.mjs", model, backend], project, vulkanEnvironment(findLavapipe())));
    return results;
  }
  /** @param {string} name a script of the project @returns {Promise<unknown>} */
  async function inPage(name) {
    const outdir = join(home, "out", name);
    await esbuild.build({ absWorkingDir: project, entryPoints: { main: `${name}.ts` }, outdir, bundle: true, format: "esm", logLevel: "error", target: "es2022", define: { "process.env.NODE_ENV": '"development"' } });
    cpSync(join(import.meta.dirname, "app/index.html"), join(outdir, "index.html"));
    const page = await browser.newPage();
    try {
      return await resultsOf(page, `${address}${name}/`);
    } finally {
      await page.close();
    }
  }
  const byCpu = { text: story, by: "WASM SIMD on the CPU", notices: [] };
  const usage = { inputTokens: 4, outputTokens: 12, totalTokens: 16 };

  return [
    {
      name: "npm installs Deno, Bun, React, the AI SDK and OpenAI's client, at the versions that are locked",
      async act() {
        cpSync(join(import.meta.dirname, "examples"), project, { recursive: true });
        run("npm", ["ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"], project);
        run(process.execPath, ["install.js"], join(modules, "bun")); // puts the platform's binary in its place
        cpSync(installed, join(modules, "nibble-webgpu"), { recursive: true });
        cpSync(join(root, "node_modules/webgpu"), join(modules, "webgpu"), { recursive: true });
        for (const name of ["useModel", "toLanguageModel"]) writeFileSync(join(project, `${name}.ts`), snippet(name));
      },
    },
    ...[
      { name: "Node", command: process.execPath, args: [], inWorker: undefined },
      { name: "Deno", command: join(modules, ".bin/deno"), args: ["run", "--allow-all"], inWorker: byCpu },
      { name: "Bun", command: join(modules, ".bin/bun"), args: [], inWorker: byCpu },
    ].flatMap(({ name, command, args, inWorker }) => [
      { name: `${name} writes with it on the CPU`, act: async () => assert.deepEqual(inRuntime(command, args, "cpu"), { direct: byCpu, ...(inWorker && { inWorker }) }) },
      {
        name: `${name} writes with it on WebGPU, lavapipe`,
        async act() {
          const { direct } = inRuntime(command, args, "webgpu");
          assert.match(direct.by, /llvmpipe/);
          assert.deepEqual(direct, { ...byCpu, by: direct.by });
        },
      },
    ]),
    {
      name: "the examples fit the types of React, the AI SDK and OpenAI's client",
      act: async () => run(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", "."], project),
    },
    {
      name: "the guide's React hook loads, aborts and disposes as its component comes and goes",
      act: async () => assert.deepEqual(await inPage("react"), { text: story, loadsAlive: 1, meanwhile: { model: null, error: null, first: "disposed" }, code: "checkpoint", areAborted: true, complaints: [] }),
    },
    {
      name: "the guide's language model serves the AI SDK: whole, streamed, stopped, aborted",
      act: async () =>
        assert.deepEqual(await inPage("languageModel"), {
          whole: { text: story, finishReason: "length", usage, warnings: [] },
          streamed: { text: story, finishReason: "length", usage },
          stopped: { text: story.slice(0, story.indexOf(" named")), finishReason: "stop" },
          aborted: { isShort: true, aborts: 1 },
          after: { text: story, warnings: [{ type: "unsupported", feature: "tools" }] },
        }),
    },
    {
      name: "toOpenAI() answers what OpenAI's client reads, whole and in chunks",
      async act() {
        const { text, streamedText, usage, whole, chunks } = /** @type {Record<"text" | "streamedText", string> & Record<"usage" | "whole" | "chunks", [unknown, unknown]>} */ (await inPage("openai"));
        assert.equal(text, `Once upon a time${story.slice(0, story.indexOf(" loved"))}`);
        assert.equal(streamedText, text);
        for (const [direct, other] of [usage, whole, chunks]) assert.deepEqual(other, direct);
      },
    },
  ];
}
