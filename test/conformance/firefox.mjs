// Runs the conformance suite in a stock Firefox, whose shader compiler (naga) is not the one that Chromium and Node's Dawn share.
// Usage: node test/conformance/firefox.mjs [filter] [--report file.json]
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createServer } from "vite";
import { launchFirefox } from "../setup/firefox.mjs";
import { findFirefox } from "../setup/locate.mjs";

const limitMs = Number(process.env.FIREFOX_LIMIT_MS ?? 600_000);

/**
 * Opens the page and prints its results while they come in.
 * @param {import("puppeteer-core").Browser} browser
 * @param {string} url
 * @returns {Promise<import("./page.ts").ConformancePage>}
 */
async function run(browser, url) {
  const page = await browser.newPage();
  page.setDefaultTimeout(limitMs);
  page.on("pageerror", (error) => console.error(error));
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warn") console.error(message.text());
  });
  await page.goto(url, { waitUntil: "domcontentloaded" });
  const read = () => page.evaluate(() => /** @type {typeof globalThis & { conformance?: import("./page.ts").ConformancePage }} */ (globalThis).conformance);
  const deadlineMs = Date.now() + limitMs;
  let printed = 0;
  for (;;) {
    const state = await read();
    for (const { name, ok, detail, ms } of state?.results.slice(printed) ?? []) {
      console.log(`${ok ? "ok    " : "FAILED"} ${name} (${Math.round(ms)} ms) ${detail}`);
      printed++;
    }
    if (state?.done) return state;
    if (Date.now() > deadlineMs) throw new Error(`Firefox did not finish within ${limitMs} ms; ${printed} case(s) had ended.`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const { positionals, values } = parseArgs({ allowPositionals: true, options: { report: { type: "string" } } });
const firefox = findFirefox();
if (firefox === null) {
  console.error("No Firefox found: set FIREFOX or install firefox-esr.");
  process.exit(1);
}
const home = mkdtempSync(join(tmpdir(), "nibble-firefox-"));
const server = await createServer({ mode: "test", logLevel: "error", server: { host: "127.0.0.1", port: 0, hmr: false, watch: null } });
await server.listen();
let browser = null;
try {
  browser = await launchFirefox(firefox, home, limitMs);
  const address = new URL("/test/conformance/index.html", server.resolvedUrls?.local[0]);
  if (positionals[0] !== undefined) address.searchParams.set("filter", positionals[0]);
  const { adapter, results, error } = await run(browser, String(address));
  const passed = results.filter((result) => result.ok).length;
  console.log(`${await browser.version()}, adapter ${adapter || "none"}: ${passed} of ${results.length} cases passed`);
  if (error !== null) console.error(error);
  if (results.length === 0) console.error("No case ran.");
  if (error !== null || results.length === 0 || passed < results.length) process.exitCode = 1;
  if (values.report !== undefined) writeFileSync(values.report, JSON.stringify({ passed, failed: results.length - passed, failures: results.filter(({ ok }) => !ok).map(({ name, detail }) => `${name}: ${detail}`), error }));
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  await browser?.close();
  await server.close();
  rmSync(home, { recursive: true, force: true });
}
