import type { Locator, Page } from "@playwright/test";
import { parseSafetensors } from "../../src/safetensors/index.ts";
import { writeSafetensors, type WrittenTensor } from "../fixtures/safetensorsWriter.ts";
import { seededCheckpoint } from "../fixtures/seededCheckpoint.ts";
import { alertLine, expect, generateGreedily, open, playLargeHub, ready, test, withoutWebGpu } from "./fixture.ts";

/** 0.8 MB with GPT-2's own vocabulary. */
const checkpoint = seededCheckpoint({ nLayer: 1, nHead: 1, nEmbd: 8, nPositions: 64, vocabSize: 50257, dtype: "F16" });

/** The same in two files, the token embedding in the second. */
function inShards(): Record<string, Uint8Array> {
  const tensors = [...parseSafetensors(checkpoint["model.safetensors"]).tensors].map(([name, { dtype, shape, bytes }]) => [name, { dtype, shape, data: bytes }] as [string, WrittenTensor]);
  const [first, second] = shardNames;
  const fileOf = (name: string): string => (name === "wte.weight" ? second : first);
  const shard = (file: string): Uint8Array => writeSafetensors(Object.fromEntries(tensors.filter(([name]) => fileOf(name) === file)));
  const index = { metadata: { total_size: 1 }, weight_map: Object.fromEntries(tensors.map(([name]) => [name, fileOf(name)])) };
  return { "config.json": checkpoint["config.json"], "model.safetensors.index.json": Buffer.from(JSON.stringify(index)), [first]: shard(first), [second]: shard(second) };
}
const shardNames = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] as const;

/** Answers for the hub with a checkpoint, and lists what it was asked. */
async function playHub(page: Page, files: Readonly<Record<string, Uint8Array>> = checkpoint): Promise<{ path: string; authorization: string | undefined }[]> {
  const asked: { path: string; authorization: string | undefined }[] = [];
  await page.route("https://huggingface.co/**", async (route) => {
    const { pathname } = new URL(route.request().url());
    asked.push({ path: pathname, authorization: route.request().headers().authorization });
    const content = pathname.includes("/resolve/") ? files[pathname.split("/").at(-1)!] : undefined;
    await route.fulfill({ status: content ? 200 : 404, headers: { "access-control-allow-origin": "*", "access-control-expose-headers": "*", etag: '"first"' }, body: content ? Buffer.from(content) : "Entry not found" });
  });
  return asked;
}

const ofHub = /^request: https:\/\/huggingface\.co\/|status of 404/;
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

test("a model in several files shows how far each has come, names the one that fails, and is cancelled", async ({ page, complaints }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  const [first, second] = shardNames;
  await playHub(page, inShards());
  await page.route(`**/${second}`, () => undefined); // never answered
  await open(page, "cpu");
  await openAddress(page, "someone/tiny");
  const rows = page.getByRole("list", { name: "Files of the model" }).getByRole("listitem");
  await expect(rows).toHaveText([/^model-00001-of-00002\.safetensors\s*0\.0 of 0\.0 MB$/, /^model-00002-of-00002\.safetensors\s*waiting$/]);
  await expect(page.locator("#loadDetail")).toHaveText(/^reading file 1 of 2$|^quantizing/);
  expect(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)).toBeLessThanOrEqual(0);
  await page.getByRole("button", { name: "Cancel" }).press("Enter");
  await ready(page);
  await expect(rows).toHaveCount(0);
  await expect(alertLine(page)).toBeEmpty();

  await page.unroute(`**/${second}`);
  await page.route(`**/${second}`, (route) => route.fulfill({ status: 403, headers: { "access-control-allow-origin": "*" } }));
  await openAddress(page, "someone/tiny");
  await expect(alertLine(page)).toContainText(second);
  await expect(alertLine(page)).not.toContainText(first);

  await page.unroute(`**/${second}`); // control case
  await openAddress(page, "someone/tiny");
  await expect(page.locator("#context")).toHaveText("64");
  expect(complaints.splice(0).filter((line) => !ofHub.test(line) && !line.includes("status of 403"))).toEqual([]);
});

test("what is kept for another backend is not downloaded again unasked", async ({ page, complaints }) => {
  await playHub(page);
  await open(page, "cpu");
  await openAddress(page, "openai-community/gpt2");
  await expect(page.locator("#context")).toHaveText("64");
  await ready(page);
  await page.unrouteAll();
  const count = await playLargeHub(page);
  await page.goto("./"); // "auto" may run elsewhere, where weights lie differently
  await ready(page);
  await expect(page.locator("#keptList")).toContainText("openai-community/gpt2 as int8");
  await modelList(page).selectOption("GPT-2 small, 124M");
  await expect(page.locator("#cost")).toHaveText(/ is a download of 497\.8 MB\./, { timeout: 30_000 });
  await page.getByRole("button", { name: "Not now" }).click();
  await ready(page);
  expect(count.sentBytes).toBeLessThan(1e6);
  expect(complaints.splice(0).filter((line) => !ofHub.test(line))).toEqual([]);
});

test("models are opened, turned down and cancelled by keyboard alone, and the focus is never lost", async ({ page, complaints }) => {
  await playHub(page);
  await open(page, "cpu");
  await page.keyboard.press("Tab"); // Write, Compare
  await page.keyboard.press("Tab");
  await page.keyboard.press("Tab");
  await expect(modelList(page)).toBeFocused();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Tab");
  const opener = page.getByRole("button", { name: "Open a model…" });
  await expect(opener).toBeFocused();
  await page.keyboard.press("Enter");
  await expect(page.getByLabel("Hub id, address")).toBeFocused();
  await page.keyboard.type("someone/tiny");
  await page.keyboard.press("Enter");
  await expect(page.locator("#context")).toHaveText("64");
  await expect(opener).toBeFocused();

  await page.unrouteAll();
  await playLargeHub(page);
  await modelList(page).focus();
  await page.keyboard.press("Home");
  await page.keyboard.press("ArrowDown");
  await expect(page.locator("#offer")).toBeVisible({ timeout: 30_000 });
  for (const _ of ["Weights", "Open a model…", "Download", "Not now"]) await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await expect(page.locator("#offer")).toBeHidden();
  await expect(modelList(page)).toBeFocused();
  complaints.splice(0);
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
  await page.getByRole("button", { name: "Not now" }).click();
  await expect(page.locator("#offer")).toBeHidden();
  await ready(page);
  expect(count.sentBytes).toBeLessThan(1e6);
  expect(complaints.splice(0).filter((line) => !ofHub.test(line))).toEqual([]);
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

test("a full disk costs the next visit its start and nothing else, and the page says so", async ({ page, baseURL }) => {
  const session = await page.context().newCDPSession(page);
  await session.send("Storage.overrideQuotaForOrigin", { origin: new URL(baseURL!).origin, quotaSize: 1e6 });
  await open(page, "cpu");
  await expect(page.locator("#status")).toHaveText(/^CPU · The model is not cached: /);
  await expect(page.locator("#keptTotal")).toHaveText("Nothing is kept for the next visit.");
  expect(await generateGreedily(page, 3)).toBe(" a little girl");
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
  await withoutWebGpu(page);
  await page.goto("./");
  await ready(page);
  await expect(page.locator("#status")).toHaveText(/^CPU · .*WebGPU/);
});
