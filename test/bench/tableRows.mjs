/** @typedef {import("nibble-webgpu").PresetName | import("nibble-webgpu").QuantizationRecipe} TableRow */

const embedding = /** @type {const} */ ({ type: "int8", mode: "absmax", granularity: "channel" });
const int4 = /** @type {const} */ ({ type: "int4", mode: "zeropoint", granularity: { group: 32 } });
const nf4 = /** @type {const} */ ({ type: "nf4", block: 64 });
const staticInt8 = /** @type {const} */ ({ linear: embedding, embedding, activations: { type: "int8", ranges: "static" } });

/** The rows of the table after f32, in their order: presets by name, other recipes as objects with a name. @type {readonly TableRow[]} */
export const tableRows = [
  "f16",
  "int8",
  "int8-zeropoint",
  "int8-absmax-tensor",
  "int8-zeropoint-tensor",
  { name: "int8-gptq", linear: { type: "int8", mode: "zeropoint", granularity: "channel" }, embedding, rounding: "gptq" },
  "int8-dynamic",
  "llm-int8",
  "int8-static",
  { name: "int8-static-mse", ...staticInt8, observer: "mse" },
  { name: "int8-static-smoothquant", ...staticInt8, equalization: "smoothquant" },
  "int4",
  { name: "int4-absmax", linear: { type: "int4", mode: "absmax", granularity: { group: 32 } }, embedding },
  { name: "int4-awq", linear: int4, embedding, equalization: "awq" },
  { name: "int4-gptq", linear: int4, embedding, rounding: "gptq" },
  "nf4",
  "nf4-dq",
  { name: "nf4-block32", linear: { type: "nf4", block: 32 }, embedding },
  { name: "nf4-gptq", linear: nf4, embedding, rounding: "gptq" },
  "fp4",
];

/** Whose size fitToBudget() gets as its budget, and whose rounding, for the last table. @type {readonly string[]} */
export const budgetRows = ["int8-zeropoint", "int4", "nf4", "nf4-dq"];

/** @param {TableRow} row */
export const nameOfRow = (row) => (typeof row === "string" ? row : (row.name ?? ""));

/** The rows that README.md repeats. @type {readonly string[]} */
const readmeRows = ["f32", "f16", "int8", "int8-zeropoint", "int8-dynamic", "int4", "int4-gptq", "nf4", "nf4-dq", "nf4-gptq"];

/** What README.md repeats of the guide's tables: some rows of the first, and how it was made. @param {string} tables */
export function readmeTable(tables) {
  const [table = "", made = ""] = tables.split("\n\n");
  const lines = table.split("\n").filter((line, i) => i < 2 || readmeRows.some((name) => line.startsWith(`| \`${name}\` |`)));
  return `${lines.join("\n")}\n\n${made}\n`;
}
