import { test as base, expect, type Locator, type Page } from "@playwright/test";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { startOfWeights } from "../fixtures/checkpointServer.ts";

export { expect } from "@playwright/test";
export const root = resolve(import.meta.dirname, "../..");
export const modelFolder = resolve(root, "models/stories-12m");
const golden = JSON.parse(readFileSync(resolve(root, "test/fixtures/golden/prompt-7.json"), "utf8")) as { text: string };

/** A test fails on whatever goes wrong in the page outside its own error line, and on requests that leave this machine; one that expects such complaints takes them out. */
export const test = base.extend<{ complaints: string[] }>({
  complaints: [
    async ({ page }, use) => {
      const complaints: string[] = [];
      page.on("console", (message) => {
        if (message.type() === "error") complaints.push(`console: ${message.text()}`);
      });
      page.on("pageerror", (error) => complaints.push(`uncaught: ${error.message}`));
      page.on("request", (request) => {
        const { protocol, hostname } = new URL(request.url());
        if (/^(https?|wss?):$/.test(protocol) && hostname !== "127.0.0.1") complaints.push(`request: ${request.url()}`);
      });
      await use(complaints);
      expect(complaints).toEqual([]);
    },
    { auto: true },
  ],
});

/** Opens the page on a backend of one's choice: "auto" passes over a software adapter. */
export async function open(page: Page, backend: "cpu" | "webgpu" = "webgpu"): Promise<void> {
  await page.goto(`./?backend=${backend}`);
  await ready(page);
}

/** Watches, from the next address on, how far things move by themselves, half a second after an input and later: web vitals call a sum below 0.1 good. */
export async function watchShifts(page: Page): Promise<() => Promise<number>> {
  await page.addInitScript(() => {
    const shifts: number[] = [];
    Object.assign(window, { shifts });
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries() as (PerformanceEntry & { value: number; hadRecentInput: boolean })[]) if (!entry.hadRecentInput) shifts.push(entry.value);
    }).observe({ type: "layout-shift", buffered: true });
  });
  return () => page.evaluate(() => (window as unknown as { shifts: number[] }).shifts.reduce((sum, value) => sum + value, 0));
}

/** No load is under way, and there is a model. */
export async function ready(page: Page): Promise<void> {
  await expect(page.getByRole("button", { name: "Open a model…" })).toBeVisible();
  await expect(page.locator("#status")).toHaveText(/^(WebGPU|CPU) · /, { timeout: 180_000 });
}

/** The playground has fields that the panel has, too. */
export const field = (page: Page, label: string): Locator => page.locator("#playground").getByLabel(label, { exact: true });
export const generateButton = (page: Page): Locator => page.locator("#generate");
export const alertLine = (page: Page): Locator => page.locator("#alert");

/** What the model has written, without the prompt. */
export async function written(page: Page): Promise<string> {
  return (await page.locator("#output span").allTextContents()).join("");
}

/** Writes up to so many tokens after the golden prompt. */
export async function generateGreedily(page: Page, tokens: number): Promise<string> {
  await fillSettings(page, { Temperature: "0", Tokens: String(tokens) });
  await field(page, "Prompt").fill(golden.text);
  await generateButton(page).click();
  await expect(page.locator("#outcome")).toHaveText(/ · (done|reached a stop text)$/, { timeout: 120_000 });
  return written(page);
}

export async function fillSettings(page: Page, values: Record<string, string>): Promise<void> {
  await page.locator("#moreSettings").evaluate((element: HTMLDetailsElement) => (element.open = true));
  for (const [label, value] of Object.entries(values)) await field(page, label).fill(value);
}

/** From the next address on, the engine's worker finds a browser that has no WebGPU. */
export const withoutWebGpu = (page: Page): Promise<void> => beginWorker(page, "delete WorkerNavigator.prototype.gpu;");

/** From the next address on, the engine's worker runs this script first. */
export async function beginWorker(page: Page, script: string): Promise<void> {
  await page.route("**/engineWorker-*.js", async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, body: `${script}${await response.text()}` });
  });
}

/** Answers for the hub with config.json and the start of the weights of GPT-2 124M and of a model that no browser holds in floats, and counts the bytes of weights that it was asked for. */
export async function playLargeHub(page: Page): Promise<{ sentBytes: number }> {
  const sizes: Readonly<Record<string, object>> = { gpt2: { n_layer: 12, n_head: 12, n_embd: 768 }, huge: { n_layer: 1, n_head: 96, n_embd: 24576 } };
  const count = { sentBytes: 0 };
  await page.route("https://huggingface.co/openai-community/**", async (route) => {
    const [, , name, , , file] = new URL(route.request().url()).pathname.split("/");
    const config = { model_type: "gpt2", activation_function: "gelu_new", n_positions: 1024, vocab_size: 50257, ...sizes[name!] };
    const headers = { "access-control-allow-origin": "*", "access-control-expose-headers": "*" };
    if (file === "config.json") return route.fulfill({ headers, json: config });
    if (file !== "model.safetensors") return route.fulfill({ status: 404, headers });
    const { header, fileBytes } = startOfWeights(config);
    const body = Buffer.concat([header, Buffer.alloc(2 ** 16)]);
    count.sentBytes += body.length;
    return route.fulfill({ headers: { ...headers, "content-length": String(fileBytes) }, body });
  });
  return count;
}
