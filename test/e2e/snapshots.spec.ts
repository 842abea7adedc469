import type { Locator, Page } from "@playwright/test";
import { alertLine, expect, fillSettings, generateGreedily, open, playLargeHub, ready, test, withoutWebGpu } from "./fixture.ts";

type Look = readonly [widthPixels: 360 | 768 | 1440, colorScheme: "light" | "dark"];
const everyWidth: readonly Look[] = [[360, "light"], [768, "dark"], [1440, "light"]];
const narrowAndWide: readonly Look[] = [[360, "dark"], [1440, "light"]];

/** Comes with Debian's fontconfig, which Chromium needs; the system's own font differs from machine to machine. */
const fonts = { text: '"DejaVu Sans"', figures: '"DejaVu Sans Mono"' };

test.use({ contextOptions: { reducedMotion: "reduce" } });

/** Sets the page in those, unhinted: hinting is a setting of each machine. Skips where they are missing, since other glyphs would move everything. */
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
  test.skip(!areThere, `The pictures were taken in ${fonts.text}, which is not installed here.`);
}

/** Compares a part of the page, at rest, with its pictures. What is measured is masked. */
async function expectLooks(page: Page, name: string, part: Locator, looks: readonly Look[]): Promise<void> {
  await setFonts(page);
  await page.evaluate(() => (document.activeElement as HTMLElement | null)?.blur());
  await page.mouse.move(0, 0);
  for (const [width, colorScheme] of looks) {
    await page.setViewportSize({ width, height: 900 });
    await page.emulateMedia({ colorScheme });
    await expect.soft(part).toHaveScreenshot(`${name}-${width}-${colorScheme}.png`, { mask: [page.locator("#speed"), page.locator("#firstToken")], maskColor: "#808080" });
  }
}

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
