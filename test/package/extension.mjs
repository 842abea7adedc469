// A Manifest V3 extension with the package's files in it, in Chromium: a model in a worker of its page, and one in its service worker.
import assert from "node:assert/strict";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright";
import { chromiumFlags, findChromium } from "../setup/locate.mjs";
import { resultsOf } from "./resultsOf.mjs";

/** Content-Security-Policy of the extension, and what the CPU backend computes with under it. */
const policies = /** @type {const} */ ([
  ["script-src 'self' 'wasm-unsafe-eval'", "WASM SIMD on the CPU"],
  ["script-src 'self'", "plain TypeScript on the CPU"],
]);

/** @param {import("./run.mjs").Paths} paths @returns {import("./run.mjs").Check[]} */
export const extensionChecks = ({ home, installed, model, story }) =>
  policies.map(([policy, by], i) => ({
    name: `an extension under ${policy}: a model in its page's worker, one in its service worker`,
    async act() {
      const folder = join(home, `extension${i}`);
      cpSync(join(import.meta.dirname, "extension"), folder, { recursive: true });
      cpSync(join(installed, "dist"), join(folder, "nibble"), { recursive: true });
      cpSync(model, join(folder, "model"), { recursive: true });
      const manifest = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8"));
      writeFileSync(join(folder, "manifest.json"), JSON.stringify({ ...manifest, content_security_policy: { extension_pages: policy } }));

      const args = [...chromiumFlags, `--disable-extensions-except=${folder}`, `--load-extension=${folder}`];
      const context = await chromium.launchPersistentContext(join(home, `profile${i}`), { executablePath: findChromium() ?? undefined, args, ignoreDefaultArgs: ["--disable-extensions"] });
      try {
        const serviceWorker = context.serviceWorkers()[0] ?? (await context.waitForEvent("serviceworker"));
        const page = await context.newPage();
        assert.deepEqual(await resultsOf(page, new URL("page.html", serviceWorker.url()).href), { page: { text: story, by }, serviceWorker: { text: story, by } });
      } finally {
        await context.close();
      }
    },
  }));
