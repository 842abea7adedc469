import { expect, type Page, test } from "@playwright/test";
import { readFileSync, writeFileSync } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import type { loadModel } from "../../src/index.ts";
import type { ModelSource } from "../../src/types.ts";
import { type CheckpointServer, serveCheckpoint } from "../fixtures/checkpointServer.ts";
import { tolerances } from "../tolerances.ts";
import { packagePage } from "./packagePage.ts";

const content = packagePage(`<input type="file" multiple>
<script type="module">
  import { loadModel } from "/dist/index.js";
  window.longTasks = [];
  new PerformanceObserver((list) => window.longTasks.push(...list.getEntries())).observe({ type: "longtask" });
  window.load = loadModel;
</script>`);

declare global {
  interface Window {
    longTasks: PerformanceEntry[];
    load: typeof loadModel;
    source: ModelSource;
  }
}

/** What Linux counts as resident for a process, now or at most since it was last reset: heaps of all threads, ArrayBuffers, WebAssembly, staging, code. */
function residentBytes(pid: number, field: "VmRSS" | "VmHWM"): number {
  return 1024 * Number(new RegExp(`${field}:\\s+(\\d+)`).exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]);
}

/** What a page has the checkpoint from, made ready before its memory is measured. */
const sources: Readonly<Record<string, (page: Page, server: CheckpointServer, path: (name: string) => string) => Promise<void>>> = {
  HTTP: (page) => page.evaluate(() => void (window.source = "/model/")),
  "files of a disk": async (page, { origin }, path) => {
    const paths = ["config.json", "model.safetensors"].map(path);
    for (const file of paths) await writeFile(file, (await fetch(`${origin}/model/${basename(file)}`)).body!);
    await page.locator("input").setInputFiles(paths);
    await page.evaluate(() => void (window.source = document.querySelector("input")!.files!));
  },
  "buffers that it has anyway": (page, { fileBytes }) =>
    page.evaluate(async (fileBytes) => {
      const beginning = await (await fetch("/model/model.safetensors", { headers: { Range: `bytes=0-${2 ** 20 - 1}` } })).arrayBuffer();
      const file = new Uint8Array(fileBytes);
      file.set(new Uint8Array(beginning));
      for (let at = beginning.byteLength; at < fileBytes; at += 2 ** 19) file.copyWithin(at, 2 ** 19, Math.min(2 ** 20, 2 ** 19 + fileBytes - at)); // more weights of the same
      window.source = { "config.json": await (await fetch("/model/config.json")).arrayBuffer(), "model.safetensors": file };
    }, fileBytes),
};

for (const [from, prepare] of Object.entries(sources)) {
  test(`a 124M checkpoint of 498 MB in F32 loads as NF4 on the CPU from ${from} while the page grows by less than 250 MiB, weights included`, async ({ page, browser }, testInfo) => {
    test.skip(process.platform !== "linux", "the peak of a process is read from /proc");
    const server = await serveCheckpoint({ model_type: "gpt2", activation_function: "gelu_new", n_layer: 12, n_head: 12, n_embd: 768, n_positions: 1024, vocab_size: 50257 }, content);
    try {
      await page.addInitScript(() => Object.defineProperty(navigator, "hardwareConcurrency", { value: 2 })); // one worker on any machine: what the limit was measured with
      await page.goto(server.origin);
      await page.waitForFunction(() => "load" in window);
      await prepare(page, server, (name) => testInfo.outputPath(name));
      const { processInfo } = (await (await browser.newBrowserCDPSession()).send("SystemInfo.getProcessInfo")) as { processInfo: readonly { type: string; id: number }[] };
      const before = new Map(processInfo.filter(({ type }) => type === "renderer").map(({ id }) => [id, residentBytes(id, "VmRSS")]));
      for (const pid of before.keys()) writeFileSync(`/proc/${pid}/clear_refs`, "5"); // its VmHWM begins again
      const { bytes, longTasksMs } = await page.evaluate(async () => {
        const startMs = performance.now();
        const model = await window.load(window.source, { backend: "cpu", quantization: "nf4" });
        const { bytes } = model.quantization;
        model.dispose();
        return { bytes, longTasksMs: window.longTasks.filter(({ startTime }) => startTime >= startMs).map(({ duration }) => duration) };
      });
      const growthBytes = Math.max(...[...before].map(([pid, startBytes]) => residentBytes(pid, "VmHWM") - startBytes)); // of the page: the others do nothing
      testInfo.annotations.push({ type: "peak", description: `${Math.round(growthBytes / 1e6)} MB above the page before; ${longTasksMs.length} tasks of more than 50 ms, the longest ${Math.max(0, ...longTasksMs)} ms` });
      expect(server.fileBytes).toBeGreaterThan(497e6); // control case: it was the whole model
      expect(bytes.total).toBeLessThan(91e6);
      expect(growthBytes).toBeGreaterThan(bytes.total); // control case: the right process was watched
      expect(growthBytes).toBeLessThan(tolerances.loadPeakBytes);
    } finally {
      await server.close();
      await rm(testInfo.outputPath(), { recursive: true, force: true });
    }
  });
}
