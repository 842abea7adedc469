import type { Locator, Page } from "@playwright/test";
import type { PerplexityPanelElement } from "../../demo/panel/panelElement.ts";
import { alertLine, expect, fillSettings, generateGreedily, open, playLargeHub, ready, test, withoutWebGpu } from "./fixture.ts";
import { tolerances } from "../tolerances.ts";

type Look = readonly [widthPixels: 360 | 768 | 1440, colorScheme: "light" | "dark"];
const everyWidth: readonly Look[] = [[360, "light"], [768, "dark"], [1440, "light"]];
const narrowAndWide: readonly Look[] = [[360, "dark"], [1440, "light"]];

/** Major version of the Chromium that the pictures are of. */
const TAKEN_IN = "156";

/** Comes with Debian's fontconfig, which Chromium needs; the system's own font differs from machine to machine. */
const fonts = { text: '"DejaVu Sans"', figures: '"DejaVu Sans Mono"' };

test.use({ contextOptions: { reducedMotion: "reduce" } });

/** Sets the page in those, unhinted: hinting is a setting of each machine. Where they are missing other glyphs would move everything: skips there, but for CI. */
async function setFonts(page: Page): Promise<void> {
  const areThere = await page.evaluate(({ text, figures }) => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(`:root { font-family: ${text}; --mono: ${figures}; } * { text-rendering: geometricPrecision; }`);
    document.adoptedStyleSheets = [sheet];
    const context = document.createElement("canvas").getContext("2d")!;
    const width = (font: string): number => {
      context.font = `40px ${font}`;
      return context.measureText("Once upon a time").width;
    };
    return width(`${text}, monospace`) !== width("monospace") && width(`${figures}, serif`) !== width("serif");
  }, fonts);
  test.skip(!areThere && !process.env.CI, `The pictures were taken in ${fonts.text}, which is not installed here.`);
}

/** Compares a part of the page, at rest, with its pictures. What is measured is masked. */
async function expectLooks(page: Page, name: string, part: Locator, looks: readonly Look[]): Promise<void> {
  await setFonts(page);
  await page.evaluate(() => (document.activeElement as HTMLElement | null)?.blur());
  await page.mouse.move(0, 0);
  const isSameBrowser = page.context().browser()!.version().startsWith(`${TAKEN_IN}.`);
  const maxDiffPixels = isSameBrowser ? tolerances.differingPixels : tolerances.differingPixelsOfAnotherChromium;
  for (const [width, colorScheme] of looks) {
    await page.setViewportSize({ width, height: 900 });
    await page.emulateMedia({ colorScheme });
    await expect.soft(part).toHaveScreenshot(`${name}-${width}-${colorScheme}.png`, { maxDiffPixels, mask: timings(page), maskColor: "#808080" });
  }
}

const timings = (page: Page): Locator[] => [page.locator("#speed"), page.locator("#firstToken"), page.locator('td[data-label="write tok/s"]')];
const chooser = (page: Page): Locator => page.locator(".chooser");

test("the page looks as it did: ready, written, a token's alternatives", async ({ page }) => {
  await open(page, "cpu");
  await expectLooks(page, "header", page.locator("header"), everyWidth);
  await expectLooks(page, "chooser", chooser(page), everyWidth);
  await expectLooks(page, "ready", page.locator("#write"), everyWidth);
  await fillSettings(page, { Seed: "7" });
  await generateGreedily(page, 40);
  await expectLooks(page, "settings", page.locator("#write fieldset"), narrowAndWide);
  await page.getByText("More settings").click();
  const text = page.locator("#playground > .card");
  await expectLooks(page, "written", text, [[360, "dark"]]);
  await page.locator("#output span").nth(9).click();
  await expectLooks(page, "alternatives", text, everyWidth);
});

test("the page looks as it did: the form that opens a model, a load that failed, the question before a download", async ({ page, complaints }) => {
  await playLargeHub(page);
  await open(page, "cpu");
  const opener = page.getByRole("button", { name: "Open a model…" });
  await opener.click();
  await expect(page.locator("#keptTotal")).toHaveText(/12\.8 MB$/);
  await page.getByText("Revision and access token").click();
  await expectLooks(page, "opener", page.locator("#opener"), everyWidth);

  await page.getByLabel("Hub id, address").fill("./no-such-model/");
  await page.getByRole("button", { name: "Load", exact: true }).click();
  await expect(alertLine(page)).not.toBeEmpty();
  await ready(page);
  await opener.click();
  await expectLooks(page, "failed", chooser(page), narrowAndWide);

  await page.getByRole("combobox", { name: "Model" }).selectOption("GPT-2 small, 124M");
  await expect(page.locator("#offer")).toBeVisible({ timeout: 30_000 });
  await expectLooks(page, "question", chooser(page), narrowAndWide);
  complaints.splice(0); // what the hub was asked, and the 404
});

test("the page looks as it did: loading, without any model, without WebGPU", async ({ page, complaints }) => {
  await page.route("**/model.safetensors", () => undefined); // never answered
  await page.goto("./?backend=cpu");
  await expect(page.locator("#status")).toHaveText("Loading as int8:");
  await expectLooks(page, "loading", chooser(page), narrowAndWide);
  await page.unrouteAll();

  await page.route("**/models/stories-12m/config.json", (route) => route.fulfill({ json: {} }));
  await page.goto("./?backend=cpu");
  await expect(page.locator("#status")).toHaveText("No model is loaded.");
  await expectLooks(page, "no-model", chooser(page), narrowAndWide);
  await page.unrouteAll();
  complaints.splice(0);

  await withoutWebGpu(page);
  await page.goto("./");
  await ready(page);
  await expectLooks(page, "no-webgpu", chooser(page), narrowAndWide);
});

/** The panel, whose code comes when it is nearly in sight. */
async function panelOf(page: Page): Promise<Locator> {
  const panel = page.locator("perplexity-panel");
  await panel.scrollIntoViewIfNeeded();
  await expect(panel.getByRole("button", { name: "Run" })).toBeEnabled({ timeout: 120_000 });
  return panel;
}

/** Compares the presets that it begins with on the bundled text. */
const compare = (panel: Locator): Promise<void> => panel.evaluate((element) => (element as PerplexityPanelElement).start());

test("the panel looks as it did: idle, measured, each of its views", async ({ page }) => {
  await open(page, "cpu");
  const panel = await panelOf(page);
  await expectLooks(page, "panel-idle", panel, everyWidth);
  await compare(panel);
  await expectLooks(page, "panel-table", panel.locator("perplexity-table"), everyWidth);
  for (const [tab, looks] of [["Sizes", everyWidth], ["Tensors", narrowAndWide], ["Text", narrowAndWide], ["Continuations", narrowAndWide]] as const) {
    await panel.getByRole("tab", { name: tab }).click();
    await expectLooks(page, `panel-${tab.toLowerCase()}`, panel.getByRole("tabpanel"), looks);
  }
});

test("the page looks as the README shows it", async ({ page }) => {
  const picture = { maxDiffPixels: tolerances.differingPixelsOfTimings };
  await page.setViewportSize({ width: 1060, height: 920 });
  await open(page, "cpu");
  await setFonts(page);
  await page.locator("#seed").fill("7");
  await page.locator("#maxTokens").fill("64");
  await page.locator("#generate").click();
  await page.locator("#copy:enabled").waitFor();
  await page.locator("#output span").nth(9).hover();
  await expect.soft(page).toHaveScreenshot("readme-playground.png", picture);

  await page.setViewportSize({ width: 1060, height: 800 });
  await page.emulateMedia({ colorScheme: "dark" });
  await compare(await panelOf(page));
  await page.locator("#compare").evaluate((section) => section.scrollIntoView());
  await expect.soft(page).toHaveScreenshot("readme-comparison.png", picture);
});
