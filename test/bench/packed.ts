// What npm run bench:pack makes a single file of: npm run bench on the machine's own Vulkan driver, with the engine inside.
import * as engine from "nibble-webgpu";
import { benchHere, parseWords, writeReport } from "./commandLine.ts";
import { readOptions } from "./options.ts";

const words = process.argv.slice(2);
const { json, ...given } = parseWords(words, []);
await writeReport(await benchHere(engine, readOptions({ ...given, rivals: "" }), new URL("./", import.meta.url), { command: ["node bench.mjs", ...words].join(" ") }), json);
process.exit(); // Dawn keeps the process alive while its GPU object exists
