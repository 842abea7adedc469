/** What a page leaves in globalThis.results. @param {import("playwright").Page} page @param {string} address @returns {Promise<unknown>} rejects with what the page did not catch */
export async function resultsOf(page, address) {
  const failure = new Promise((_, reject) => page.once("pageerror", reject));
  const success = page.goto(address).then(() => page.waitForFunction(() => "results" in globalThis, null, { timeout: 120_000 }));
  await Promise.race([success, failure]);
  return page.evaluate(() => /** @type {typeof globalThis & { results: unknown }} */ (globalThis).results);
}
