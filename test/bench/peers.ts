// npm run bench:peers [-- --contests wasm,wllama,chromium,node] [--driver lavapipe] [--json FILE] and the options of npm run bench
// Our engine beside onnxruntime and wllama (llama.cpp), on models that are made from the same weights: same shape, same bits, same process or page, in turn.
//   wasm      Chromium: our CPU backend and onnxruntime-web's WASM provider, one thread
//   wllama    Chromium: our CPU backend and wllama's, one thread
//   chromium  Chromium: our WebGPU backend and onnxruntime-web's, on SwiftShader
//   node      Node: our WebGPU backend and onnxruntime-node's, on --driver
// What runs in a page is fetched where it is missing; of onnxruntime-node, which has binaries, the command says how to install it.
import { createRequire } from "node:module";
import { join } from "node:path";
import { benchInBrowser, serveFolder } from "./browser.ts";
import { benchHere, commandOf, parseWords, writeReport } from "./commandLine.ts";
import { type BenchCommand, chooseDriver, root } from "./node.ts";
import { type OptionWords, readOptions } from "./options.ts";
import { type Ort, ortRival } from "./peers/ortSubject.ts";
import { rivalFolder } from "./rivals.mjs";

const VERSION = "1.30.0";
const WLLAMA = "@wllama/wllama@3.8.1";
const INSTALL = `npm install --no-save --ignore-scripts onnxruntime-node@${VERSION}`;
const require = createRequire(import.meta.url);

/** What differs between the contests, and what is measured unless the command line says otherwise. */
const contests: Readonly<Record<string, Partial<OptionWords> & { backend: "webgpu" | "cpu" }>> = {
  wasm: { backend: "cpu", shapes: "124m", presets: "int8-dynamic,int8,nf4", rivals: "q8-dynamic,q4", prefill: "16,128", context: "128", decode: "8" },
  wllama: { backend: "cpu", shapes: "124m", presets: "int8-dynamic,int8,nf4", rivals: "q8_0,q4_0", prefill: "16,128", context: "128", decode: "8" },
  // onnxruntime takes 8 s and more for a token on SwiftShader.
  chromium: { backend: "webgpu", shapes: "124m", rivals: "q8,q4", rounds: "1", prefill: "16", context: "16", decode: "2" },
  node: { backend: "webgpu", shapes: "124m", rivals: "q8,q4", prefill: "16,128", context: "128", decode: "8" },
};

function requireNodeRuntime(): Ort {
  try {
    return require("onnxruntime-node") as Ort;
  } catch (cause) {
    throw new Error(`onnxruntime-node is not installed; run: ${INSTALL}`, { cause });
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
      const ort = requireNodeRuntime();
      chooseDriver(driver);
      await writeReport(await benchHere(engine, options, root, { command, rival: ortRival(ort, { label: "ort-node webgpu", provider: "webgpu", cacheOnGpu: false }) }), json);
    } else {
      serveFolder(vite, "/onnxruntime-web", join(rivalFolder(`onnxruntime-web@${VERSION}`), "dist"));
      serveFolder(vite, "/wllama", join(rivalFolder(WLLAMA), "esm"));
      await writeReport(await benchInBrowser(vite, "chromium", { ...optionWords, command }), json);
    }
  }
}
