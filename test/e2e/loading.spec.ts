import type { Locator, Page } from "@playwright/test";
import { seededCheckpoint } from "../fixtures/seededCheckpoint.ts";
import { alertLine, expect, generateGreedily, open, playLargeHub, ready, test } from "./fixture.ts";

/** 0.8 MB with GPT-2's own vocabulary. */
const checkpoint = seededCheckpoint({ nLayer: 1, nHead: 1, nEmbd: 8, nPositions: 64, vocabSize: 50257, dtype: "F16" });

/** Answers for the hub with the seeded checkpoint, and lists what it was asked. */
async function playHub(page: Page): Promise<{ path: string; authorization: string | undefined }[]> {
  const asked: { path: string; authorization: string | undefined }[] = [];
  await page.route("https://huggingface.co/**", async (route) => {
    const { pathname } = new URL(route.request().url());
    asked.push({ path: pathname, authorization: route.request().headers().authorization });
    const content = pathname.includes("/resolve/") ? checkpoint[pathname.split("/").at(-1) as keyof typeof checkpoint] : undefined;
    await route.fulfill({ status: content ? 200 : 404, headers: { "access-control-allow-origin": "*" }, body: content ? Buffer.from(content) : "Entry not found" });
  });
  return asked;
}

const modelList = (page: Page): Locator => page.getByRole("combobox", { name: "Model" });

async function openAddress(page: Page, address: string): Promise<void> {
  if (await page.locator("#opener").isHidden()) await page.getByRole("button", { name: "Open a model…" }).click();
  await page.getByLabel("Hub id, address").fill(address);
  await page.getByRole("button", { name: "Load", exact: true }).click();
}

/** Hands the page files as a drop does. */
async function drop(page: Page, files: Record<string, string | Uint8Array>): Promise<void> {
  const contents = Object.entries(files).map(([name, content]) => [name, Buffer.from(content).toString("base64")]);
  await page.evaluate((contents) => {
    const dataTransfer = new DataTransfer();
    for (const [name, base64] of contents) dataTransfer.items.add(new File([Uint8Array.from(atob(base64!), (char) => char.charCodeAt(0))], name!));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
  }, contents);
}

test("a hub model loads from its revision with a token that goes to the hub and nowhere else", async ({ page, complaints }) => {
  const asked = await playHub(page);
  await open(page, "cpu");
  await page.getByRole("button", { name: "Open a model…" }).click();
  await page.getByText("Revision and access token").click();
  await page.getByLabel("Revision").fill("v2");
  await page.getByLabel("Access token").fill("hf_secret");
  await openAddress(page, "someone/tiny");
  await expect(page.locator("#context")).toHaveText("64");
  await ready(page);
  await expect(page.locator("#model")).toHaveValue("someone/tiny");
  expect(asked.find(({ path }) => path === "/someone/tiny/resolve/v2/model.safetensors")).toMatchObject({ authorization: "Bearer hf_secret" });
  await expect(page.locator("#token")).toHaveValue("");

  await page.getByLabel("Weights").selectOption("nf4"); // reads it again: the token is still known
  await expect(page.locator("#playground #bitsPerWeight")).not.toHaveText("8.13");
  await ready(page);
  expect(asked.filter(({ authorization }) => authorization !== "Bearer hf_secret")).toEqual([]);
  expect(await page.evaluate(() => JSON.stringify(localStorage) + document.documentElement.outerHTML + location.href)).not.toContain("secret");
  const expected = complaints.splice(0); // the requests themselves, and optional files that are not there
  expect(expected.filter((line) => !/^request: https:\/\/huggingface\.co\/someone\/tiny\/|status of 404/.test(line))).toEqual([]);
});

test("before a large download the page says how much it is, what it will take, and what would fit where it does not", async ({ page, complaints }) => {
  const count = await playLargeHub(page);
  await open(page, "cpu");
  const cost = page.locator("#cost");
  await modelList(page).selectOption("GPT-2 small, 124M");
  await expect(cost).toHaveText(/^GPT-2 small, 124M is a download of 497\.8 MB\. As int8 it fits: it will take 1\d\d\.\d MB of memory\.$/, { timeout: 30_000 });
  await expect(page.getByRole("button", { name: "Download" })).toBeVisible();
  await page.getByRole("button", { name: "Not now" }).click();
  await expect(page.locator("#offer")).toBeHidden();
  await expect(modelList(page)).toHaveValue("Stories 12M");
  await ready(page);

  await page.getByLabel("Weights").selectOption("f16");
  await ready(page);
  await openAddress(page, "openai-community/huge");
  await expect(cost).toHaveText(/^openai-community\/huge as f16 does not fit: h\.0\.mlp\.c_fc\.weight needs 4831\.8 MB, and this browser allows 4295\.0\. What would fit: int8, .*nf4/, { timeout: 30_000 });
  await expect(page.locator("#accept")).toHaveText("Load as int8");
  await page.getByRole("button", { name: "Cancel" }).click();
  await expect(page.locator("#offer")).toBeHidden();
  await ready(page);
  expect(count.sentBytes).toBeLessThan(100_000);
  expect(complaints.splice(0).filter((line) => !/^request: https:\/\/huggingface\.co\/openai-community\/|status of 404/.test(line))).toEqual([]);
});

test("what is kept for the next visit is listed with its size, and deleted by keyboard", async ({ page }) => {
  await open(page, "cpu");
  await page.getByRole("button", { name: "Open a model…" }).click();
  const total = page.locator("#keptTotal");
  await expect(total).toHaveText("Kept for the next visit: 1 model, 12.8 MB");
  await page.getByLabel("Weights").selectOption("nf4");
  await ready(page);
  await page.getByRole("button", { name: "Open a model…" }).click();
  await expect(total).toHaveText("Kept for the next visit: 2 models, 24.5 MB");
  await page.locator("#kept > summary").press("Enter");
  const rows = page.getByRole("list", { name: "Models kept" }).getByRole("listitem");
  await expect(rows).toHaveText([/^models\/stories-12m\/ as nf4\s*11\.\d MB, used \w+ \d+, \d{4}/, /^models\/stories-12m\/ as int8/]); // used last first
  await page.getByRole("button", { name: "Delete models/stories-12m/ as int8" }).press("Enter");
  await expect(rows).toHaveText([/as nf4/]);
  await expect(page.locator("#kept > summary")).toBeFocused();
  await page.getByRole("button", { name: "Delete all" }).press("Enter");
  await expect(total).toHaveText("Nothing is kept for the next visit.");
  await expect(page.getByRole("button", { name: "Delete all" })).toBeHidden();
  expect(await generateGreedily(page, 3)).toBe(" a little girl"); // the model in use stays
});

test("what cannot be loaded is one line that says what to do, and the model in use stays", async ({ page, complaints }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  await open(page, "cpu");
  const failure = alertLine(page);

  await openAddress(page, "./no-such-model/");
  await expect(failure).toHaveText(/config\.json.* Choose a GPT-2 model: config\.json beside model\.safetensors\.$/);
  expect(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)).toBeLessThanOrEqual(0);
  complaints.splice(0); // Chromium logs each 404

  await openAddress(page, "https://models.example/gpt2/");
  await expect(failure).toHaveText(/^This page may not connect to https:\/\/models\.example: its Content-Security-Policy .* drop them here/);
  expect(complaints.splice(0).filter((line) => line.startsWith("request:"))).toEqual([]);

  await openAddress(page, "not a model");
  await expect(failure).toHaveText(/"not a model" is neither a hub id nor a URL/);

  await drop(page, { "config.json": checkpoint["config.json"], "model.safetensors": checkpoint["model.safetensors"].subarray(0, 4000) });
  await expect(failure).toHaveText(/^model\.safetensors.*\. Choose a GPT-2 model/);
  await drop(page, { "config.json": "<!doctype html>", "model.safetensors": checkpoint["model.safetensors"] });
  await expect(failure).toHaveText(/config\.json.*\. Choose a GPT-2 model/);

  await page.route("https://huggingface.co/**", (route) => route.abort("internetdisconnected"));
  await openAddress(page, "someone/tiny");
  await expect(failure).toHaveText(/could not be reached.* Check the address and the connection, then try again\.$/, { timeout: 30_000 });
  complaints.splice(0);
  await expect(modelList(page)).toHaveValue("Stories 12M");
  expect(await generateGreedily(page, 3)).toBe(" a little girl");
  await expect(failure).toBeEmpty();
});

test("without the embedded model the page says so and tries again when asked", async ({ page, complaints }) => {
  await page.route("**/models/stories-12m/config.json", (route) => route.fulfill({ status: 404, body: "" }));
  await page.goto("./?backend=cpu");
  await expect(page.locator("#status")).toHaveText("No model is loaded.");
  await expect(alertLine(page)).not.toBeEmpty();
  await page.unrouteAll();
  complaints.splice(0);
  await page.getByRole("button", { name: "Try again" }).click();
  await ready(page);
  await expect(alertLine(page)).toBeEmpty();
});

test("without WebGPU the page runs on the CPU and says why", async ({ page }) => {
  await page.route("**/engineWorker-*.js", async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, body: `delete WorkerNavigator.prototype.gpu;${await response.text()}` });
  });
  await page.goto("./");
  await ready(page);
  await expect(page.locator("#status")).toHaveText(/^CPU · .*WebGPU/);
});
