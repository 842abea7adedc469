// npm run bench [-- --shapes embedded,124m,355m] [--presets int8,nf4] [--backend webgpu|cpu] [--driver lavapipe|swiftshader|system]
//   [--rounds 3] [--prefill 16,128,512] [--context 16,128,1000] [--decode 16] [--score 512] [--json FILE]
// Measures our engine in Node: Dawn on a Vulkan driver, or the CPU backend. The table goes to stdout, samples to stderr.
import type { ViteDevServer } from "vite";
import { findLavapipe, findSwiftShader, vulkanEnvironment } from "../setup/locate.mjs";
import { benchHere, commandOf, parseWords, writeReport } from "./commandLine.ts";
import type { Engine } from "./nibbleSubject.ts";
import { readOptions } from "./options.ts";

/** The repository. */
export const root = new URL("../../", import.meta.url);

export interface BenchCommand {
  engine: Engine;
  /** The server that loaded this module; not listening yet. */
  vite: ViteDevServer;
  /** Of the command line. */
  words: string[];
}

const drivers = { lavapipe: findLavapipe, swiftshader: findSwiftShader, system: () => null };

/** Makes Vulkan, and so Dawn, use one driver. */
export function chooseDriver(name = "lavapipe"): void {
  if (!(name in drivers)) throw new RangeError(`--driver is "${name}"; expected ${Object.keys(drivers).join(", ")}.`);
  Object.assign(process.env, vulkanEnvironment(drivers[name as keyof typeof drivers]())); // read when Vulkan is loaded
}

export async function main({ engine, words }: BenchCommand): Promise<void> {
  const { json, driver, ...given } = parseWords(words, ["driver"]);
  chooseDriver(driver);
  await writeReport(await benchHere(engine, readOptions({ ...given, rivals: "" }), root, { command: commandOf("bench", words) }), json);
}
