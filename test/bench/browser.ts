// Runs the bench page in a browser without a window and waits for what it finds.
import { createReadStream, existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";
import { chromium } from "playwright";
import type { Connect, ViteDevServer } from "vite";
import { launchFirefox } from "../setup/firefox.mjs";
import { chromiumFlags, findChromium, findFirefox } from "../setup/locate.mjs";
import type { BenchReport } from "./bench.ts";
import type { BenchPage } from "./index.ts";

const POLL_MS = 500;
const mimeTypes: Readonly<Record<string, string>> = { ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };

export const browserNames = ["chromium", "firefox"] as const;
export type BrowserName = (typeof browserNames)[number];

/** Address of the bench page with these options. */
export async function servePage(vite: ViteDevServer, words: Readonly<Record<string, string | undefined>>): Promise<string> {
  if (!vite.httpServer?.listening) await vite.listen();
  const address = new URL("/test/bench/index.html", vite.resolvedUrls?.local[0]);
  for (const [name, value] of Object.entries(words)) if (value !== undefined) address.searchParams.set(name, value);
  return String(address);
}

/** Serves the files of a folder under `route` as they are. Stands before Vite's own handlers, which would rewrite scripts. */
export function serveFolder(vite: ViteDevServer, route: string, folder: string): void {
  const handle: Connect.NextHandleFunction = (request, response, next) => {
    const path = join(folder, normalize(request.url?.split("?")[0] ?? "/")); // connect has taken the route off
    if (!path.startsWith(folder) || !existsSync(path)) return next();
    response.writeHead(200, { "content-type": mimeTypes[extname(path)] ?? "application/octet-stream", "content-length": statSync(path).size });
    createReadStream(path).pipe(response);
  };
  vite.middlewares.stack.unshift({ route, handle });
}

/** Opens the page, prints its lines to stderr while they come in, and closes the browser. */
export async function benchInBrowser(vite: ViteDevServer, name: BrowserName, words: Readonly<Record<string, string | undefined>>): Promise<BenchReport> {
  const address = await servePage(vite, words);
  const home = mkdtempSync(join(tmpdir(), "nibble-bench-"));
  const { read, close } = name === "chromium" ? await openChromium(address) : await openFirefox(address, home);
  try {
    for (let printed = 0; ; ) {
      const { lines, report, error } = (await read()) ?? { lines: [], report: null, error: null };
      for (const line of lines.slice(printed)) process.stderr.write(`${line}\n`);
      printed = lines.length;
      if (error !== null) throw new Error(`The bench page in ${name} failed: ${error}`);
      if (report !== null) return report;
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  } finally {
    await close();
    rmSync(home, { recursive: true, force: true });
  }
}

interface OpenPage {
  read: () => Promise<BenchPage | undefined>;
  close: () => Promise<void>;
}

const readState = (): BenchPage | undefined => (globalThis as { bench?: BenchPage }).bench;

async function openChromium(address: string): Promise<OpenPage> {
  const browser = await chromium.launch({ executablePath: findChromium() ?? undefined, args: chromiumFlags });
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.error(error));
  await page.goto(address, { waitUntil: "domcontentloaded" });
  return { read: () => page.evaluate(readState), close: () => browser.close() };
}

async function openFirefox(address: string, home: string): Promise<OpenPage> {
  const executable = findFirefox();
  if (executable === null) throw new Error("No Firefox found: set FIREFOX or install firefox-esr.");
  const browser = await launchFirefox(executable, home);
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.error(error));
  await page.goto(address, { waitUntil: "domcontentloaded" });
  return { read: () => page.evaluate(readState), close: () => browser.close() };
}
