import { expect, test } from "@playwright/test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { extname, resolve } from "node:path";
import type { LoadOptions, Model } from "../../src/types.ts";
import { serveCheckpoint } from "../fixtures/checkpointServer.ts";
import { tolerances } from "../tolerances.ts";

const root = resolve(import.meta.dirname, "../..");

/** A page that has the built package as a plain browser finds it, without a bundler. */
const html = `<!doctype html><title>memory</title>
<script type="importmap">{ "imports": { "gpt-tokenizer/bpeRanks/r50k_base": "/node_modules/gpt-tokenizer/esm/bpeRanks/r50k_base.js" } }</script>
<script type="module">
  import { loadModel } from "/dist/index.js";
  window.longTasksMs = [];
  new PerformanceObserver((list) => window.longTasksMs.push(...list.getEntries().map(({ duration }) => duration))).observe({ type: "longtask" });
  window.load = (options) => loadModel("/model/", options);
</script>`;

declare global {
  interface Window {
    longTasksMs: number[];
    load: (options: LoadOptions) => Promise<Model>;
  }
}

function content(path: string): { type: string; body: string | Uint8Array } | null {
  if (path === "/") return { type: "text/html", body: html };
  const file = resolve(root, `.${path}`);
  const isServed = extname(path) === ".js" && /^\/(dist|node_modules\/gpt-tokenizer)\//.test(path) && existsSync(file);
  return isServed ? { type: "text/javascript", body: readFileSync(file) } : null;
}

/** What Linux counts as resident for a process, now or at most since it was last reset: heaps of all threads, ArrayBuffers, WebAssembly, staging, code. */
function residentBytes(pid: number, field: "VmRSS" | "VmHWM"): number {
  return 1024 * Number(new RegExp(`${field}:\\s+(\\d+)`).exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]);
}

test("a 124M checkpoint of 498 MB in F32 loads as NF4 on the CPU while the page grows by less than 250 MB, weights included", async ({ page, browser }, testInfo) => {
  test.skip(process.platform !== "linux", "the peak of a process is read from /proc");
  const server = await serveCheckpoint({ model_type: "gpt2", activation_function: "gelu_new", n_layer: 12, n_head: 12, n_embd: 768, n_positions: 1024, vocab_size: 50257 }, content);
  try {
    await page.goto(server.origin);
    await page.waitForFunction(() => "load" in window);
    const { processInfo } = (await (await browser.newBrowserCDPSession()).send("SystemInfo.getProcessInfo")) as { processInfo: readonly { type: string; id: number }[] };
    const before = new Map(processInfo.filter(({ type }) => type === "renderer").map(({ id }) => [id, residentBytes(id, "VmRSS")]));
    for (const pid of before.keys()) writeFileSync(`/proc/${pid}/clear_refs`, "5"); // its VmHWM begins again
    const { bytes, longTasksMs } = await page.evaluate(async () => {
      const model = await window.load({ backend: "cpu", quantization: "nf4" });
      const { bytes } = model.quantization;
      model.dispose();
      return { bytes, longTasksMs: window.longTasksMs };
    });
    const growthBytes = Math.max(...[...before].map(([pid, startBytes]) => residentBytes(pid, "VmHWM") - startBytes)); // of the page: the others do nothing
    testInfo.annotations.push({ type: "peak", description: `${Math.round(growthBytes / 1e6)} MB above the empty page; ${longTasksMs.length} tasks of more than 50 ms, the longest ${Math.max(0, ...longTasksMs)} ms` });
    expect(server.fileBytes).toBeGreaterThan(497e6); // control case: it was the whole model
    expect(bytes.total).toBeLessThan(91e6);
    expect(growthBytes).toBeGreaterThan(bytes.total); // control case: the right process was watched
    expect(growthBytes).toBeLessThan(tolerances.loadPeakBytes);
  } finally {
    await server.close();
  }
});
