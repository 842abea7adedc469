import type { Browser, Page } from "@playwright/test";
import type { AxeResults } from "axe-core";
import { readdirSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { tolerances } from "../tolerances.ts";
import { alertLine, expect, field, generateGreedily, open, playLargeHub, ready, root, test, watchShifts } from "./fixture.ts";

const axe = readFileSync(resolve(root, "node_modules/axe-core/axe.min.js"), "utf8");

/** What axe objects to on a narrow and on a wide screen, as "rule: element". The panel is examined by its own tests. */
async function objections(page: Page): Promise<string[]> {
  await page.evaluate(axe);
  const found: string[] = [];
  for (const width of [360, 1440]) {
    await page.setViewportSize({ width, height: 900 });
    const { violations } = await page.evaluate(() => (window as unknown as { axe: { run(context: object): Promise<AxeResults> } }).axe.run({ exclude: [["perplexity-panel"]] }));
    found.push(...violations.flatMap(({ id, nodes }) => nodes.map(({ target }) => `${width} px: ${id}: ${target.join(" ")}`)));
  }
  return found;
}

interface TraceEvent {
  name: string;
  pid: number;
  tid: number;
  /** Microseconds of the processor. */
  tdur?: number;
  args: { name?: string };
}
const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

/** How the page scrolls to its sections, and what moves on it by itself. */
const motion = (page: Page): Promise<[scrolling: string, animations: number]> => page.evaluate(() => [getComputedStyle(document.documentElement).scrollBehavior, document.getAnimations().length]);

for (const [colorScheme, reducedMotion, scrolling] of [["light", "reduce", "auto"], ["dark", "no-preference", "smooth"]] as const) {
  test(`axe finds nothing in ${colorScheme} colours: loading, open, written, failed; motion: ${reducedMotion}`, async ({ page, complaints }) => {
    await page.emulateMedia({ colorScheme, reducedMotion });
    await page.route("**/model.safetensors", () => undefined); // never answered
    await page.goto("./?backend=cpu");
    await expect(page.locator("#status")).toHaveText("Loading as int8:");
    expect(await objections(page)).toEqual([]);

    await page.unrouteAll();
    await open(page, "cpu");
    await page.getByRole("button", { name: "Open a model…" }).click();
    await page.getByText("Revision and access token").click();
    await page.locator("#kept > summary").click();
    await playLargeHub(page);
    await page.getByRole("combobox", { name: "Model" }).selectOption({ index: 1 });
    await expect(page.locator("#offer")).toBeVisible({ timeout: 30_000 });
    await generateGreedily(page, 4);
    await page.locator("#output").focus();
    await expect(page.locator("#alternatives li")).toHaveCount(5);
    expect(await objections(page)).toEqual([]);
    expect(await motion(page)).toEqual([scrolling, 0]);

    await page.getByLabel("Hub id, address").fill("./no-such-model/");
    await page.getByRole("button", { name: "Load", exact: true }).click();
    await expect(alertLine(page)).not.toBeEmpty();
    expect(await objections(page)).toEqual([]);
    complaints.splice(0); // what the hub was asked, and the 404
  });
}

test("the page is painted and can be written in before the weights arrive, and nothing moves when they do, on any screen", async ({ page }) => {
  const shifts = await watchShifts(page);
  let answer = (): void => undefined;
  const asked = new Promise<void>((resolve) => (answer = resolve));
  await page.route("**/model.safetensors", async (route) => {
    await asked;
    await route.continue();
  });
  await page.goto("./?backend=cpu");
  await expect.poll(() => page.evaluate(() => performance.getEntriesByName("first-contentful-paint").length)).toBe(1);
  await field(page, "Prompt").fill("One day");
  await expect(page.locator("#generate")).toBeDisabled();
  answer();
  await ready(page);
  await expect(page.locator("#generate")).toBeEnabled();
  await expect(field(page, "Prompt")).toHaveValue("One day");
  expect(await shifts()).toBeLessThan(tolerances.layoutShift);

  await page.unrouteAll();
  for (const width of [360, 768]) {
    await page.setViewportSize({ width, height: 900 });
    await open(page, "cpu");
    expect(await shifts(), `${width} px`).toBeLessThan(tolerances.layoutShift);
  }
});

test("the policy forbids inline scripts and other servers, and the page never runs into it by itself", async ({ page, complaints }) => {
  const policy = /content="(default-src[^"]*)"/.exec(readFileSync(resolve(root, "dist-page/index.html"), "utf8"))![1]!;
  expect(policy).not.toContain("unsafe");
  await page.addInitScript(() => {
    const violations: string[] = [];
    Object.assign(window, { violations });
    addEventListener("securitypolicyviolation", ({ effectiveDirective }) => violations.push(effectiveDirective));
  });
  const violations = (): Promise<string[]> => page.evaluate(() => (window as unknown as { violations: string[] }).violations);
  await open(page, "cpu");
  await generateGreedily(page, 3);
  expect(await violations()).toEqual([]);
  await page.evaluate(async () => {
    const script = document.createElement("script");
    script.textContent = "window.wasRun = true";
    document.body.append(script);
    await fetch("https://example.com/").catch(() => undefined);
  });
  await expect.poll(violations).toEqual(["script-src-elem", "connect-src"]);
  expect(await page.evaluate(() => "wasRun" in window)).toBe(false);
  expect(complaints.splice(0).filter((line) => !line.includes("Content Security Policy"))).toEqual([]);
});

/** What the page's thread computed at a stretch, in ms of the processor: not what it waited while others computed. */
async function pageTasksMs(browser: Browser, page: Page, work: () => Promise<void>): Promise<number[]> {
  await browser.startTracing(page, { categories: ["toplevel"] });
  await work();
  const { traceEvents } = JSON.parse((await browser.stopTracing()).toString()) as { traceEvents: readonly TraceEvent[] };
  const tasks = traceEvents.filter(({ name, tdur }) => name === "ThreadControllerImpl::RunTask" && tdur !== undefined);
  const threads = traceEvents.filter(({ name, args }) => name === "thread_name" && args.name === "CrRendererMain");
  const ofThread = threads.map(({ pid, tid }) => tasks.filter((task) => task.pid === pid && task.tid === tid).map(({ tdur }) => tdur! / 1000));
  return ofThread.toSorted((a, b) => sum(b) - sum(a))[0]!; // the page's own renderer is the busiest
}

test("the page's own thread computes for at most 50 ms at a stretch while the model loads, and while it writes", async ({ browser, page }, testInfo) => {
  for (const [what, work] of [
    ["load", () => open(page, "cpu")],
    ["write", () => generateGreedily(page, 200).then(() => undefined)],
  ] as const) {
    let longest = Infinity;
    for (let round = 1; round <= 3 && longest > 50; round++) { // a busy machine slows a task down, but not the same one three times
      const tasksMs = await pageTasksMs(browser, page, work);
      expect(tasksMs.length).toBeGreaterThan(100); // control: this was the thread
      longest = Math.max(...tasksMs);
      testInfo.annotations.push({ type: what, description: `${tasksMs.length} tasks, the longest ${longest.toFixed(1)} ms` });
    }
    expect(longest).toBeLessThanOrEqual(50);
  }
});

test("JavaScript gzipped, with workers: at most 99 kB until the panel is in sight, 145 kB with it, 213 kB with all parts, beside GPT-2's vocabulary and the charts", () => {
  const folder = resolve(root, "dist-page/assets");
  const scripts = readdirSync(folder).filter((name) => name.endsWith(".js"));
  const code = (name: string): string => readFileSync(resolve(folder, name), "utf8");
  const named = (...names: readonly string[]): string[] => {
    const found = scripts.filter((script) => names.some((name) => script.startsWith(`${name}-`)));
    expect(found).toHaveLength(names.length); // control: each is there, and is one file
    return found;
  };
  /** With all that they import, but for import(). */
  const closureOf = (files: readonly string[]): Set<string> => {
    const closure = new Set(files);
    for (const script of closure) for (const [, imported] of code(script).matchAll(/(?:from|import)"\.\/([^"]+)"/g)) closure.add(imported!); // grows on the way
    return closure;
  };
  const apart = named("vocabulary", "plots");
  const bytesOf = (files: Iterable<string>): number => sum([...files].map((name) => (apart.includes(name) ? 0 : gzipSync(code(name), { level: 9 }).length)));
  const initial = closureOf(named("page", "engineWorker", "quantizerWorker"));
  const withPanel = new Set([...initial, ...closureOf(named("panel"))]);
  expect(bytesOf(initial)).toBeLessThanOrEqual(99_000);
  expect(bytesOf(withPanel)).toBeLessThanOrEqual(145_000);
  expect(bytesOf(scripts)).toBeLessThanOrEqual(213_000);
});
