// npm run bench [-- --shapes embedded,124m,355m] [--presets int8,nf4] [--backend webgpu|cpu] [--driver lavapipe|swiftshader|system]
//   [--rounds 3] [--prefill 16,128,512] [--context 16,128,1000] [--decode 16] [--score 512] [--json FILE]
// Measures our engine in Node: Dawn on a Vulkan driver, or the CPU backend. The table goes to stdout, samples to stderr.
import { appendFile, readFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import type { ViteDevServer } from "vite";
import { type DeviceCounts, watchGpu } from "../fixtures/watchDevice.ts";
import { findLavapipe, findSwiftShader, vulkanEnvironment } from "../setup/locate.mjs";
import { bench, type BenchReport, type Rival } from "./bench.ts";
import type { Engine } from "./nibbleSubject.ts";
import { type BenchOptions, optionDefaults, readOptions } from "./options.ts";

export interface BenchCommand {
  engine: Engine;
  /** The server that loaded this module; not listening yet. */
  vite: ViteDevServer;
  /** Of the command line. */
  words: string[];
}

export const drivers = { lavapipe: findLavapipe, swiftshader: findSwiftShader, system: () => null };
const root = new URL("../../", import.meta.url);
const kept: { gpu?: GPU } = {};

/** Words of the command line by name; every option takes a word. */
export function parseWords(words: string[], others: readonly string[]): Record<string, string | undefined> {
  const names = [...Object.keys(optionDefaults), "json", ...others];
  return parseArgs({ args: words, options: Object.fromEntries(names.map((name) => [name, { type: "string" as const }])) }).values;
}

export function commandOf(script: string, words: readonly string[]): string {
  return ["npm run", script, ...(words.length > 0 ? ["--"] : []), ...words].join(" ");
}

/** Dawn on one Vulkan driver, once in a process. It ends the process when its GPU object is collected, so that stays referenced. */
export async function openDawn(driver: string): Promise<GPU> {
  if (!(driver in drivers)) throw new RangeError(`--driver is "${driver}"; expected ${Object.keys(drivers).join(", ")}.`);
  Object.assign(process.env, vulkanEnvironment(drivers[driver as keyof typeof drivers]())); // read when Vulkan is loaded
  const dawn = await import("webgpu");
  Object.assign(globalThis, dawn.globals);
  return (kept.gpu = dawn.create([]));
}

/** Measures in this process. */
export async function benchInNode(engine: Engine, options: BenchOptions, { driver, command, rival }: { driver: string; command: string; rival?: Rival }): Promise<BenchReport> {
  const gpu = options.backend === "webgpu" ? await openDawn(driver) : undefined;
  const counts: DeviceCounts | undefined = gpu && watchGpu(gpu);
  return bench({
    engine,
    options,
    gpu,
    counts,
    rival,
    environment: { command, runtime: `Node ${process.versions.node}`, processors: availableParallelism() },
    read: (path) => readFile(new URL(path, root)),
    onLine: (line) => process.stderr.write(`${line}\n`),
  });
}

/** Prints the table, and adds the JSON lines to a file if one is named. */
export async function writeReport(report: BenchReport, jsonFile: string | undefined): Promise<void> {
  process.stdout.write(`${report.markdown}\n`);
  if (jsonFile !== undefined) await appendFile(jsonFile, report.jsonLines);
}

export async function main({ engine, words }: BenchCommand): Promise<void> {
  const { json, driver = "lavapipe", ...given } = parseWords(words, ["driver"]);
  await writeReport(await benchInNode(engine, readOptions({ ...given, rivals: "" }), { driver, command: commandOf("bench", words) }), json);
}
