// The bench in a browser. Options stand in the address, as on the command line of npm run bench: ?shapes=embedded&presets=int8,nf4&rounds=3
import * as engine from "nibble-webgpu";
import { watchGpu } from "../fixtures/watchDevice.ts";
import { bench, type BenchReport, type Rival } from "./bench.ts";
import { type BenchOptions, readOptions } from "./options.ts";
import { type GgufFormat, isGgufFormat } from "./peers/gpt2Gguf.ts";
import { type Ort, ortRival } from "./peers/ortSubject.ts";
import { type WllamaModule, wllamaSubject } from "./peers/wllamaSubject.ts";

/** What the page found so far; browser.ts reads it, and a person can open the page in any browser. */
export interface BenchPage {
  lines: string[];
  report: BenchReport | null;
  error: string | null;
}

// Served by peers.ts.
const ORT_FOLDER = "/onnxruntime-web/";
const WLLAMA_FOLDER = "/wllama/";
const importServed = (path: string): Promise<unknown> => import(/* @vite-ignore */ new URL(path, location.href).href);

const state: BenchPage = { lines: [], report: null, error: null };
Object.assign(globalThis, { bench: state });
const log = document.querySelector("#log")!;
const print = (line: string): void => {
  state.lines.push(line);
  log.append(line, "\n");
};

async function loadRival({ backend, rivals }: BenchOptions): Promise<Rival | undefined> {
  if (rivals.length === 0) return undefined;
  if (rivals.every(isGgufFormat)) {
    const wllama = (await importServed(`${WLLAMA_FOLDER}index.min.js`)) as WllamaModule;
    return { label: "wllama", load: ({ format, ...model }) => wllamaSubject(wllama, { ...model, format: format as GgufFormat, wasm: `${WLLAMA_FOLDER}wasm/wllama.wasm` }) };
  }
  const provider = backend === "cpu" ? "wasm" : "webgpu";
  const ort = (await importServed(`${ORT_FOLDER}ort.${provider}.bundle.min.mjs`)) as Ort;
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = ORT_FOLDER;
  return ortRival(ort, { label: `ort-web ${provider}`, provider, cacheOnGpu: provider === "webgpu" });
}

try {
  const { command = location.href, ...words } = Object.fromEntries(new URLSearchParams(location.search));
  const options = readOptions(words);
  const gpu = options.backend === "webgpu" ? navigator.gpu : undefined;
  state.report = await bench({
    engine,
    options,
    gpu,
    counts: gpu && watchGpu(gpu),
    rival: await loadRival(options),
    environment: { command, runtime: navigator.userAgent, processors: navigator.hardwareConcurrency },
    read: async (path) => new Uint8Array(await (await fetch(`/${path}`)).arrayBuffer()),
    onLine: print,
  });
  log.append(`\n${state.report.markdown}\n${state.report.jsonLines}`);
} catch (error) {
  state.error = error instanceof Error ? error.message : String(error);
  print(state.error);
}
