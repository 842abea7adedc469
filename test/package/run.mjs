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

/** What a page that imports these names ships, gzip, minified, without GPT-2's vocabulary. @param {string} code @returns {Promise<number>} */
async function gzipBytes(code) {
  const entry = join(project, "entry.js");
  writeFileSync(entry, code);
  const built = await viteBuild({ configFile: false, root: project, logLevel: "error", build: { write: false, target: "es2022", lib: { entry, formats: ["es"] }, rolldownOptions: { external: /vocabulary\.js$/, output: { minify: true } } } });
  const { output } = /** @type {import("vite").Rolldown.RolldownOutput} */ (Array.isArray(built) ? built[0] : built);
  return output.reduce((bytes, chunk) => bytes + (chunk.type === "chunk" && chunk.isEntry ? gzipSync(chunk.code, { level: 9 }).length : 0), 0);
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
await check("nothing in it evaluates text, and only the panel imports late", () => {
  const dist = join(installed, "dist");
  for (const file of readdirSync(dist).filter((name) => name.endsWith(".js") && !name.startsWith("cli"))) {
    const code = readFileSync(join(dist, file), "utf8");
    const [found] = /\bimport\(|\beval\(|new Function\(|from "node:/.exec(file === "panel.js" ? code.replace('import("./plots.js")', "") : code) ?? []; // its charts
    expect(found === undefined, `${file} has ${found}`);
  }
});
for (const { name, code, budgetBytes } of budgets) {
  await check(`${name} takes at most ${budgetBytes} bytes`, async () => {
    const bytes = await gzipBytes(code);
    console.log(`       ${name}: ${bytes} bytes gzip`);
    expect(bytes <= budgetBytes, `${bytes} bytes`);
  });
}

const server = await serve();
const browser = await chromium.launch({ executablePath: findChromium() ?? undefined, args: chromiumFlags });
/** @typedef {{ text?: string, error?: string }} Result */
/** @param {string} name @param {(page: import("playwright").Page) => Promise<Result>} act */
async function inPage(name, act) {
  const page = await browser.newPage();
  try {
    await page.goto(`${server.address}${name}/`);
    const result = await act(page);
    expect(result.text === story, `the page says ${JSON.stringify(result)}`);
  } finally {
    await page.close();
  }
}
try {
  for (const [name, build] of Object.entries(builds)) {
    await check(`${name}: a page with a model in a worker`, async () => {
      const out = join(home, "out", name);
      await build(project, out);
      if (name !== "vite") {
        const imports = JSON.stringify({ imports: { "nibble-webgpu": "./node_modules/nibble-webgpu/dist/index.js" } });
        const map = name === "folder" ? `<script type="importmap">${imports}</script>` : "";
        writeFileSync(join(out, "index.html"), readFileSync(join(project, "index.html"), "utf8").replace("<!-- imports -->", map));
      }
      await inPage(name, async (page) => {
        await page.waitForFunction(() => "result" in globalThis, null, { timeout: 120_000 });
        return page.evaluate(() => /** @type {typeof globalThis & { result: Result }} */ (globalThis).result);
      });
    });
  }
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
