// npm run bench:page [-- --browser chromium|firefox] [--json FILE] and the options of npm run bench
// The bench page: with --browser, runs it there without a window; else serves it until interrupted, for any browser of this machine.
import { benchInBrowser, browserNames, servePage } from "./browser.ts";
import { commandOf, parseWords, writeReport } from "./commandLine.ts";
import type { BenchCommand } from "./node.ts";

export async function main({ vite, words }: BenchCommand): Promise<void> {
  const { json, browser, ...given } = parseWords(words, ["browser"]);
  const optionWords = { ...given, rivals: undefined }; // nobody serves them here
  if (browser === undefined) {
    console.log(`${await servePage(vite, optionWords)}\nOptions stand behind the ? as on the command line. Interrupt to end.`);
    return new Promise(() => undefined);
  }
  const name = browserNames.find((known) => known === browser);
  if (name === undefined) throw new RangeError(`--browser is "${browser}"; expected ${browserNames.join(" or ")}.`);
  await writeReport(await benchInBrowser(vite, name, { ...optionWords, command: commandOf("bench:page", words) }), json);
}
