import { appendFile, readFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { watchGpu } from "../fixtures/watchDevice.ts";
import { bench, type BenchReport, type Rival } from "./bench.ts";
import type { Engine } from "./nibbleSubject.ts";
import { type BenchOptions, optionDefaults } from "./options.ts";

/** Dawn ends the process when its GPU object is collected: it stays referenced here, one for the whole process. */
const kept: { gpu?: GPU } = {};

/** Words of the command line by name; every option takes a word. */
export function parseWords(words: string[], others: readonly string[]): Record<string, string | undefined> {
  const names = [...Object.keys(optionDefaults), "json", ...others];
  return parseArgs({ args: words, options: Object.fromEntries(names.map((name) => [name, { type: "string" as const }])) }).values;
}

/** What was typed, for the report. */
export function commandOf(script: string, words: readonly string[]): string {
  return ["npm run", script, ...(words.length > 0 ? ["--"] : []), ...words].join(" ");
}

/** Measures in this Node process; `folder` holds models/. */
export async function benchHere(engine: Engine, options: BenchOptions, folder: URL, { command, rival }: { command: string; rival?: Rival }): Promise<BenchReport> {
  const gpu = options.backend === "webgpu" ? await openDawn() : undefined;
  return bench({
    engine,
    options,
    gpu,
    counts: gpu && watchGpu(gpu),
    rival,
    environment: { command, runtime: `Node ${process.versions.node}`, processors: availableParallelism() },
    read: (path) => readFile(new URL(path, folder)),
    onLine: (line) => process.stderr.write(`${line}\n`),
  });
}

/** Dawn on the Vulkan driver that the environment names. */
async function openDawn(): Promise<GPU> {
  const dawn = await import("webgpu");
  Object.assign(globalThis, dawn.globals);
  return (kept.gpu ??= dawn.create([]));
}

/** Prints the table, and adds the JSON lines to a file if one is named. */
export async function writeReport(report: BenchReport, jsonFile: string | undefined): Promise<void> {
  process.stdout.write(`${report.markdown}\n`);
  if (jsonFile !== undefined) await appendFile(jsonFile, report.jsonLines);
}
