import { describeFormat, type InputReport, type TensorReport } from "../index.ts";
import type { CliIo } from "./io.ts";
import { describeBackend, loadWithProgress, modelOptions, parseModelChoice, requestGpu } from "./load.ts";
import { openModel } from "./modelFiles.ts";
import { ProgressLine } from "./progress.ts";
import { readQuantization } from "./recipe.ts";
import { type CommandSpec, ParsedOptions, UsageError } from "./usage.ts";

const { model, backend, context } = modelOptions;

export const calibrateCommand: CommandSpec = {
  name: "calibrate",
  operands: "--text <file>",
  summary: "Runs a text through a model in floats and shows what its matrices are given: ranges, outliers; or what a recipe makes of that. The table goes to stdout, progress to stderr.",
  options: {
    text: { value: "file", help: "the text; - is stdin" },
    model: model!,
    backend: backend!,
    context: context!,
    quantization: { value: "preset", help: "a preset, or a recipe as JSON (mine.json): shows what the text decides for each of its matrices instead" },
    threshold: { value: "magnitude", help: "columns beyond it are outliers [6, LLM.int8()'s]" },
    json: { help: "one JSON object instead of the table, with the outliers' columns" },
    help: { help: "this text" },
  },
};

/** Of rows that begin with a tensor's name. */
type Columns<T> = readonly (readonly [head: string, width: number, cell: (row: T) => string])[];

const inputColumns: Columns<InputReport> = [
  ["absmax", 10, ({ absmax }) => absmax.toFixed(3)],
  ["mean |x|", 10, ({ meanAbs }) => meanAbs.toFixed(4)],
  ["99.99 %", 10, ({ ranges }) => ranges.percentile.toFixed(3)],
  ["least error", 13, ({ ranges }) => ranges.mse.toFixed(3)],
  ["outlier columns", 17, ({ outlierColumns, columns }) => `${outlierColumns.length} of ${columns}`],
  ["values, %", 11, ({ outlierShare }) => (100 * outlierShare).toFixed(3)],
];

/** What the recipe has no use for is a dash. */
const decisionColumns: Columns<TensorReport> = [
  ["range", 10, ({ input }) => input?.range?.toFixed(3) ?? "—"],
  ["observer", 12, ({ input }) => input?.observer ?? "—"],
  ["outlier columns", 17, ({ input, shape: [, columns] }) => (input?.outlierColumns === undefined ? "—" : `${input.outlierColumns} of ${columns}`)],
  ["values, %", 11, ({ input }) => (input?.outlierShare === undefined ? "—" : (100 * input.outlierShare).toFixed(3))],
  ["α", 8, ({ input }) => input?.smoothing?.toFixed(2) ?? "—"],
  ["format", 36, ({ format }) => describeFormat(format)],
];

function table<T extends { name: string }>(first: string, columns: Columns<T>, rows: readonly T[]): string {
  const line = (name: string, cells: readonly string[]): string => `${name.padEnd(24)}${cells.map((cell, i) => cell.padStart(columns[i]![1])).join("")}\n`;
  return line(first, columns.map(([head]) => head)) + rows.map((row) => line(row.name.replace(/\.weight$/, ""), columns.map(([, , cell]) => cell(row)))).join("");
}

export async function calibrate(args: readonly string[], io: CliIo): Promise<void> {
  const options = ParsedOptions.parse(calibrateCommand, args);
  options.refuseOperands("the text is given by --text");
  const textPath = options.required("text");
  const choice = parseModelChoice(options);
  const outlierThreshold = options.number("threshold", { least: Number.MIN_VALUE });
  const { quantization } = await readQuantization(io, options);
  if (quantization && outlierThreshold !== undefined) throw new UsageError("Option --threshold stands beside --quantization, whose recipe has its own outlierThreshold; expected one of the two.");
  const text = await io.readText(textPath);
  const { name, source } = await openModel(options.text("model"));
  const print = (head: string, notices: readonly string[], report: object, rows: string): void => {
    for (const line of [head, ...notices]) io.stderr.write(`${line}\n`);
    io.stdout.write(options.has("json") ? `${JSON.stringify(report, null, 2)}\n` : rows);
  };

  if (quantization) {
    using model = await loadWithProgress(io, source, { ...choice, quantization, calibration: text });
    const { recipe, tensors } = model.quantization;
    print(`${name} · ${recipe.name} · ${describeBackend(model)}`, model.adapter.notices, { recipe, tensors }, table("matrix", decisionColumns, tensors));
    return;
  }
  const gpu = await requestGpu(io, choice);
  const progress = new ProgressLine(io.stderr);
  const report = await io
    .calibrate(source, { ...choice, text, outlierThreshold, gpu, cache: "none", signal: io.signal, onProgress: ({ stage, fraction }) => progress.update("calibrating", fraction, stage) })
    .finally(() => progress.end());
  const { tokens, windows, windowTokens, adapter, inputs } = report;
  print(`${name} · ${describeBackend(report)} · ${tokens} tokens in ${windows} windows of ${windowTokens}`, adapter.notices, report, table("input of", inputColumns, inputs));
}
