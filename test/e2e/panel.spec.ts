import { expect, type Locator, type Page, test } from "@playwright/test";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { decodeComparison } from "../../src/evaluate/encodeComparison.ts";
import type { Comparison, ComparisonRow } from "../../src/types.ts";
import type { PerplexityPanelElement } from "../../demo/panel/panelElement.ts";
import { seededCheckpoint } from "../fixtures/seededCheckpoint.ts";
import { tolerances } from "../tolerances.ts";
import { watchShifts } from "./fixture.ts";

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
let shifts: () => Promise<number>;

test.beforeAll(async ({ browser }) => {
  page = await browser.newPage({ permissions: ["clipboard-read", "clipboard-write"] });
  shifts = await watchShifts(page);
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

/** What axe finds against WCAG 2 AA in the panel as it stands, in light colours and in dark ones. */
async function violations(): Promise<string[]> {
  const found: string[] = [];
  for (const colorScheme of ["dark", "light"] as const) {
    await page.emulateMedia({ colorScheme });
    found.push(...(await violationsInThese()));
  }
  return found;
}

async function violationsInThese(): Promise<string[]> {
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

test("a run rests between windows, its rows can be saved before it is over, and it is cancelled at once", async () => {
  const run = panel.locator("#run");
  expect(await violations()).toEqual([]);
  await run.click();
  await panel.getByRole("button", { name: "Pause" }).click();
  await expect(status()).toHaveText("Paused after 0 of 4.", { timeout: 60_000 }); // in front of the baseline's only window
  await expect(panel.getByRole("progressbar")).toBeVisible();
  await expect(panel.getByRole("button", { name: "CSV" })).toBeDisabled();
  expect(await violations()).toEqual([]);

  const measured = panel.evaluate((element: PerplexityPanelElement) => new Promise<void>((resolve) => element.addEventListener("row", () => resolve(element.pause()), { once: true })));
  await panel.getByRole("button", { name: "Resume" }).click();
  await measured;
  await expect(status()).toHaveText("Paused after 1 of 4.");
  await run.click();
  await expect(status()).toHaveText("Cancelled.");
  const { rows, plannedRows } = decodeComparison(await saved(panel.getByRole("button", { name: "JSON" })));
  expect([rows.map(({ name }) => name), plannedRows]).toEqual([["f32"], 4]);
  expect(await saved(panel.getByRole("button", { name: "Markdown" }))).toContain("1 of 4 recipes: the run was not over.");
  const download = page.waitForEvent("download");
  await panel.getByRole("button", { name: "CSV" }).click();
  expect((await download).suggestedFilename()).toBe("nibble-comparison-1-of-4.csv");
});

test("a run to its end moves nothing but by the click that starts it", async () => {
  const before = await shifts();
  const done = panel.evaluate((element) => new Promise<void>((resolve) => element.addEventListener("done", () => resolve())));
  await panel.locator("#run").click();
  await done;
  await expect(status()).toHaveText("Done: 4 recipes.");
  await expect(panel.locator('perplexity-figure[name="size-perplexity"] circle')).toHaveCount(4); // the last of the charts to come
  expect((await shifts()) - before).toBeLessThan(0.01);
});

test("on a narrow screen nothing scrolls sideways, rows are cards, and are a table still", async () => {
  const widths = (): Promise<[number, number]> => panel.getByRole("region", { name: "Results" }).evaluate(({ scrollWidth, clientWidth }) => [scrollWidth, clientWidth]);
  const more = panel.getByRole("button", { name: /columns$/ });
  const size = page.viewportSize()!;
  const wide = await panel.getByRole("columnheader").count();
  for (const [width, columns] of [[768, 5], [360, 5]] as const) {
    await page.setViewportSize({ width, height: 800 });
    await expect(panel.getByRole("columnheader")).toHaveCount(columns);
    const [scrollWidth, clientWidth] = await widths();
    expect(scrollWidth).toBeLessThanOrEqual(clientWidth);
    expect(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth)).toBe(true);
  }
  expect(columnsOf(await panel.getByRole("row").filter({ hasText: "int8" }).first().getByRole("cell").evaluateAll((cells) => cells.map((cell) => cell.getBoundingClientRect().left)))).toBe(2);
  await more.click();
  await expect(panel.getByRole("columnheader", { name: "Δp RMS" })).toBeVisible();
  const [scrollWidth, clientWidth] = await widths();
  expect(scrollWidth).toBeLessThanOrEqual(clientWidth);
  expect(await violations()).toEqual([]);
  await more.click();
  await page.setViewportSize(size);
  await expect(panel.getByRole("columnheader")).toHaveCount(wide);
});
const columnsOf = (lefts: readonly number[]): number => new Set(lefts.map(Math.round)).size;

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
  await expect(panel.locator("perplexity-tensors").getByRole("status")).toHaveText("h.1.attn.c_proj.weight, 192 × 192, NF4, block 64");
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
  await expect(status()).toHaveText("The settings are those of the link.");
  await section("recipes").click();
  for (const name of ["int8", "nf4", "mixed"]) await expect(panel.getByRole("checkbox", { name: new RegExp(`^${name} `) })).toBeChecked();
  await expect(panel.getByRole("checkbox", { name: /^int4 / })).not.toBeChecked();
  await section("texts").click();
  await expect(panel.getByLabel("Text to measure on", { exact: true })).toHaveValue(text);
  await panel.locator("#run").click(); // what looks into a run comes with it
  await tab("Continuations").click();
  await expect(panel.getByLabel("Prompt to continue")).toHaveValue("One day, a small");
  await panel.locator("#run").click();
  await expect(status()).toHaveText("Cancelled.");

  await page.evaluate((broken) => location.replace(broken), link.slice(0, -9));
  await expect(panel.getByRole("alert").first()).toContainText("The link is damaged");
  expect(await violations()).toEqual([]);
});

/** A checkpoint of 97 tokens, and a text of those. */
const tinyText = "a!b?c#d%e&f(g)h*i+j-".repeat(3);
const tinyFiles = seededCheckpoint({ nLayer: 1, nHead: 2, nEmbd: 12, nPositions: 24, vocabSize: 97, seed: 800 });

/** Serves it as a folder beside the page. */
async function serveTiny(to: Page): Promise<void> {
  await to.route("**/tiny/*", (route) => {
    const content = tinyFiles[new URL(route.request().url()).pathname.split("/").at(-1) as keyof typeof tinyFiles] as Uint8Array | undefined;
    return content ? route.fulfill({ body: Buffer.from(content) }) : route.fulfill({ status: 404 });
  });
}

test("a link takes a fresh page to the model, text and figures of the run", async ({ browser }) => {
  const measure = async (on: Page): Promise<number[]> => {
    const done = on.locator("perplexity-panel").evaluate((element) => new Promise<number[]>((resolve) => element.addEventListener("done", (event) => resolve((event as CustomEvent<Comparison>).detail.rows.map(({ perplexity }) => perplexity)))));
    await on.locator("perplexity-panel #run").click();
    return done;
  };
  await serveTiny(page);
  await page.goto("./?backend=cpu");
  await ready();
  await page.getByRole("button", { name: "Open a model…" }).click();
  await page.getByLabel("Hub id, address").fill("./tiny/");
  await page.getByRole("button", { name: "Load", exact: true }).click();
  await expect.poll(() => panel.evaluate((element: PerplexityPanelElement) => (element.source as URL).href)).toMatch(/\/tiny\/$/);
  await section("texts").click();
  await panel.getByLabel("Read").selectOption("pasted text");
  await panel.getByLabel("Text to measure on", { exact: true }).fill(tinyText);
  const figures = await measure(page);
  expect(figures.every(Number.isFinite)).toBe(true);
  await panel.getByRole("button", { name: "Link" }).click();
  await expect(status()).toHaveText("The link is copied, and in the address bar.");

  const fresh = await browser.newPage();
  await serveTiny(fresh);
  await fresh.goto(page.url());
  const other = fresh.locator("perplexity-panel");
  await other.scrollIntoViewIfNeeded();
  await expect(other.locator("#run")).toBeEnabled({ timeout: 60_000 });
  await expect(other).toContainText("The link was made with ./tiny/.");
  await other.getByRole("button", { name: "Use that model" }).click();
  await expect(fresh.getByRole("combobox", { name: "Model" })).toHaveValue("./tiny/");
  await expect(other.getByRole("button", { name: "Use that model" })).toHaveCount(0);
  expect(await measure(fresh)).toEqual(figures);
  await fresh.close();
  complaints = complaints.filter((complaint) => !complaint.includes("404")); // files that a checkpoint need not have
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

test("on WebGPU the figures are those of the CPU, and what is saved names the adapter", async () => {
  const base64 = Object.fromEntries(Object.entries(tinyFiles).map(([name, bytes]) => [name, Buffer.from(bytes).toString("base64")]));
  const measure = (backend: "webgpu" | "cpu"): Promise<number[]> =>
    page.evaluate(
      async ([encoded, text, backend]) => {
        const source = Object.fromEntries(Object.entries(encoded).map(([name, content]) => [name, Uint8Array.from(atob(content), (character) => character.charCodeAt(0))]));
        const placed = Object.assign(document.createElement("perplexity-panel"), { source, text, chosen: ["int8", "nf4"], backend });
        const perplexities: number[] = [];
        placed.addEventListener("row", (event) => perplexities.push((event as CustomEvent<ComparisonRow>).detail.perplexity));
        document.querySelector("perplexity-panel")!.replaceWith(placed);
        await placed.start();
        return perplexities;
      },
      [base64, tinyText, backend] as const,
    );
  const onCpu = await measure("cpu");
  const onGpu = await measure("webgpu");
  expect(onGpu).toHaveLength(3);
  for (const [i, perplexity] of onGpu.entries()) expect(Math.abs(perplexity / onCpu[i]! - 1)).toBeLessThan(tolerances.measureRelative);
  const { adapter } = decodeComparison(await saved(panel.getByRole("button", { name: "JSON" })));
  expect(adapter).toMatchObject({ backend: "webgpu", isFallback: true });
  const markdown = await saved(panel.getByRole("button", { name: "Markdown" }));
  expect(markdown).toContain(`Nibble ${version} on WebGPU: ${adapter.description}.`);
  expect(await saved(panel.getByRole("button", { name: "CSV" }))).toContain(`,webgpu,${adapter.description},`);
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
