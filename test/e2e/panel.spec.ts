import { expect, type Locator, type Page, test } from "@playwright/test";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { decodeComparison } from "../../src/evaluate/encodeComparison.ts";
import type { Comparison, ComparisonRow } from "../../src/types.ts";
import { seededCheckpoint } from "../fixtures/seededCheckpoint.ts";

const root = resolve(import.meta.dirname, "../..");
const { version } = JSON.parse(readFileSync(resolve(root, "package.json"), "utf8")) as { version: string };
const axePath = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
/** Some 110 tokens: enough to tell int8 from nf4. */
const text = readFileSync(resolve(root, "models/texts/stories-eval.txt"), "utf8").split("\n\n").slice(0, 2).join("\n\n");

/** The tests look at one run after the other in one page: loading the page takes longer than all of them. */
test.describe.configure({ mode: "serial" });

let page: Page;
let panel: Locator;
let comparison: Comparison;
let complaints: string[] = [];

test.beforeAll(async ({ browser }) => {
  page = await browser.newPage({ permissions: ["clipboard-read", "clipboard-write"] });
  panel = page.locator("perplexity-panel");
  page.on("console", (message) => {
    if (message.type() === "error") complaints.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(`uncaught: ${error.message}`));
  await page.goto("./?backend=cpu");
  await ready();
});
test.afterEach(() => {
  expect(complaints).toEqual([]);
  complaints = [];
});
test.afterAll(() => page.close());

/** Its code comes when it is nearly in sight. */
async function ready(): Promise<void> {
  await panel.scrollIntoViewIfNeeded();
  await expect(panel.getByRole("button", { name: "Run" })).toBeEnabled({ timeout: 120_000 });
}

const section = (name: "recipes" | "texts"): Locator => panel.locator(`details#${name} > summary`);
const tab = (name: string): Locator => panel.getByRole("tab", { name });
const status = (): Locator => panel.getByRole("status").first();
const rowNames = (): Promise<string[]> => panel.locator("perplexity-table tbody th").allTextContents().then((names) => names.map((name) => name.trim().split(/\s/)[0]!));

async function saved(button: Locator): Promise<string> {
  const download = page.waitForEvent("download");
  await button.click();
  return readFileSync(await (await download).path(), "utf8");
}

/** What axe finds against WCAG 2 AA in the panel as it stands. */
async function violations(): Promise<string[]> {
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(readFileSync(axePath, "utf8"));
  return page.evaluate(async () => {
    interface Axe { run(context: string, options: object): Promise<{ violations: { id: string; nodes: { target: unknown; failureSummary?: string }[] }[] }> }
    const { violations } = await (window as unknown as { axe: Axe }).axe.run("perplexity-panel", { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] });
    return violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id} at ${JSON.stringify(target)}: ${failureSummary}`));
  });
}

test("the recipe editor says what is wrong beside the field, and adds what is right", async () => {
  await section("recipes").click();
  await panel.getByLabel("int4", { exact: false }).first().uncheck();
  await panel.getByRole("button", { name: "New recipe…" }).click();
  const add = panel.getByRole("button", { name: "Add recipe" });
  await add.click();
  await expect(panel.getByLabel("Name")).toHaveAttribute("aria-invalid", "true");
  await panel.getByLabel("Name").fill("nf4");
  await add.click();
  await expect(panel.locator("#name-note")).toContainText("There is a recipe named nf4");
  await panel.getByLabel("Name").fill("mixed");
  await panel.getByLabel("Outlier threshold").fill("-1");
  await add.click();
  await expect(panel.locator("#outlierThreshold-note")).toContainText("expected a number above 0");
  await panel.getByLabel("Outlier threshold").fill("");
  await panel.getByRole("button", { name: "Add an override" }).click();
  await panel.getByLabel("Tensors of override 1").fill("h.0.*");
  expect(await violations()).toEqual([]);
  await add.click();
  await expect(panel.getByLabel("mixed", { exact: false }).first()).toBeChecked();
  await section("recipes").click();
});

test("the text is chosen with its tokens and windows counted, and a window that cannot be is refused in its place", async () => {
  await section("texts").click();
  await expect(panel.getByText("8,594 tokens")).toBeVisible();
  await panel.getByLabel("Window, tokens").fill("257");
  await expect(panel.locator("#windowTokens-error")).toContainText("expected an integer from 2 to 256");
  await panel.getByLabel("Window, tokens").fill("");
  await panel.getByLabel("Read").selectOption("pasted text");
  await panel.getByLabel("Text to measure on", { exact: true }).fill(text);
  await expect(panel.getByText(/^\d+ scored, in 1 windows$/)).toBeVisible();
  expect(await violations()).toEqual([]);
  await section("texts").click();
});

test("a run can be cancelled, and paused between two recipes", async () => {
  const run = panel.locator("#run");
  await run.click();
  await expect(panel.getByRole("progressbar")).toBeVisible({ timeout: 60_000 });
  await run.click();
  await expect(status()).toHaveText("Cancelled.", { timeout: 60_000 });

  const done = panel.evaluate((element) => new Promise<void>((resolve) => element.addEventListener("done", () => resolve())));
  await run.click();
  await panel.getByRole("button", { name: "Pause" }).click();
  await expect(status()).toHaveText("Paused after 1 of 4.", { timeout: 60_000 });
  await panel.getByRole("button", { name: "Resume" }).click();
  await done;
  await expect(status()).toHaveText("Done: 4 recipes.");
});

test("the table holds the measured figures, the baseline first", async () => {
  comparison = decodeComparison(await saved(panel.getByRole("button", { name: "JSON" })));
  const [f32, int8, nf4, mixed] = comparison.rows;
  expect(comparison.rows.map(({ name }) => name)).toEqual(["f32", "int8", "nf4", "mixed"]);
  expect(await rowNames()).toEqual(["f32", "int8", "nf4", "mixed"]);
  expect(nf4!.klDivergence.mean).toBeGreaterThan(int8!.klDivergence.mean);
  expect(int8!.bitsPerWeight).toBeLessThan(9);
  expect(f32!.ratio).toBe(1);
  const cells = await panel.getByRole("row").filter({ hasText: "nf4" }).first().locator("td").allTextContents();
  expect(cells.slice(0, 3)).toEqual([nf4!.bitsPerWeight.toFixed(2), (nf4!.bytes.total / 1e6).toFixed(1), `${nf4!.perplexity.toFixed(2)} ± ${nf4!.standardError.toFixed(2)}`]);
  expect(mixed!.recipe.overrides).toEqual({ "h.0.*": { type: "int8", mode: "absmax", granularity: "channel" } });
});

test("a column sorts from the keyboard, explains itself, and more columns can be had", async () => {
  const divergence = panel.getByRole("columnheader", { name: "KL mean" });
  const divergenceOf = (name: string): number => comparison.rows.find((row) => row.name === name)!.klDivergence.mean;
  await divergence.getByRole("button").focus();
  await expect(panel.locator("perplexity-table .caption")).toContainText("Kullback–Leibler");
  await page.keyboard.press("Enter");
  await expect(divergence).toHaveAttribute("aria-sort", "ascending");
  await page.keyboard.press("Enter");
  await expect(divergence).toHaveAttribute("aria-sort", "descending");
  expect(await rowNames()).toEqual(["f32", ...["int8", "nf4", "mixed"].toSorted((a, b) => divergenceOf(b) - divergenceOf(a))]);
  const columns = await panel.getByRole("columnheader").count();
  await panel.getByRole("button", { name: "More columns" }).click();
  expect(await panel.getByRole("columnheader").count()).toBeGreaterThan(columns);
  await expect(panel.getByRole("columnheader", { name: "Δp RMS" })).toBeVisible();
});

test("CSV and Markdown hold every row, and what measured them", async () => {
  const [head, ...lines] = (await saved(panel.getByRole("button", { name: "CSV" }))).trim().split("\r\n").map((line) => line.split(","));
  expect(lines.map(([name]) => name)).toEqual(["f32", "int8", "nf4", "mixed"]);
  const [, , nf4] = lines;
  expect(Number(nf4![head!.indexOf("perplexity")])).toBe(comparison.rows[2]!.perplexity);
  expect(nf4!.at(head!.indexOf("engineVersion"))).toBe(version);
  expect(nf4!.at(head!.indexOf("backend"))).toBe("cpu");
  const markdown = await saved(panel.getByRole("button", { name: "Markdown" }));
  expect(markdown.split("\n").filter((line) => line.startsWith("|"))).toHaveLength(6);
  expect(markdown).toContain(`Nibble ${version} on the CPU: ${comparison.adapter.description}.`);
});

test("charts show every measured recipe, and are saved with the name of the engine", async () => {
  const chart = panel.locator('perplexity-figure[name="size-perplexity"]');
  await expect(chart.locator("circle")).toHaveCount(4);
  const drawing = await saved(chart.getByRole("button", { name: "SVG" }));
  expect(drawing).toContain(`Nibble ${version} on the CPU`);
  expect(drawing).not.toContain("var(--");
  const download = page.waitForEvent("download");
  await chart.getByRole("button", { name: "PNG" }).click();
  expect(readFileSync(await (await download).path()).subarray(1, 4).toString()).toBe("PNG");
  expect(await violations()).toEqual([]);
});

test("a square of the tensor map opens the weights before and after, with the levels", async () => {
  await tab("Sizes").focus();
  await page.keyboard.press("ArrowRight");
  await expect(tab("Tensors")).toHaveAttribute("aria-selected", "true");
  const square = panel.getByRole("button", { name: /^h\.0\.attn\.c_attn\.weight: int8/ });
  await square.focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  const histogram = panel.locator('perplexity-figure[name="weights-h.1.attn.c_proj.weight"]');
  await expect(histogram.getByRole("img", { name: "Histogram of 36,864 weights before and after, 120 bins, with 16 levels" })).toBeVisible({ timeout: 30_000 });
  await expect(panel.locator("perplexity-tensors .caption")).toContainText("NF4 has 16 levels");
  expect(await violations()).toEqual([]);
});

test("the text is shaded token by token, and both models say what they expected of the worst", async () => {
  await tab("Text").click();
  const tokens = panel.locator(".text span");
  expect((await tokens.allTextContents()).join("")).toBe(text);
  expect(await panel.locator(".text [class*=worse]").count()).toBeGreaterThan(5);
  expect(await panel.locator(".text [class*=better]").count()).toBeGreaterThan(5);
  await panel.locator(".text").focus();
  await page.keyboard.press("ArrowRight");
  await expect(panel.locator(".detail")).toHaveText(/%.* under f32, .*% under mixed$/);
  await panel.getByRole("button", { name: "What did they expect?" }).click();
  await expect(panel.getByRole("columnheader", { name: "mixed expected" })).toBeVisible({ timeout: 60_000 });
  expect(await violations()).toEqual([]);
});

test("the recipes continue one prompt, and the first difference is marked", async () => {
  await tab("Continuations").click();
  await panel.getByLabel("Prompt to continue").fill("One day, a small");
  await panel.getByLabel("Tokens", { exact: true }).fill("12");
  await panel.getByLabel("Tokens", { exact: true }).press("Tab");
  await panel.getByRole("button", { name: "Continue with each" }).click();
  await expect(panel.locator("perplexity-continuations").getByRole("status")).toHaveText("Done: 4 continuations.", { timeout: 60_000 });
  const [f32, ...others] = await panel.locator("perplexity-continuations dd").allTextContents();
  const marks = await panel.locator("perplexity-continuations mark").count();
  expect(marks).toBe(others.filter((other) => other !== f32).length);
  expect(await violations()).toEqual([]);
});

test("a link brings back recipes, text, protocol and prompt, and a damaged one is refused", async () => {
  await panel.getByRole("button", { name: "Link" }).click();
  await expect(status()).toHaveText("The link is copied, and in the address bar.");
  const link = await page.evaluate(() => navigator.clipboard.readText());
  expect(page.url()).toBe(link);

  await page.reload();
  await ready();
  await expect(status()).toHaveText("The settings are those of the link, made with models/stories-12m/.");
  await section("recipes").click();
  for (const name of ["int8", "nf4", "mixed"]) await expect(panel.getByRole("checkbox", { name: new RegExp(`^${name} `) })).toBeChecked();
  await expect(panel.getByRole("checkbox", { name: /^int4 / })).not.toBeChecked();
  await section("texts").click();
  await expect(panel.getByLabel("Text to measure on", { exact: true })).toHaveValue(text);
  await tab("Continuations").click();
  await expect(panel.getByLabel("Prompt to continue")).toHaveValue("One day, a small");

  await page.evaluate((broken) => location.replace(broken), link.slice(0, -9));
  await expect(panel.getByRole("alert").first()).toContainText("The link is damaged");
});

test("the lines in its guide place a panel that finds its model and text", async () => {
  const [, line] = /^(<perplexity-panel .*)$/m.exec(readFileSync(resolve(root, "docs/guides/panel.md"), "utf8")) ?? [];
  await page.goto("./?backend=cpu");
  await ready();
  await page.evaluate((html) => document.querySelector("perplexity-panel")!.outerHTML = html, line!);
  await section("texts").click();
  await expect(panel.getByText("8,594 tokens")).toBeVisible();
  await expect(panel.locator("#run")).toBeEnabled();
});

test("a panel that any script places takes its model, text and recipes as properties, and a row that failed says why", async () => {
  const files = seededCheckpoint({ nLayer: 1, nHead: 2, nEmbd: 12, nPositions: 24, vocabSize: 97, outliers: { channels: [3], gain: 1e-6 }, seed: 800 }); // with weights that f16 cannot hold
  const base64 = Object.fromEntries(Object.entries(files).map(([name, bytes]) => [name, Buffer.from(bytes).toString("base64")]));
  const rows = await page.evaluate(async (encoded) => {
    const placed = Object.assign(document.createElement("perplexity-panel"), {
      source: Object.fromEntries(Object.entries(encoded).map(([name, content]) => [name, Uint8Array.from(atob(content), (character) => character.charCodeAt(0))])),
      text: "a!b?c#d%e&f(g)h*i+j-".repeat(3), // one token per character, all of them in the small vocabulary
      chosen: ["f16", "int8"],
      backend: "cpu",
    });
    const found: string[] = [];
    placed.addEventListener("row", (event) => found.push((event as CustomEvent<ComparisonRow>).detail.name));
    document.querySelector("perplexity-panel")!.replaceWith(placed);
    await placed.start();
    return found;
  }, base64);
  expect(rows).toEqual(["f32", "f16", "int8"]);
  await expect(panel.getByRole("row").filter({ hasText: "f16" })).toContainText("±65504");
  await expect(status()).toHaveText("Done: 3 recipes, of which 1 could not run.");
});
