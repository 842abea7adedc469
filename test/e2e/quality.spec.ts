import type { Page } from "@playwright/test";
import type { AxeResults } from "axe-core";
import { readdirSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { alertLine, expect, field, generateGreedily, open, ready, root, test } from "./fixture.ts";

const axe = readFileSync(resolve(root, "node_modules/axe-core/axe.min.js"), "utf8");

/** What axe objects to, as "rule: element". The panel is examined by its own tests. */
async function objections(page: Page): Promise<string[]> {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => (window as unknown as { axe: { run(context: object): Promise<AxeResults> } }).axe.run({ exclude: [["perplexity-panel"]] }));
  return violations.flatMap(({ id, nodes }) => nodes.map(({ target }) => `${id}: ${target.join(" ")}`));
}

for (const colorScheme of ["light", "dark"] as const) {
  test(`axe finds nothing in ${colorScheme} colours: loading, open, written, failed`, async ({ page, complaints }) => {
    await page.emulateMedia({ colorScheme });
    await page.route("**/model.safetensors", () => undefined); // never answered
    await page.goto("./?backend=cpu");
    await expect(page.locator("#status")).toHaveText("Loading as int8:");
    expect(await objections(page)).toEqual([]);

    await page.unrouteAll();
    await open(page, "cpu");
    await page.getByRole("button", { name: "Open a model…" }).click();
    await page.getByText("Revision and access token").click();
    await page.getByRole("combobox", { name: "Model" }).selectOption({ index: 1 });
    await generateGreedily(page, 4);
    await page.locator("#output").focus();
    await expect(page.locator("#alternatives li")).toHaveCount(5);
    expect(await objections(page)).toEqual([]);

    await page.getByLabel("Hub id, address").fill("./no-such-model/");
    await page.getByRole("button", { name: "Load", exact: true }).click();
    await expect(alertLine(page)).not.toBeEmpty();
    expect(await objections(page)).toEqual([]);
    complaints.splice(0); // the 404
  });
}

test("the page is painted and can be written in before the weights arrive, and nothing moves when they do", async ({ page }) => {
  await page.addInitScript(() => {
    const shifts: number[] = [];
    Object.assign(window, { shifts });
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries() as (PerformanceEntry & { value: number })[]) shifts.push(entry.value);
    }).observe({ type: "layout-shift", buffered: true });
  });
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
  expect(await page.evaluate(() => (window as unknown as { shifts: number[] }).shifts.reduce((sum, value) => sum + value, 0))).toBeLessThan(0.1); // what web vitals call good
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

test("the page's JavaScript is at most 168 kB gzipped (150 is the aim), beside GPT-2's vocabulary and the charts", () => {
  const folder = resolve(root, "dist-page/assets");
  const scripts = readdirSync(folder).filter((name) => name.endsWith(".js"));
  const sizes = scripts.map((name) => ({ name, bytes: gzipSync(readFileSync(resolve(folder, name)), { level: 9 }).length }));
  const apart = /^(vocabulary|plots)-/;
  expect(sizes.filter(({ name }) => /^vocabulary-/.test(name))).toHaveLength(1); // control: it is not counted, and there
  const counted = sizes.filter(({ name }) => !apart.test(name));
  expect(counted.reduce((sum, { bytes }) => sum + bytes, 0), JSON.stringify(counted)).toBeLessThanOrEqual(168_000);
});
