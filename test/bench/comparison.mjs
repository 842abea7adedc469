// Measures what docs/comparison.md says in numbers and writes it there: what a page downloads, and the speed beside onnxruntime-web and wllama.
// Usage: npm run comparison [-- --tables payload,speed] [--print] [-- options of npm run bench:peers]; --print leaves the page as it is.
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, extname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { transform } from "esbuild";
import { chromium } from "playwright";
import { build, preview } from "vite";
import { chromiumFlags, findChromium } from "../setup/locate.mjs";
import { rivalFolder } from "./rivals.mjs";

const root = resolve(import.meta.dirname, "../..");
const page = join(root, "docs/comparison.md");

/** What a page of each fetches before the weights: a package, and its files. @type {[name: string, files: [spec: string, ...paths: string[]][]][]} */
const rivals = [
  [
    "transformers.js 4.3.1, WebGPU",
    [
      ["@huggingface/transformers@4.3.1", "dist/transformers.web.min.js"],
      ["onnxruntime-web@1.31.0-dev.20260914-8d85527a0", "dist/ort.webgpu.bundle.min.mjs", "dist/ort-wasm-simd-threaded.asyncify.wasm"], // as its package.json says
    ],
  ],
  ["onnxruntime-web 1.30.0 alone, CPU", [["onnxruntime-web@1.30.0", "dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"]]],
  ["WebLLM 0.2.86, and a library per model", [["@mlc-ai/web-llm@0.2.86", "lib/index.js"]]],
  ["wllama 3.8.1", [["@wllama/wllama@3.8.1", "esm/index.min.js", "esm/wasm/wllama.wasm"]]],
];

/** Runs a page with loadModel as Vite builds it in Chromium. @param {"webgpu" | "cpu"} backend @returns {Promise<string[]>} the scripts that it fetched until it had written a token */
async function fetchedScripts(backend) {
  const home = mkdtempSync(join(tmpdir(), "nibble-payload-"));
  const script = `import { loadModel } from "nibble-webgpu";
    const model = await loadModel(new URL("./model/", location.href), { backend: "${backend}", cache: "none" });
    globalThis.text = (await model.complete("Once upon a time", { maxTokens: 1 })).text;`;
  mkdirSync(join(home, "public"));
  cpSync(join(root, "models/stories-12m"), join(home, "public/model"), { recursive: true });
  writeFileSync(join(home, "main.js"), script);
  writeFileSync(join(home, "index.html"), '<!doctype html><script type="module" src="./main.js"></script>');
  await build({ configFile: false, root: home, base: "./", logLevel: "error", build: { target: "es2022" }, resolve: { alias: { "nibble-webgpu": join(root, "dist/index.js") } } });
  /** @type {Set<string>} */
  const fetched = new Set();
  const server = await preview({
    configFile: false,
    root: home,
    logLevel: "error",
    preview: { host: "127.0.0.1", port: 0 },
    plugins: [{ name: "fetched", configurePreviewServer: ({ middlewares }) => void middlewares.use((request, _, next) => (fetched.add(String(request.url)), next())) }],
  });
  const browser = await chromium.launch({ executablePath: findChromium() ?? undefined, args: chromiumFlags });
  try {
    const tab = await browser.newPage();
    await tab.goto(String(server.resolvedUrls?.local[0]));
    await tab.waitForFunction(() => "text" in globalThis, null, { timeout: 300_000 });
    return [...fetched].filter((url) => url.endsWith(".js")).map((url) => readFileSync(join(home, "dist", url), "utf8"));
  } finally {
    await browser.close();
    await server.close();
    rmSync(home, { recursive: true, force: true });
  }
}

/** @param {Uint8Array | string} content */
const gzipBytes = (content) => gzipSync(content, { level: 9 }).length;
/** @param {number} bytes */
const size = (bytes) => (bytes < 999_500 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

/** @param {string} name @param {string[]} scripts minified here, as a bundler would @param {Uint8Array[]} [wasm] */
async function payloadRow(name, scripts, wasm = []) {
  const minified = await Promise.all(scripts.map(async (code) => (await transform(code, { minify: true, target: "es2022" })).code));
  const sum = (/** @type {number[]} */ values) => values.reduce((a, b) => a + b, 0);
  const javaScriptBytes = sum(minified.map((code) => Buffer.byteLength(code)));
  const wasmBytes = sum(wasm.map(({ length }) => length));
  return `| ${name} | ${size(javaScriptBytes)} | ${wasmBytes === 0 ? "—" : size(wasmBytes)} | ${size(sum([...minified, ...wasm].map(gzipBytes)))} |\n`;
}

async function payloadTable() {
  const rows = ["| | JavaScript, minified | WebAssembly | together, gzip |\n| --- | ---: | ---: | ---: |\n"];
  rows.push(await payloadRow("Nibble, WebGPU", await fetchedScripts("webgpu")));
  rows.push(await payloadRow("Nibble, CPU, its WebAssembly inside", await fetchedScripts("cpu")));
  rows.push(await payloadRow("of either, GPT-2's vocabulary", [readFileSync(join(root, "dist/vocabulary.js"), "utf8")]));
  for (const [name, packages] of rivals) {
    const files = packages.flatMap(([spec, ...paths]) => paths.map((path) => join(rivalFolder(spec), path)));
    const [wasm, scripts] = [files.filter((path) => extname(path) === ".wasm"), files.filter((path) => extname(path) !== ".wasm")];
    rows.push(await payloadRow(name, scripts.map((path) => readFileSync(path, "utf8")), wasm.map((path) => readFileSync(path))));
  }
  return `${rows.join("")}\nMade by \`npm run comparison\` on ${new Date().toISOString().slice(0, 10)}.\n`;
}

/** @param {string[]} words */
const speedTables = (words) => execFileSync(process.execPath, [join(root, "test/bench/run.mjs"), "peers", "--contests", "wasm,wllama,chromium", ...words], { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });

const { values, positionals } = parseArgs({ allowPositionals: true, options: { tables: { type: "string", default: "payload,speed" }, print: { type: "boolean", default: false } } });
for (const name of values.tables.split(",")) {
  const table = name === "payload" ? await payloadTable() : name === "speed" ? speedTables(positionals) : null;
  if (table === null) throw new RangeError(`--tables has "${name}"; expected payload, speed.`);
  console.log(table);
  if (values.print) continue;
  const text = readFileSync(page, "utf8");
  const [begin, end] = [`<!-- ${name}:begin -->\n`, `<!-- ${name}:end -->`];
  if (text.split(begin).length !== 2 || text.split(end).length !== 2) throw new Error(`${basename(page)} has not ${begin.trim()} and ${end} once each.`);
  writeFileSync(page, text.slice(0, text.indexOf(begin) + begin.length) + table + text.slice(text.indexOf(end)));
}
