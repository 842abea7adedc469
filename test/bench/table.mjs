// Measures the embedded model under the recipes of tableRows.mjs, and under each KV cache, on the evaluation text and writes the README's tables.
// Usage: npm run table [-- --backend cpu|webgpu] [--protocol strided|disjoint|llama.cpp] [--rows int8,nf4] [--shard 1/16] [--print]
// --shard scores a part of the windows, for a quick look; --print leaves the README as it is. The engine is the built one: Node finds the package by its own name.
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { compareQuantizations, describeFormat } from "nibble-webgpu";
import { nameOfRow, tableRows } from "./tableRows.mjs";

/**
 * @typedef {import("nibble-webgpu").ComparisonRow} ComparisonRow
 * @typedef {import("nibble-webgpu").Comparison} Comparison
 * @typedef {import("nibble-webgpu").QuantizationRecipe} QuantizationRecipe
 */

const root = new URL("../../", import.meta.url);
const readme = new URL("README.md", root);
const begin = "<!-- table:begin -->\n";
const end = "<!-- table:end -->";

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

/** Puts the text between the two markers. @param {string} page @param {string} text */
function replaceTable(page, text) {
  const [from, to] = [page.indexOf(begin), page.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`README.md has no ${begin.trim()} before ${end}; expected both, each once.`);
  return page.slice(0, from) + begin + text + page.slice(to);
}

/** @param {readonly string[]} cells */
const line = (cells) => `| ${cells.join(" | ")} |\n`;

/** value ± error @param {number} value @param {number} error @param {number} digits */
const withError = (value, error, digits) => `${value.toFixed(digits)} ± ${error.toFixed(digits)}`;

/** Change in percent, with its sign and its error. @param {ComparisonRow} row */
const formatChange = ({ ratio, ratioError }) => (ratio >= 1 ? "+" : "−") + withError(Math.abs(100 * (ratio - 1)), 100 * ratioError, 2);

/** What becomes of the matrices of the blocks and of their inputs. @param {QuantizationRecipe} recipe */
function describeRecipe({ linear, activations = "float", rounding, equalization, outlierThreshold }) {
  return [
    describeFormat(linear),
    ...(rounding === "gptq" ? ["GPTQ"] : []),
    ...(equalization === "awq" ? ["AWQ"] : equalization === "smoothquant" ? ["SmoothQuant"] : []),
    ...(activations === "float" ? [] : [`inputs int8, ${activations.ranges}`]),
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
  const changed = /** @type {(keyof typeof defaults)[]} */ (Object.keys(defaults)).filter((name) => options[name] !== defaults[name]);
  const command = ["npm run table", ...(changed.length > 0 ? ["--"] : []), ...changed.map((name) => `--${name} ${options[name]}`)].join(" ");
  const device = [adapter.vendor, adapter.architecture, adapter.description].filter(Boolean).join(" ");
  const stride = protocol === "strided" ? `, stride ${strideTokens}` : "";
  const date = new Date().toISOString().slice(0, 10);
  return `Made by \`${command}\` on ${date}: backend ${adapter.backend} (${device}), Node ${process.versions.node}, protocol ${protocol}, ${windows} windows of ${windowTokens} tokens${stride}, ${scoredTokens.toLocaleString("en")} tokens scored.\n`;
}

if (!options.print) replaceTable(readFileSync(readme, "utf8"), ""); // finds a README without markers before the work, not after it

/** Dawn ends the process when its GPU object is collected: it stays referenced here. @type {GPU | undefined} */
let gpu;
if (options.backend === "webgpu") {
  const dawn = await import("webgpu");
  Object.assign(globalThis, dawn.globals);
  gpu = dawn.create([]);
}

/** @param {string} path */
const readModelFile = (path) => readFileSync(new URL(`models/${path}`, root));
let shownTenths = -1;
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
const comparing = compareQuantizations(files, {
  ...settings,
  recipes,
  calibration: readModelFile("texts/stories-calibration.txt").toString("utf8"),
  onProgress({ name, row, rows, fraction, perplexity }) {
    const tenths = Math.floor(10 * fraction);
    if (tenths === shownTenths) return;
    shownTenths = tenths;
    process.stderr.write(`${row + 1}/${rows} ${name} ${10 * tenths} %${perplexity === null ? "" : ` · perplexity ${perplexity.toFixed(2)}`}\n`);
  },
});

const head = ["preset", "block matrices", "bits/weight", "MB", "perplexity", "Δ to f32, %", "KL, nats", "same top token, %"];
let table = line(head) + line(["---", "---", ...head.slice(2).map(() => "---:")]);
let step = await comparing.next();
for (let isBaseline = true; !step.done; isBaseline = false, step = await comparing.next()) {
  const row = formatRow(step.value, isBaseline);
  process.stderr.write(row);
  table += row;
}
/** What rounding the cache alone costs: weights stay f32, and sums too. */
let caches = line(["KV cache", "perplexity", "Δ to f32, %"]) + line(["---", "---:", "---:"]);
let exact = NaN;
for (const kvCache of /** @type {const} */ (["f32", "f16", "int8"])) {
  for await (const { perplexity } of compareQuantizations(files, { ...settings, recipes: [], kvCache })) {
    if (kvCache === "f32") exact = perplexity;
    caches += line([`\`${kvCache}\``, perplexity.toFixed(4), kvCache === "f32" ? "—" : `${perplexity >= exact ? "+" : "−"}${Math.abs(100 * (perplexity / exact - 1)).toFixed(4)}`]);
  }
}
const written = `${table}\n${describeRun(step.value)}\nThe same text under the f32 model with each KV cache (\`f16\` is the default; \`int8\` has one scale per head and position):\n\n${caches}`;
if (options.print) process.stdout.write(written);
else writeFileSync(readme, replaceTable(readFileSync(readme, "utf8"), written));
