// Packs the library, installs the tarball in a new project, checks it, builds a page with each bundler and runs every page in Chromium.
// Usage: node test/package/run.mjs [--report file.json], after npm run build:library.
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { chromium } from "playwright";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { build as viteBuild } from "vite";
import { chromiumFlags, findChromium } from "../setup/locate.mjs";
import { builds } from "./builds.mjs";
import { budgets } from "./budgets.mjs";
import { exampleChecks } from "./examples.mjs";
import { extensionChecks } from "./extension.mjs";

const root = resolve(import.meta.dirname, "../..");
const home = mkdtempSync(join(tmpdir(), "nibble-package-"));
const project = join(home, "project");
const installed = join(project, "node_modules/nibble-webgpu");
const model = join(root, "models/stories-12m");
/** Greedy, from test/fixtures/golden: the embedded model's own words. */
const story = ", there was a little girl named Lily. She loved to";
/**
 * @typedef {{ home: string, installed: string, model: string, story: string }} Paths a folder to work in; the installed package; the embedded model, and its words
 * @typedef {{ name: string, act: () => Promise<unknown> }} Check
 */
const paths = { home, installed, model, story };

/** @type {{ name: string, error: string | null }[]} */
const results = [];
/** @param {string} name @param {() => unknown} check what it throws, or rejects with, is the failure */
async function check(name, check) {
  const startMs = performance.now();
  let error = null;
  try {
    await check();
  } catch (reason) {
    const { stdout = "" } = /** @type {{ stdout?: string }} */ (reason); // of a command that failed
    error = (reason instanceof Error ? reason.message : String(reason)) + stdout;
  }
  results.push({ name, error });
  console.log(`${error === null ? "ok    " : "FAILED"} ${name} (${Math.round(performance.now() - startMs)} ms)${error === null ? "" : `\n${error}`}`);
}

/** @param {boolean} holds @param {string} message */
function expect(holds, message) {
  if (!holds) throw new Error(message);
}

/** What it prints. @param {string} command @param {string[]} args @param {string} cwd @param {Record<string, string>} [env] */
const run = (command, args, cwd, env) => execFileSync(command, args, { cwd, env: { ...process.env, ...env }, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"], timeout: 300_000, shell: process.platform === "win32" });

/** Serves the pages under /NAME/ and the embedded model under /model/. @returns {Promise<{ address: string, close: () => void }>} */
async function serve() {
  const types = /** @type {Record<string, string>} */ ({ ".html": "text/html", ".js": "text/javascript", ".json": "application/json" });
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url ?? "/", "http://localhost").pathname);
    const file = path.startsWith("/model/") ? join(model, path.slice("/model/".length)) : join(home, "out", path.endsWith("/") ? `${path}index.html` : path);
    try {
      const body = readFileSync(file);
      response.writeHead(200, { "Content-Type": types[extname(file)] ?? "application/octet-stream", "Content-Length": body.length }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", () => listening(undefined)));
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return { address: `http://127.0.0.1:${port}/`, close: () => server.close() };
}

/**
 * What a script ships with what it imports, gzip, minified, without GPT-2's vocabulary.
 * @param {string} entry @returns {Promise<{ beginBytes: number, parts: { name: string, bytes: number }[] }>} beginBytes: what is fetched at once
 */
async function gzipBytes(entry) {
  const built = await viteBuild({ configFile: false, root: project, logLevel: "error", build: { write: false, target: "es2022", lib: { entry, formats: ["es"] }, rolldownOptions: { external: /vocabulary\.js$/, output: { minify: true } } } });
  const { output } = /** @type {import("vite").Rolldown.RolldownOutput} */ (Array.isArray(built) ? built[0] : built);
  const chunks = output.filter((chunk) => chunk.type === "chunk");
  const begin = new Set(chunks.filter(({ isEntry }) => isEntry).map(({ fileName }) => fileName));
  for (const name of begin) for (const imported of chunks.find(({ fileName }) => fileName === name)?.imports ?? []) begin.add(imported); // grows on the way
  const sizes = chunks.map(({ fileName, code }) => ({ name: fileName.replace(/-.{8}\.js$/, ""), bytes: gzipSync(code, { level: 9 }).length, isPart: !begin.has(fileName) }));
  return { beginBytes: sizes.reduce((sum, { bytes, isPart }) => sum + (isPart ? 0 : bytes), 0), parts: sizes.filter(({ isPart }) => isPart) };
}

const { values } = parseArgs({ options: { report: { type: "string" } } });
run("npm", ["pack", "--ignore-scripts", "--pack-destination", home], root);
const tarball = join(home, String(readdirSync(home).find((name) => name.endsWith(".tgz"))));

await check("the types are found as ESM from node16 and bundlers", () => run("npx", ["--no-install", "attw", tarball, "--profile", "esm-only"], root));

mkdirSync(project);
cpSync(join(import.meta.dirname, "app"), project, { recursive: true });
writeFileSync(join(project, "package.json"), JSON.stringify({ name: "app", private: true, type: "module" }));
await check("npm installs it and nothing else", () => {
  run("npm", ["install", "--offline", "--no-audit", "--no-fund", tarball], project);
  const names = readdirSync(join(project, "node_modules")).filter((name) => !name.startsWith("."));
  expect(names.join() === "nibble-webgpu", `node_modules has ${names.join(", ")}`);
});
await check("publint finds nothing", async () => {
  const { messages, pkg } = await publint({ pkgDir: installed, pack: false, strict: true });
  expect(messages.length === 0, messages.map((message) => formatMessage(message, pkg)).join("\n"));
});
/** @param {string} file of dist */
const codeOf = (file) => readFileSync(join(installed, "dist", file), "utf8");
/** Files of dist and all that they import, but for import(). @param {string[]} files @returns {string[]} */
function closureOf(files) {
  const closure = new Set(files);
  for (const file of closure) for (const [, imported] of codeOf(file).matchAll(/^(?:import|export)\b.*"\.\/([^"]+)";$/gm)) closure.add(String(imported)); // grows on the way
  return [...closure];
}
await check("nothing in it evaluates text", () => {
  for (const file of readdirSync(join(installed, "dist")).filter((name) => name.endsWith(".js") && !name.startsWith("cli"))) {
    const [found] = /\beval\(|new Function\(|from "node:/.exec(codeOf(file)) ?? [];
    expect(found === undefined, `${file} has ${found}`);
  }
});
await check("the workers and what is for service workers do without import()", () => {
  expect(closureOf(["index.js"]).some((file) => codeOf(file).includes("import(")), "index.js has no import() either"); // control case
  for (const file of closureOf(["worker.js", "quantizer.js", "static.js"])) expect(!codeOf(file).includes("import("), `${file} has import()`);
});
for (const { name, code, file, beginBytes, allBytes = Infinity } of budgets) {
  await check(`${name} takes at most ${beginBytes} bytes to begin with${allBytes < Infinity ? `, and ${allBytes} with its parts` : ""}`, async () => {
    const entry = file === undefined ? join(project, "entry.js") : join(installed, "dist", file);
    if (code !== undefined) writeFileSync(entry, code);
    const found = await gzipBytes(entry);
    const all = found.parts.reduce((sum, { bytes }) => sum + bytes, found.beginBytes);
    console.log(`       ${name}: ${found.beginBytes} bytes gzip${allBytes < Infinity ? `, ${all} with ${found.parts.map(({ name, bytes }) => `${name} ${bytes}`).join(", ")}` : ""}`);
    expect(found.beginBytes <= beginBytes && all <= allBytes, `${found.beginBytes} bytes, ${all} with its parts`);
  });
}

const server = await serve();
const browser = await chromium.launch({ executablePath: findChromium() ?? undefined, args: chromiumFlags });
/** @typedef {{ text?: string, error?: string, textHere?: string, parts?: string[], failures?: string[] }} Result textHere: of a model on the page's thread; parts: scripts that it fetched */
/** @param {string} name @param {(page: import("playwright").Page) => Promise<Result>} act @param {string} [missing] a script that the page asks for in vain at first */
async function inPage(name, act, missing) {
  const page = await browser.newPage();
  try {
    if (missing !== undefined) await page.route(`**/${missing}`, (route) => route.abort(), { times: 2 }); // by the prefetch and by the load
    await page.goto(`${server.address}${name}/`);
    const result = await act(page);
    expect(result.text === story, `the page says ${JSON.stringify(result)}`);
    return result;
  } finally {
    await page.close();
  }
}
/** @param {import("playwright").Page} page @returns {Promise<Result>} */
async function resultOf(page) {
  await page.waitForFunction(() => "result" in globalThis, null, { timeout: 120_000 });
  return page.evaluate(() => /** @type {typeof globalThis & { result: Result }} */ (globalThis).result);
}
try {
  for (const [name, build] of Object.entries(builds)) {
    await check(`${name}: a page with a model in a worker, and one that fetches its part`, async () => {
      const out = join(home, "out", name);
      await build(project, out);
      if (name !== "vite") {
        const imports = JSON.stringify({ imports: { "nibble-webgpu": "./node_modules/nibble-webgpu/dist/index.js" } });
        const map = name === "folder" ? `<script type="importmap">${imports}</script>` : "";
        writeFileSync(join(out, "index.html"), readFileSync(join(project, "index.html"), "utf8").replace("<!-- imports -->", map));
      }
      const result = await inPage(name, resultOf);
      expect(result.textHere === story && (result.parts ?? []).length > 0 && result.failures?.length === 0, `the page says ${JSON.stringify(result)}`);
    });
  }
  await check("a part that is missing fails a load by name, and not the next", async () => {
    const result = await inPage("folder", resultOf, "cpu.js");
    expect(result.textHere === story && result.failures?.join() === "network: The CPU backend", `the page says ${JSON.stringify(result)}`);
  });
  await check("a model in a service worker", () =>
    inPage("esbuild", (page) =>
      page.evaluate(async () => {
        const { active, installing, waiting } = await navigator.serviceWorker.register("serviceWorker.js", { type: "module" });
        const { port1, port2 } = new MessageChannel();
        (active ?? waiting ?? installing)?.postMessage("go", [port2]);
        return new Promise((resolve) => (port1.onmessage = (/** @type {MessageEvent<Result>} */ { data }) => resolve(data)));
      }),
    ),
  );
  for (const { name, act } of [...extensionChecks(paths), ...exampleChecks({ ...paths, run, browser, address: server.address })]) await check(name, act);
} finally {
  await browser.close();
  server.close();
  rmSync(home, { recursive: true, force: true });
}
const failures = results.filter(({ error }) => error !== null).map(({ name, error }) => `${name}: ${error}`);
console.log(`${results.length - failures.length} of ${results.length} checks of the package passed`);
if (values.report !== undefined) writeFileSync(values.report, JSON.stringify({ passed: results.length - failures.length, failed: failures.length, failures }));
if (failures.length > 0) process.exitCode = 1;
