import type { Page } from "@playwright/test";
import { alertLine, expect, field, fillSettings, generateButton, generateGreedily, open, ready, test, written } from "./fixture.ts";

test("the playground is worked by keyboard alone, and shows what each token's rivals were", async ({ page, context }) => {
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await open(page, "cpu");
  await fillSettings(page, { Temperature: "0", Tokens: "8" });
  const prompt = field(page, "Prompt");
  await prompt.focus();
  await page.keyboard.press("Control+A");
  await page.keyboard.type("<img src=x onerror=alert(1)> Once upon a time");
  await page.keyboard.press("Control+Enter");
  await expect(page.locator("#outcome")).toContainText("done");
  await expect(page.locator("#output b")).toHaveText("<img src=x onerror=alert(1)> Once upon a time");
  await expect(page.locator("#output img")).toHaveCount(0);
  await expect(page.locator("#spoken")).not.toBeEmpty();

  await generateButton(page).focus();
  await page.keyboard.press("Tab");
  await expect(page.getByRole("button", { name: "Continue" })).toBeFocused();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter"); // Copy
  await expect(page.locator("#outcome")).toHaveText("copied");
  expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(await page.locator("#output").textContent());

  await page.keyboard.press("Tab");
  await page.keyboard.press("End");
  const rows = page.locator("#alternatives li");
  await expect(rows).toHaveCount(5);
  await expect(page.locator("#output span").last()).toHaveClass("current");
  const taken = page.locator("#alternatives .taken");
  await expect(taken).toContainText(/\d %$/);
  const last = await taken.textContent();
  await page.keyboard.press("Home");
  await expect(taken).not.toHaveText(last!);
  await page.locator("#output span").last().click(); // as a tap does
  await expect(taken).toHaveText(last!);

  await page.keyboard.press("Escape"); // nothing runs: nothing happens
  await expect(alertLine(page)).toBeEmpty();
});

test("what is written is spoken in whole sentences, each once, and errors and the state of a load as they come", async ({ page }) => {
  await open(page, "cpu");
  await page.evaluate(() => {
    const spoken = document.querySelector("#spoken")!;
    const said: string[] = [];
    Object.assign(window, { said });
    new MutationObserver(() => said.push(spoken.textContent)).observe(spoken, { childList: true, characterData: true, subtree: true });
  });
  const text = await generateGreedily(page, 60);
  const said = await page.evaluate(() => (window as unknown as { said: string[] }).said);
  expect(said.length).toBeGreaterThan(2);
  for (const sentence of said.slice(0, -1)) expect(sentence).toMatch(/[.!?]["”]?$/);
  expect(said.join(" ")).toBe(text.replace(/\s+/g, " ").trim());
  for (const [id, role] of [["spoken", "paragraph"], ["alert", "alert"], ["status", "status"], ["outcome", "status"]] as const) await expect(page.locator(`#${id}`)).toHaveRole(role);
  await expect(page.locator("#spoken")).toHaveAttribute("aria-live", "polite");
});

test("penalties change the text, and a stop text ends it", async ({ page }) => {
  await open(page, "cpu");
  const plain = await generateGreedily(page, 24);
  await fillSettings(page, { Repetition: "1.4" });
  expect(await generateGreedily(page, 24)).not.toBe(plain);
  await fillSettings(page, { Repetition: "", "Stop at": ".\n!" });
  expect(await generateGreedily(page, 24)).toBe(plain.slice(0, plain.indexOf(".")));
  await expect(page.locator("#outcome")).toHaveText(/reached a stop text$/);

  await fillSettings(page, { Temperature: "9" });
  await page.locator("#moreSettings").evaluate((element: HTMLDetailsElement) => (element.open = false));
  await fillSettings(page, { "Min-p": "7", Temperature: "1" });
  await page.locator("#moreSettings").evaluate((element: HTMLDetailsElement) => (element.open = false));
  await generateButton(page).click();
  await expect(field(page, "Min-p")).toBeFocused(); // the browser names the wrong field, in a section that has opened for it
});

/** The names of all that the page has stored, wherever a page can; the service worker, which the other tests block, has a test of its own. */
async function storedNames(page: Page): Promise<Record<string, string[]>> {
  return page.evaluate(async () => {
    const namesIn = async (folder: FileSystemDirectoryHandle): Promise<string[]> => {
      const names: string[] = [];
      for await (const [name, handle] of folder.entries()) names.push(...(handle instanceof FileSystemDirectoryHandle ? (await namesIn(handle)).map((inner) => `${name}/${inner}`) : [name]));
      return [...new Set(names.map((name) => name.replace(/[0-9a-f]{64}(\.\w+(?=\.))?/, "KEY")))].sort();
    };
    return {
      local: Object.keys(localStorage),
      session: Object.keys(sessionStorage),
      databases: (await indexedDB.databases()).map(({ name }) => name!),
      caches: await caches.keys(),
      files: await namesIn(await navigator.storage.getDirectory()),
    };
  });
}

test("settings survive a reload; beside them and the quantized weights nothing is stored: no prompt, text or token", async ({ page, context }) => {
  await open(page, "cpu");
  const weights = { session: [], databases: [], caches: [], files: ["nibble-webgpu/KEY.json", "nibble-webgpu/KEY.weights"] };
  expect(await storedNames(page)).toEqual({ local: [], ...weights });
  await page.getByRole("button", { name: "Open a model…" }).click();
  await page.getByText("Revision and access token").click();
  await page.getByLabel("Access token").fill("hf_secret");
  await generateGreedily(page, 3);
  await fillSettings(page, { Temperature: "0.5", "Top-k": "", Seed: "11", "Stop at": "the end" });
  await page.getByLabel("Weights").selectOption("nf4");
  await ready(page);
  await page.reload();
  await ready(page);
  await expect(field(page, "Temperature")).toHaveValue("0.5");
  await expect(field(page, "Top-k")).toHaveValue("");
  await expect(field(page, "Seed")).toHaveValue("11");
  await expect(page.locator("#stop")).toHaveValue("the end");
  await expect(page.getByLabel("Weights")).toHaveValue("nf4");
  const { origins, cookies } = await context.storageState();
  expect(JSON.stringify(origins)).not.toMatch(/secret|upon/);
  expect(cookies).toEqual([]);
  expect(await storedNames(page)).toEqual({ local: ["nibble-settings"], ...weights });

  await page.getByText("More settings").click();
  await page.getByRole("button", { name: "Defaults" }).click();
  await expect(field(page, "Temperature")).toHaveValue("0.8");
  await page.reload();
  await expect(field(page, "Temperature")).toHaveValue("0.8");
});

test("blocked storage costs the settings of the last visit and nothing else", async ({ page }) => {
  await page.addInitScript(() => Object.defineProperty(window, "localStorage", { get: () => { throw new DOMException("The operation is insecure.", "SecurityError"); } }));
  await open(page, "cpu");
  expect(await generateGreedily(page, 3)).toBe(" a little girl");
  expect(await written(page)).not.toBe("");
});
