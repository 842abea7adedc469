// npm run bench:peers [-- --contests wasm,node,chromium] [--driver lavapipe] [--json FILE] and the options of npm run bench
// Our engine beside onnxruntime, on ONNX models that are made from the same weights: same shape, same bits, same process or page, in turn.
//   wasm      Chromium: our CPU backend and onnxruntime-web's WASM provider, one thread
//   chromium  Chromium: our WebGPU backend and onnxruntime-web's, on SwiftShader
//   node      Node: our WebGPU backend and onnxruntime-node's, on --driver
// The rivals are large, so they are no dependencies of this package; the command says how to install them where they are missing.
import { createRequire } from "node:module";
import { dirname } from "node:path";
import { benchInBrowser, serveFolder } from "./browser.ts";
import { benchHere, commandOf, parseWords, writeReport } from "./commandLine.ts";
import { type BenchCommand, chooseDriver, root } from "./node.ts";
import { type OptionWords, readOptions } from "./options.ts";
import type { Ort } from "./peers/ortSubject.ts";

const VERSION = "1.30.0";
const INSTALL = `npm install --no-save --ignore-scripts onnxruntime-web@${VERSION} onnxruntime-node@${VERSION}`;
const require = createRequire(import.meta.url);

/** What differs between the contests, and what is measured unless the command line says otherwise. */
const contests: Readonly<Record<string, Partial<OptionWords> & { backend: "webgpu" | "cpu" }>> = {
  wasm: { backend: "cpu", shapes: "124m", rivals: "q8,q8-dynamic,q4", prefill: "16,128", context: "128" },
  // onnxruntime takes 8 s and more for a token on SwiftShader.
  chromium: { backend: "webgpu", shapes: "124m", rivals: "q8,q4", rounds: "1", prefill: "16", context: "16", decode: "2" },
  node: { backend: "webgpu", shapes: "124m", rivals: "q8,q4", prefill: "16,128", context: "128", decode: "8" },
};

/** Path of the script that `require(name)` would run; onnxruntime-web's lies beside its builds for browsers. */
function findPackage(name: string): string {
  try {
    return require.resolve(name);
  } catch (cause) {
    throw new Error(`${name} is not installed; run: ${INSTALL}`, { cause });
  }
}

export async function main({ engine, vite, words }: BenchCommand): Promise<void> {
  const { json, driver, contests: chosen = Object.keys(contests).join(","), ...given } = parseWords(words, ["driver", "contests"]);
  const command = commandOf("bench:peers", words);
  for (const name of chosen.split(",")) {
    const contest = contests[name];
    if (!contest) throw new RangeError(`--contests has "${name}"; expected ${Object.keys(contests).join(", ")}.`);
    const optionWords = { score: "0", ...contest, ...given, backend: contest.backend };
    const options = readOptions(optionWords);
    if (name === "node") {
      const ort = require(findPackage("onnxruntime-node")) as Ort;
      chooseDriver(driver);
      await writeReport(await benchHere(engine, options, root, { command, rival: { ort, label: "ort-node webgpu", provider: "webgpu", cacheOnGpu: false } }), json);
    } else {
      serveFolder(vite, "/onnxruntime-web", dirname(findPackage("onnxruntime-web")));
      await writeReport(await benchInBrowser(vite, "chromium", { ...optionWords, command }), json);
    }
  }
}
