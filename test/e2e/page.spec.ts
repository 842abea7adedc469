import { resolve } from "node:path";
import { alertLine, beginWorker, expect, fillSettings, generateButton, generateGreedily, modelFolder, open, ready, test, watchShifts, written } from "./fixture.ts";

/** The first 12 of the fixture's 24 greedy tokens, decoded. */
const greedyText = " a little girl named Lily. She loved to play with her";

test("the page loads the embedded model, writes the golden greedy text under f32 and stops when asked", async ({ page }, testInfo) => {
  const shifts = await watchShifts(page);
  await page.goto("./?backend=webgpu");
  await expect(page.locator("#status")).toHaveText("Loading as int8:");
  await page.screenshot({ path: testInfo.outputPath("loading.png") });
  await ready(page);
  await expect(page.locator("#status")).toContainText("WebGPU");
  expect(await shifts()).toBeLessThan(0.1);

  await page.getByLabel("Weights").selectOption("f32");
  await expect(page.locator("#playground #bitsPerWeight")).toHaveText("32.00", { timeout: 180_000 });
  expect(await generateGreedily(page, 12)).toBe(greedyText);
  await expect(page.locator("#playground #tokens")).toHaveText("7 + 12");
  await expect(page.locator("#playground #speed")).toHaveText(/^[\d.]+ tok\/s$/);
  await page.locator("#output").focus();
  await page.keyboard.press("ArrowRight");
  await expect(page.locator("#alternatives li.taken")).toHaveText(/␣little/);

  await fillSettings(page, { Temperature: "0.8", Tokens: "200", Seed: "7" });
  await generateButton(page).click();
  await expect(page.locator("#output span").nth(2)).toBeAttached({ timeout: 120_000 });
  await expect(generateButton(page)).toHaveText("Stop");
  await generateButton(page).click();
  await expect(page.locator("#outcome")).toHaveText("seed 7 · stopped");
  const count = await page.locator("#output span").count();
  expect(count).toBeLessThan(200);

  await fillSettings(page, { Tokens: "3" });
  await page.getByRole("button", { name: "Continue" }).click();
  await expect(page.locator("#outcome")).toHaveText("seed 7 · done", { timeout: 120_000 });
  expect(await page.locator("#output span").count()).toBe(count + 3);
  await page.screenshot({ path: testInfo.outputPath("written.png"), fullPage: true });
});

test("a cancelled load leaves the model in use, and picked files take its place", async ({ page }) => {
  await open(page);
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

test("a device that is lost for good ends the text in one line that says what to do, and the page works again when reloaded", async ({ page, browser }) => {
  await beginWorker(page, `
    const { requestAdapter } = GPU.prototype;
    const { requestDevice } = GPUAdapter.prototype;
    let isTaken = false;
    GPU.prototype.requestAdapter = async function (options) { return isTaken ? null : requestAdapter.call(this, options); };
    GPUAdapter.prototype.requestDevice = function (descriptor) { isTaken = true; return requestDevice.call(this, descriptor); };
  `);
  await open(page);
  await fillSettings(page, { Tokens: "200" });
  await generateButton(page).click();
  await expect(page.locator("#output span").nth(5)).toBeAttached({ timeout: 120_000 });
  await (await browser.newBrowserCDPSession()).send("Browser.crashGpuProcess");
  await expect(alertLine(page)).toHaveText(/device was lost.*Reload the page\.$/, { timeout: 120_000 });
  expect(await page.locator("#output span").count()).toBeGreaterThan(5);

  await page.unrouteAll();
  await page.reload();
  await ready(page);
  await expect(alertLine(page)).toBeEmpty();
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
  expect(await written(page)).toBe(undisturbed);
});
