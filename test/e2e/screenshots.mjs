// Takes the README's two pictures of the built page, in Chromium on the CPU backend. Usage: npm run screenshots
import { statSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright";
import { preview } from "vite";
import { chromiumFlags, findChromium } from "../setup/locate.mjs";

const folder = join(import.meta.dirname, "screenshots");
/** Nobody should wait for a picture. */
const limitBytes = 150_000;

const server = await preview({ preview: { port: 0 } });
const address = server.resolvedUrls?.local[0];
if (address === undefined) throw new Error("The preview server has no address.");
const browser = await chromium.launch({ executablePath: findChromium() ?? undefined, args: chromiumFlags });

/** @param {"light" | "dark"} colorScheme @param {number} height */
async function openPage(colorScheme, height) {
  const page = await browser.newPage({ viewport: { width: 1060, height }, colorScheme, reducedMotion: "reduce", serviceWorkers: "block" });
  await page.goto(`${address}?backend=cpu`);
  await page.locator("#generate:enabled").waitFor();
  return page;
}

/** @param {string} name @param {import("playwright").Page} page */
async function take(name, page) {
  const path = join(folder, `${name}.png`);
  await page.screenshot({ path });
  await page.close();
  const { size } = statSync(path);
  console.log(`${path}: ${size} bytes`);
  if (size > limitBytes) throw new Error(`${path} has ${size} bytes; expected at most ${limitBytes}.`);
}

const written = await openPage("light", 820);
await written.locator("#seed").fill("7");
await written.locator("#maxTokens").fill("64");
await written.locator("#generate").click();
await written.locator("#copy:enabled").waitFor();
await written.locator("#output span").nth(9).hover();
await take("playground", written);

const measured = await openPage("dark", 800);
await measured.locator("#compare").scrollIntoViewIfNeeded();
await measured.locator("perplexity-panel #run:enabled").waitFor(); // its code comes when it is nearly in sight
await measured.locator("perplexity-panel").evaluate(async (element) => /** @type {import("../../demo/panel/perplexityPanel.ts").PerplexityPanel} */ (element).start());
await measured.locator("#compare").evaluate((section) => section.scrollIntoView());
await take("comparison", measured);

await browser.close();
await server.close();
