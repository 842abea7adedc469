import { expect, type Page, test } from "@playwright/test";
import type { loadModel, LoadOptions } from "../../src/index.ts";
import { type CheckpointServer, serveCheckpoint } from "../fixtures/checkpointServer.ts";
import { type HubFailure, type HubServer, startHubServer } from "../fixtures/hubServer.ts";
import { seededCheckpoint } from "../fixtures/seededCheckpoint.ts";
import { packagePage } from "./packagePage.ts";

declare global {
  interface Window {
    loadModel: typeof loadModel;
    loading: AbortController;
    arrived: () => void;
  }
}

const name = "model.safetensors";
const checkpoint = seededCheckpoint({ nLayer: 1, nHead: 1, nEmbd: 8, nPositions: 64, vocabSize: 50257, dtype: "F16" });
const other = checkpoint[name].map((byte, i) => (i < checkpoint[name].length - 1000 ? byte : byte ^ 1));
/** Behind the header, before half of the file. The CDN cuts when the page has read what came: a hang-up could overtake it. */
const stalls = [300_000];
const longAgo = "Tue, 01 Jul 2025 00:00:00 GMT";
const content = packagePage('<script type="module">import { loadModel } from "/dist/index.js"; window.loadModel = loadModel;</script>');

let hub: HubServer;
let site: CheckpointServer; // for the page alone
test.beforeAll(async () => {
  hub = await startHubServer({ repositories: { "acme/tiny": checkpoint } });
  site = await serveCheckpoint({ model_type: "gpt2", n_layer: 1, n_head: 1, n_embd: 8 }, content);
});
test.afterAll(() => Promise.all([hub.close(), site.close()]));
test.beforeEach(async ({ page }) => {
  hub.failures.clear();
  hub.requests.length = 0;
  await page.goto(site.origin);
  await page.waitForFunction(() => "loadModel" in window);
});

/** How a load from the hub ends, which is of another origin and redirects to a third. Its weights are compared with the hash that the hub states. */
function load(page: Page): Promise<string> {
  return page.evaluate(async (endpoint) => {
    window.loading = new AbortController();
    const onProgress: LoadOptions["onProgress"] = ({ stage, file, loaded }) => {
      if (stage === "download" && file === "model.safetensors" && loaded > 0) window.arrived();
    };
    const options = { hub: { endpoint }, backend: "cpu", quantization: "f32", cache: "none", signal: window.loading.signal, onProgress } as const;
    return window.loadModel("acme/tiny", options).then(
      (model) => `loaded ${model.config.nEmbd}`,
      (error: Error & { code?: string }) => `${error.code}: ${error.message}`,
    );
  }, hub.endpoint);
}

/** What the CDN was asked for of the weights. */
const rangesAsked = (): (string | undefined)[] => hub.requests.filter(({ server, path }) => server === "cdn" && path.includes(name)).map(({ range }) => range);

const rest = /^bytes=\d+-$/;
test.describe("a page loads from servers of other origins", () => {
  for (const [fault, failure, ranges, outcome] of [
    ["without any fault", {}, [undefined], /^loaded 8$/],
    ["that cut, by asking for the rest", { stalls }, [undefined, rest], /^loaded 8$/],
    ["that answer 503 first", { statuses: [503] }, [undefined], /^loaded 8$/],
    ["that cut and know no ranges, passing over what it has", { stalls, ignoresRange: true }, [undefined, rest], /^loaded 8$/],
    ["that cut and hide their headers, by the date", { stalls, hidesHeaders: true, lastModified: longAgo }, [undefined, rest], /^loaded 8$/],
    ["that cut and hide all that names a version, from the start", { stalls, hidesHeaders: true }, [undefined, undefined], /^loaded 8$/],
    ["unless the file changes after a cut", { stalls, contents: [checkpoint[name], other] }, [undefined, rest], /^network: .* changed between two requests: ETag "/],
    ["unless the file changes after a cut, where headers are hidden", { stalls, hidesHeaders: true, contents: [checkpoint[name], other] }, [undefined, undefined], /^integrity: /],
    ["unless they send a page instead of the weights", { html: true }, [], /^checkpoint: .*HTML/],
  ] as [string, HubFailure, (RegExp | undefined)[], RegExp][]) {
    test(fault, async ({ page }) => {
      let arrive!: () => void;
      const arrived = new Promise<void>((resolve) => (arrive = resolve));
      await page.exposeFunction("arrived", arrive);
      hub.failures.set(name, { ...failure, ...(failure.stalls && { stalls: [...failure.stalls] }), onStall: (cut) => void arrived.then(cut) });
      expect(await load(page)).toMatch(outcome);
      expect(rangesAsked()).toEqual(ranges.map((range) => range && (expect.stringMatching(range) as unknown)));
      await expect.poll(() => hub.openTransfers).toBe(0);
    });
  }

  test("until it aborts, which ends the transfer", async ({ page }) => {
    await page.exposeFunction("arrived", () => undefined);
    const stalled = new Promise<void>((resolve) => hub.failures.set(name, { stalls: [...stalls], onStall: () => resolve() }));
    const loading = load(page);
    await stalled;
    expect(hub.openTransfers).toBe(1); // control case
    await page.evaluate(() => window.loading.abort(new Error("enough")));
    expect(await loading).toBe("undefined: enough");
    await expect.poll(() => hub.openTransfers).toBe(0);
  });
});
