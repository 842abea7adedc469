// Measures the embedded model under the recipes of tableRows.mjs, under each KV cache and under what fitToBudget() finds, on the evaluation text and writes the tables
// of docs/guides/quantization.md, of which README.md repeats some rows.
// Usage: npm run table [-- --backend cpu|webgpu] [--protocol strided|disjoint|llama.cpp] [--rows int8,nf4] [--shard 1/16] [--print]
// --rows measures these alone, and puts them in the place of the lines of the same names, which no other option changes; --shard scores a part of the
// windows, for a quick look; --print leaves both files as they are. The engine is the built one: Node finds the package by its own name.
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { compareQuantizations, describeFormat, fitToBudget } from "nibble-webgpu";
import { budgetRows, nameOfRow, readmeTable, tableRows } from "./tableRows.mjs";

/**
 * @typedef {import("nibble-webgpu").ComparisonRow} ComparisonRow
 * @typedef {import("nibble-webgpu").Comparison} Comparison
 * @typedef {import("nibble-webgpu").QuantizationRecipe} QuantizationRecipe
 */

const root = new URL("../../", import.meta.url);
const guide = "docs/guides/quantization.md";
const begin = "<!-- table:begin -->\n";
const end = "<!-- table:end -->";
const budgetsBegin = "Mixed recipes that `fitToBudget` chose on the calibration text, with a format for every matrix, beside the recipe whose size and rounding they have:";

const defaults = {
  backend: "cpu",
  protocol: "strided",
  rows: tableRows.map(nameOfRow).join(","),
  shard: "1/1",
};
const { values: options } = parseArgs({
  options: {
    backend: { type: "string", default: defaults.backend },
    protocol: { type: "string", default: defaults.protocol },
    rows: { type: "string", default: defaults.rows },
    shard: { type: "string", default: defaults.shard },
    print: { type: "boolean", default: false },
  },
});

/** What is not as in the tables. */
const changed = /** @type {(keyof typeof defaults)[]} */ (Object.keys(defaults)).filter((name) => options[name] !== defaults[name]);
/** Whether the pages keep what is not of these rows. */
const isPartial = changed.includes("rows");
if (isPartial && changed.length > 1 && !options.print) throw new Error(`--rows stands beside --${changed.filter((name) => name !== "rows").join(", --")}; expected --print, too: the other rows of the tables are measured without.`);

/** The tables of a file, between its markers. @param {string} path @returns {{ before: string, tables: string, after: string }} */
function openTables(path) {
  const page = readFileSync(new URL(path, root), "utf8");
  const [from, to] = [page.indexOf(begin) + begin.length, page.indexOf(end)];
  if (from < begin.length || to < from) throw new Error(`${path} has no ${begin.trim()} before ${end}; expected both, each once.`);
  return { before: page.slice(0, from), tables: page.slice(from, to), after: page.slice(to) };
}

/** @param {string} path @param {string} tables */
function writeTables(path, tables) {
  const { before, after } = openTables(path);
  writeFileSync(new URL(path, root), before + tables + after);
}

/** The text with the first line that begins with the name of each measured row replaced by that row. @param {string} text @param {string} rows */
function replaceRows(text, rows) {
  const lines = text.split("\n");
  for (const row of rows.split("\n").filter((row) => row.startsWith("| `"))) {
    const [name = ""] = row.split(" | ", 1);
    const at = lines.findIndex((other) => other.startsWith(`${name} |`));
    if (at < 0) throw new Error(`${guide} has no line that begins with ${name}; expected one, or a run without --rows.`);
    lines[at] = row;
  }
  return lines.join("\n");
}

/** @param {readonly string[]} cells */
const line = (cells) => `| ${cells.join(" | ")} |\n`;

/** value ± error @param {number} value @param {number} error @param {number} digits */
const withError = (value, error, digits) => `${value.toFixed(digits)} ± ${error.toFixed(digits)}`;

/** Change in percent, with its sign and its error. @param {ComparisonRow} row */
const formatChange = ({ ratio, ratioError }) => (ratio >= 1 ? "+" : "−") + withError(Math.abs(100 * (ratio - 1)), 100 * ratioError, 2);

/** What becomes of the matrices of the blocks and of their inputs. @param {QuantizationRecipe} recipe */
function describeRecipe({ linear, activations = "float", rounding, equalization, observer = "minmax", outlierThreshold }) {
  return [
    describeFormat(linear),
    ...(rounding === "gptq" ? ["GPTQ"] : []),
    ...(equalization === "awq" ? ["AWQ"] : equalization === "smoothquant" ? ["SmoothQuant"] : []),
    ...(activations === "float" ? [] : [`inputs int8, ${activations.ranges}${activations.ranges === "static" ? ` (${observer})` : ""}`]),
    ...(outlierThreshold === undefined ? [] : [`inputs beyond ${outlierThreshold} float`]),
  ].join("; ");
}

/** @param {ComparisonRow} row @param {boolean} isBaseline */
function formatRow(row, isBaseline) {
  if (row.error) throw row.error; // a table with a hole is no table
  const { name, recipe, bytes, bitsPerWeight, perplexity, standardError, klDivergence, sameTopToken } = row;
  const measures = [`\`${name}\``, describeRecipe(recipe), bitsPerWeight.toFixed(2), (bytes.total / 1e6).toFixed(2), withError(perplexity, standardError, 2)];
  const comparison = [formatChange(row), klDivergence.mean.toPrecision(2), (100 * sameTopToken.fraction).toFixed(2)];
  return line([...measures, ...(isBaseline ? ["—", "—", "—"] : comparison)]);
}

/** How the table was made, in one paragraph. @param {Comparison} comparison */
function describeRun({ adapter, protocol, windowTokens, strideTokens, windows, scoredTokens }) {
  const command = ["npm run table", ...(changed.length > 0 ? ["--"] : []), ...changed.map((name) => `--${name} ${options[name]}`)].join(" ");
  const device = [adapter.vendor, adapter.architecture, adapter.description].filter(Boolean).join(" ");
  const stride = protocol === "strided" ? `, stride ${strideTokens}` : "";
  const date = new Date().toISOString().slice(0, 10);
  return `Made by \`${command}\` on ${date}: backend ${adapter.backend} (${device}), Node ${process.versions.node}, protocol ${protocol}, ${windows} windows of ${windowTokens} tokens${stride}, ${scoredTokens.toLocaleString("en")} tokens scored.\n`;
}

let shown = "";
/** A line for each tenth. @param {string} what @param {number} fraction @param {string} [note] */
function showProgress(what, fraction, note = "") {
  const line = `${what} ${10 * Math.floor(10 * fraction)} %`;
  if (line !== shown) process.stderr.write(`${line}${note}\n`);
  shown = line;
}

if (!options.print) for (const path of [guide, "README.md"]) openTables(path); // finds a page without markers before the work, not after it

/** Dawn ends the process when its GPU object is collected: it stays referenced here. @type {GPU | undefined} */
let gpu;
if (options.backend === "webgpu") {
  const dawn = await import("webgpu");
  Object.assign(globalThis, dawn.globals);
  gpu = dawn.create([]);
}

/** @param {string} path */
const readModelFile = (path) => readFileSync(new URL(`models/${path}`, root));
const files = { "config.json": readModelFile("stories-12m/config.json"), "model.safetensors": readModelFile("stories-12m/model.safetensors") };
const recipes = options.rows.split(",").map((name) => {
  const row = tableRows.find((each) => nameOfRow(each) === name);
  if (row === undefined) throw new Error(`--rows has "${name}"; expected of ${defaults.rows}.`);
  return row;
});
const [index = NaN, count = NaN] = options.shard.split("/").map(Number);
const settings = {
  text: readModelFile("texts/stories-eval.txt").toString("utf8"),
  protocol: /** @type {"strided" | "disjoint" | "llama.cpp"} */ (options.protocol),
  shard: { index: index - 1, count },
  samples: false,
  backend: /** @type {"cpu" | "webgpu"} */ (options.backend),
  gpu,
};
/** Not the text that is scored. */
const calibration = readModelFile("texts/stories-calibration.txt").toString("utf8");
const comparing = compareQuantizations(files, {
  ...settings,
  recipes,
  calibration,
  onProgress: ({ name, row, rows, fraction, perplexity }) => showProgress(`${row + 1}/${rows} ${name}`, fraction, perplexity === null ? "" : ` · perplexity ${perplexity.toFixed(2)}`),
});

const head = ["preset", "block matrices", "bits/weight", "MB", "perplexity", "Δ to f32, %", "KL, nats", "same top token, %"];
let table = line(head) + line(["---", "---", ...head.slice(2).map(() => "---:")]);
/** @type {Map<string, ComparisonRow>} */
const rows = new Map();
let step = await comparing.next();
for (let isBaseline = true; !step.done; isBaseline = false, step = await comparing.next()) {
  const row = formatRow(step.value, isBaseline);
  process.stderr.write(row);
  table += row;
  rows.set(step.value.name, step.value);
}
/** What rounding the cache alone costs: weights stay f32, and sums too. */
let caches = line(["KV cache", "perplexity", "Δ to f32, %"]) + line(["---", "---:", "---:"]);
let exact = NaN;
for (const kvCache of isPartial ? [] : /** @type {const} */ (["f32", "f16", "int8"])) {
  for await (const { perplexity } of compareQuantizations(files, { ...settings, recipes: [], kvCache })) {
    if (kvCache === "f32") exact = perplexity;
    caches += line([`\`${kvCache}\``, perplexity.toFixed(4), kvCache === "f32" ? "—" : `${perplexity >= exact ? "+" : "−"}${Math.abs(100 * (perplexity / exact - 1)).toFixed(4)}`]);
  }
}
/** What a mixed recipe of the same size reaches, chosen on the calibration text. */
let budgets = line(["budget of", "MB", "KL, nats", "same top token, %", "MB of the fit", "KL, nats", "same top token, %", "Δ to f32, %"]) + line(["---", ...Array.from({ length: 7 }, () => "---:")]);
const chosen = budgetRows.flatMap((name) => rows.get(name) ?? []);
/** @type {QuantizationRecipe[]} */
const fits = [];
/** By rounding. @type {Map<QuantizationRecipe["rounding"], import("nibble-webgpu").BudgetFit["sensitivity"]>} */
const sensitivities = new Map();
for (const { name, bytes, recipe: { rounding } } of chosen) {
  const startMs = performance.now();
  const onProgress = /** @param {import("nibble-webgpu").FitProgress} progress */ ({ stage, fraction }) => showProgress(`fit of ${name}: ${stage}`, fraction);
  const fit = await fitToBudget(files, { text: calibration, rounding, bytes: bytes.total, backend: settings.backend, gpu, sensitivity: sensitivities.get(rounding), onProgress });
  process.stderr.write(`${fit.scoredTokens} tokens, ${((performance.now() - startMs) / 1000).toFixed(0)} s\n`);
  sensitivities.set(rounding, fit.sensitivity);
  fits.push({ ...fit.recipe, name: `fit of ${name}` });
}
for await (const fit of compareQuantizations(files, { ...settings, recipes: fits, calibration })) {
  const preset = chosen.find(({ name }) => fit.name === `fit of ${name}`);
  if (!preset) continue;
  const cells = [preset, fit].map(({ bytes, klDivergence, sameTopToken }) => [(bytes.total / 1e6).toFixed(2), klDivergence.mean.toPrecision(2), (100 * sameTopToken.fraction).toFixed(2)]);
  budgets += line([`\`${preset.name}\``, ...cells.flat(), formatChange(fit)]);
}
const written = `${table}\n${describeRun(step.value)}\nThe same text under the f32 model with each KV cache (\`f16\` is the default; \`int8\` has one scale per head and position):\n\n${caches}\n${budgetsBegin}\n\n${budgets}`;
if (options.print) {
  process.stdout.write(written);
} else {
  const { tables } = openTables(guide);
  const at = tables.indexOf(budgetsBegin);
  const renewed = isPartial ? replaceRows(tables.slice(0, at), table) + replaceRows(tables.slice(at), budgets) : written;
  writeTables(guide, renewed);
  writeTables("README.md", readmeTable(renewed));
}
