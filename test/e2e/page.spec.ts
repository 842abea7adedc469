import { expect, test, type Locator, type Page } from "@playwright/test";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";

const root = resolve(import.meta.dirname, "../..");
const modelFolder = resolve(root, "models/stories-12m");
const golden = JSON.parse(readFileSync(resolve(root, "test/fixtures/golden/prompt-7.json"), "utf8")) as { text: string };
/** The first 12 of the fixture's 24 greedy tokens, decoded. */
const greedyText = " a little girl named Lily. She loved to play with her";

/** What went wrong in the page outside its own error line, and requests that left this machine. */
let complaints: string[] = [];

test.beforeEach(({ page }) => {
  complaints = [];
  page.on("console", (message) => {
    if (message.type() === "error") complaints.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(`uncaught: ${error.message}`));
  page.on("request", (request) => {
    const { protocol, hostname } = new URL(request.url());
    if (/^(https?|wss?):$/.test(protocol) && hostname !== "127.0.0.1") complaints.push(`request: ${request.url()}`);
  });
});

test.afterEach(() => expect(complaints).toEqual([]));

/** Opens the page on the software adapter, which "auto" would pass over. */
async function open(page: Page): Promise<void> {
  await page.goto("./?backend=webgpu");
  await ready(page);
}

async function ready(page: Page): Promise<void> {
  await expect(page.getByRole("button", { name: "Open a model…" })).toBeVisible();
  await expect(page.locator("#status")).toHaveText(/^(WebGPU|CPU) · /, { timeout: 180_000 });
}

const generateButton = (page: Page): Locator => page.locator("#generate");

async function generateGreedily(page: Page, tokens: number): Promise<string> {
  await fillSettings(page, { Temperature: "0", Tokens: String(tokens) });
  await page.getByLabel("Prompt", { exact: true }).fill(golden.text);
  await generateButton(page).click();
  await expect(page.locator("#outcome")).toContainText("done", { timeout: 120_000 });
  return (await page.locator("#output span").allTextContents()).join("");
}

async function fillSettings(page: Page, values: Record<string, string>): Promise<void> {
  const settings = page.locator("#playground details");
  if (!(await settings.evaluate((element: HTMLDetailsElement) => element.open))) await settings.locator("summary").click();
  for (const [label, value] of Object.entries(values)) await page.locator("#playground").getByLabel(label).fill(value);
}

test("the page loads the embedded model, writes the golden greedy text under f32 and stops when asked", async ({ page }, testInfo) => {
  await page.addInitScript(() => {
    const shifts: number[] = [];
    Object.assign(window, { shifts });
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries() as (PerformanceEntry & { value: number })[]) shifts.push(entry.value);
    }).observe({ type: "layout-shift", buffered: true });
  });
  await page.goto("./?backend=webgpu");
  await expect(page.locator("#status")).toHaveText("Loading as int8:");
  await page.screenshot({ path: testInfo.outputPath("loading.png") });
  await ready(page);
  await expect(page.locator("#status")).toContainText("WebGPU");
  const shifts = await page.evaluate(() => (window as unknown as { shifts: number[] }).shifts.reduce((sum, value) => sum + value, 0));
  expect(shifts).toBeLessThan(0.1); // what web vitals call good

  await page.getByLabel("Weights").selectOption("f32");
  await expect(page.locator("#bitsPerWeight")).toHaveText("32.00", { timeout: 180_000 });
  expect(await generateGreedily(page, 12)).toBe(greedyText);
  await expect(page.locator("#tokens")).toHaveText("7 + 12");
  await expect(page.locator("#speed")).toHaveText(/^[\d.]+ tok\/s$/);
  await page.locator("#output").focus();
  await page.keyboard.press("ArrowRight");
  await expect(page.locator("#alternatives li.taken")).toHaveText(/␣little/);

  await fillSettings(page, { Temperature: "0.8", Tokens: "200", Seed: "7" });
  await generateButton(page).click();
  await expect(page.locator("#output span").nth(2)).toBeAttached({ timeout: 120_000 });
  await expect(generateButton(page)).toHaveText("Stop");
  await generateButton(page).click();
  await expect(page.locator("#outcome")).toHaveText("seed 7 · stopped");
  const written = await page.locator("#output span").count();
  expect(written).toBeLessThan(200);

  await fillSettings(page, { Tokens: "3" });
  await page.getByRole("button", { name: "Continue" }).click();
  await expect(page.locator("#outcome")).toHaveText("seed 7 · done", { timeout: 120_000 });
  expect(await page.locator("#output span").count()).toBe(written + 3);
  await page.screenshot({ path: testInfo.outputPath("written.png"), fullPage: true });
});

test("what fails is one readable line, and the page goes on with the model it has", async ({ page }, testInfo) => {
  await page.setViewportSize({ width: 360, height: 740 });
  await open(page);
  await page.getByRole("button", { name: "Open a model…" }).click();
  await page.getByLabel("Hub id, address").fill("./no-such-model/");
  await page.getByRole("button", { name: "Load", exact: true }).click();
  await expect(page.getByRole("alert").first()).toHaveText(/config\.json.*\.$/, { timeout: 90_000 });
  await page.screenshot({ path: testInfo.outputPath("failed.png"), fullPage: true });
  expect(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)).toBeLessThanOrEqual(0);

  await page.getByLabel("Weights").selectOption("nf4");
  await page.getByRole("button", { name: "Cancel" }).click();
  await ready(page);
  await expect(page.getByLabel("Weights")).toHaveValue("int8");
  expect(await generateGreedily(page, 3)).toBe(" a little girl");

  await page.locator("#files").setInputFiles([resolve(modelFolder, "config.json"), resolve(modelFolder, "model.safetensors")]);
  await expect(page.locator("#model")).toHaveValue("model.safetensors");
  await ready(page);
  expect(await generateGreedily(page, 3)).toBe(" a little girl");
});

test("without a real GPU the page runs on the CPU by itself, says why, and takes dropped files", async ({ page }) => {
  await page.goto("./");
  await ready(page);
  await expect(page.locator("#status")).toHaveText(/^CPU · The only WebGPU adapter is software/);
  await page.evaluate(async () => {
    const dataTransfer = new DataTransfer();
    for (const name of ["config.json", "model.safetensors"]) {
      const response = await fetch(`models/stories-12m/${name}`);
      dataTransfer.items.add(new File([await response.blob()], name));
    }
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
  });
  await expect(page.locator("#model")).toHaveValue("model.safetensors");
  await ready(page);
  expect(await generateGreedily(page, 3)).toBe(" a little girl");
});

test("a killed GPU process leaves no gap and no duplicate in the text that it interrupts", async ({ page, browser }) => {
  await open(page);
  const undisturbed = await generateGreedily(page, 40);
  await page.evaluate(async () => {
    const device = await (await navigator.gpu.requestAdapter())!.requestDevice();
    Object.assign(window, { lost: device.lost.then(() => true) });
  });
  await generateButton(page).click();
  await expect(page.locator("#output span").nth(5)).toBeAttached({ timeout: 120_000 });
  await (await browser.newBrowserCDPSession()).send("Browser.crashGpuProcess");
  expect(await page.evaluate(() => (window as unknown as { lost: Promise<boolean> }).lost)).toBe(true);
  expect(await page.locator("#output span").count()).toBeLessThan(40);
  await expect(page.locator("#outcome")).toContainText("done", { timeout: 180_000 });
  expect((await page.locator("#output span").allTextContents()).join("")).toBe(undisturbed);
});
