import type { CalibrationReport, InputReport } from "../index.ts";
import type { CliIo } from "./io.ts";
import { describeBackend, modelOptions, parseModelChoice, requestGpu } from "./load.ts";
import { openModel } from "./modelFiles.ts";
import { ProgressLine } from "./progress.ts";
import { type CommandSpec, ParsedOptions } from "./usage.ts";

const { model, backend, context } = modelOptions;

export const calibrateCommand: CommandSpec = {
  name: "calibrate",
  operands: "--text <file>",
  summary: "Runs a text through a model in floats and shows what its matrices are given: ranges, outliers. The table goes to stdout, progress to stderr.",
  options: {
    text: { value: "file", help: "the text; - is stdin" },
    model: model!,
    backend: backend!,
    context: context!,
    threshold: { value: "magnitude", help: "columns beyond it are outliers [6, LLM.int8()'s]" },
    json: { help: "one JSON object instead of the table, with the outliers' columns" },
    help: { help: "this text" },
  },
};

const columns: readonly [head: string, width: number, cell: (input: InputReport) => string][] = [
  ["absmax", 10, ({ absmax }) => absmax.toFixed(3)],
  ["mean |x|", 10, ({ meanAbs }) => meanAbs.toFixed(4)],
  ["99.99 %", 10, ({ ranges }) => ranges.percentile.toFixed(3)],
  ["least error", 13, ({ ranges }) => ranges.mse.toFixed(3)],
  ["outlier columns", 17, ({ outlierColumns, columns }) => `${outlierColumns.length} of ${columns}`],
  ["values, %", 11, ({ outlierShare }) => (100 * outlierShare).toFixed(3)],
];

const tableLine = (name: string, cells: readonly string[]): string => `${name.padEnd(24)}${cells.map((cell, i) => cell.padStart(columns[i]![1])).join("")}\n`;

function table({ inputs }: CalibrationReport): string {
  return tableLine("input of", columns.map(([head]) => head)) + inputs.map((input) => tableLine(input.name.replace(/\.weight$/, ""), columns.map(([, , cell]) => cell(input)))).join("");
}

export async function calibrate(args: readonly string[], io: CliIo): Promise<void> {
  const options = ParsedOptions.parse(calibrateCommand, args);
  options.refuseOperands("the text is given by --text");
  const textPath = options.required("text");
  const { backend, contextLength } = parseModelChoice(options);
  const outlierThreshold = options.number("threshold", { least: Number.MIN_VALUE });
  const text = await io.readText(textPath);
  const { name, source } = await openModel(options.text("model"));
  const gpu = await requestGpu(io, { backend });

  const progress = new ProgressLine(io.stderr);
  const report = await io
    .calibrate(source, { text, backend, contextLength, outlierThreshold, gpu, cache: "none", signal: io.signal, onProgress: ({ stage, fraction }) => progress.update("calibrating", fraction, stage) })
    .finally(() => progress.end());
  const { tokens, windows, windowTokens, adapter } = report;
  io.stderr.write(`${name} · ${describeBackend(report)} · ${tokens} tokens in ${windows} windows of ${windowTokens}\n`);
  for (const notice of adapter.notices) io.stderr.write(`${notice}\n`);
  io.stdout.write(options.has("json") ? `${JSON.stringify(report, null, 2)}\n` : table(report));
}
