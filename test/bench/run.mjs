// Measures the engine in Node: load, prefill, decode, perplexity, and what a token costs in bytes, dispatches and submits.
// Usage: npm run bench [-- --shapes embedded,124m,355m] [--presets int8,nf4] [--backend webgpu|cpu] [--driver lavapipe|swiftshader|system]
//   [--rounds 3] [--prefill 16,128,512] [--context 16,128,1000] [--decode 16] [--score 512] [--json FILE]
// The engine is the built one; Vite turns the TypeScript of this folder into something that Node runs.
import { readFile, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import * as engine from "nibble-webgpu";
import { createServer } from "vite";
import { findLavapipe, findSwiftShader, vulkanEnvironment } from "../setup/locate.mjs";

/** @typedef {"embedded" | "124m" | "355m"} ShapeName */

const root = new URL("../../", import.meta.url);
const { values: options } = parseArgs({
  options: {
    shapes: { type: "string", default: "embedded,124m" },
    presets: { type: "string", default: "int8,nf4" },
    backend: { type: "string", default: "webgpu" },
    driver: { type: "string", default: "lavapipe" },
    rounds: { type: "string", default: "3" },
    prefill: { type: "string", default: "16,128,512" },
    context: { type: "string", default: "16,128,1000" },
    decode: { type: "string", default: "16" },
    score: { type: "string", default: "512" },
    json: { type: "string" },
  },
});

/** @param {string} list */
const numbers = (list) => list.split(",").filter(Boolean).map(Number);

/** Dawn ends the process when its GPU object is collected: it stays referenced here. @type {GPU | undefined} */
let gpu;
let adapter = "plain TypeScript on the CPU";
if (options.backend === "webgpu") {
  const drivers = { lavapipe: findLavapipe, swiftshader: findSwiftShader, system: () => null };
  const find = drivers[/** @type {keyof typeof drivers} */ (options.driver)];
  if (find === undefined) throw new RangeError(`--driver is "${options.driver}"; expected lavapipe, swiftshader or system.`);
  Object.assign(process.env, vulkanEnvironment(find())); // read when Dawn loads Vulkan
  const dawn = await import("webgpu");
  Object.assign(globalThis, dawn.globals);
  gpu = dawn.create([]);
  const { vendor, architecture, description } = (await gpu.requestAdapter())?.info ?? { vendor: "no adapter", architecture: "", description: "" };
  adapter = [vendor, architecture, description].filter(Boolean).join(" ");
}

const vite = await createServer({ mode: "test", logLevel: "error", appType: "custom", server: { middlewareMode: true, hmr: false, watch: null } });
try {
  /** @param {string} path */
  const load = (path) => vite.ssrLoadModule(path);
  const { measureSubjects } = /** @type {typeof import("./measure.ts")} */ (await load("/test/bench/measure.ts"));
  const { modelFiles, nibbleSubject } = /** @type {typeof import("./nibbleSubject.ts")} */ (await load("/test/bench/nibbleSubject.ts"));
  const { cpuCopyBandwidth, gpuCopyBandwidth } = /** @type {typeof import("./bandwidth.ts")} */ (await load("/test/bench/bandwidth.ts"));
  const { jsonLines, markdown } = /** @type {typeof import("./report.ts")} */ (await load("/test/bench/report.ts"));
  const { watchGpu } = /** @type {typeof import("../fixtures/watchDevice.ts")} */ (await load("/test/fixtures/watchDevice.ts"));

  const copyBytesPerSecond = gpu ? await gpuCopyBandwidth(gpu) : cpuCopyBandwidth();
  const counts = gpu && watchGpu(gpu);
  const plan = {
    rounds: Number(options.rounds),
    prefillTokens: numbers(options.prefill),
    contextTokens: numbers(options.context),
    decodeTokens: Number(options.decode),
    scoreTokens: Number(options.score),
  };
  /** @type {import("./report.ts").Environment} */
  const environment = {
    kind: "environment",
    command: ["npm run bench", ...(process.argv.length > 2 ? ["--"] : []), ...process.argv.slice(2)].join(" "),
    date: new Date().toISOString().slice(0, 10),
    runtime: `Node ${process.versions.node}`,
    adapter,
    processors: availableParallelism(),
    copyBytesPerSecond,
    plan,
  };

  /** @type {import("./measure.ts").Result[]} */
  const results = [];
  for (const shape of /** @type {ShapeName[]} */ (options.shapes.split(","))) {
    const files = await modelFiles(shape, (path) => readFile(new URL(path, root)));
    const subjects = [];
    for (const quantization of /** @type {engine.PresetName[]} */ (options.presets.split(","))) {
      subjects.push(await nibbleSubject(engine, { shape, files, quantization, backend: /** @type {"webgpu" | "cpu"} */ (options.backend), gpu }));
    }
    results.push(
      ...(await measureSubjects(subjects, plan, {
        counts,
        onSample: ({ subject, round, measure, tokens, value }) => process.stderr.write(`${shape} ${subject} round ${round}: ${measure} ${tokens} ${value.toFixed(1)}\n`),
      })),
    );
    for (const subject of subjects) await subject.dispose();
  }
  if (options.json !== undefined) await writeFile(options.json, jsonLines(environment, results));
  process.stdout.write(markdown(environment, results));
} finally {
  await vite.close();
}
process.exit(0); // Dawn keeps the process alive while a GPU object exists
