import { EngineError, type PerplexityOptions, type PerplexityReport, type PresetName, type StoredBytes } from "../index.ts";
import type { CliIo } from "./io.ts";
import { describeBackend, loadWithProgress, modelOptions, parseModelChoice, parsePresets } from "./load.ts";
import { openModel } from "./modelFiles.ts";
import { ProgressLine } from "./progress.ts";
import { calibrationOption, readCalibration } from "./recipe.ts";
import { type CommandSpec, type OptionSpecs, ParsedOptions, UsageError } from "./usage.ts";

/** Options of every command that scores a text. */
export const protocolOptions: OptionSpecs = {
  protocol: { value: "name", help: "strided, disjoint or llama.cpp [strided]" },
  window: { value: "tokens", help: "tokens per window [all positions; llama.cpp: 512]" },
  stride: { value: "tokens", help: "strided only: tokens between window starts [half a window]" },
};

export const perplexityCommand: CommandSpec = {
  name: "perplexity",
  operands: "--text <file>",
  summary: "Measures one model under several quantizations on one text. The table goes to stdout, progress to stderr.",
  options: {
    text: { value: "file", help: "the text; - is stdin" },
    ...modelOptions,
    quantization: { value: "presets", help: "comma-separated: f32, f16, int8, int4, nf4… [f32,int8,nf4]" },
    calibration: calibrationOption,
    ...protocolOptions,
    json: { help: "one JSON object instead of the table" },
    help: { help: "this text" },
  },
};

/** What one recipe gave; or why it could not run. */
interface Row extends Partial<PerplexityReport> {
  name: PresetName;
  bitsPerWeight?: number;
  bytes?: StoredBytes;
  quantizeMs?: number;
  /** Wall time of the scoring. */
  evaluateMs?: number;
  error?: { code: string; message: string };
}

export function parseProtocol(options: ParsedOptions): Pick<PerplexityOptions, "protocol" | "windowTokens" | "strideTokens"> {
  const parsed = {
    protocol: options.choice("protocol", ["strided", "disjoint", "llama.cpp"]) ?? "strided",
    windowTokens: options.number("window", { least: 2, integer: true }),
    strideTokens: options.number("stride", { least: 1, integer: true }),
  };
  if (parsed.strideTokens !== undefined && parsed.protocol !== "strided") throw new UsageError(`Option --stride belongs to the strided protocol, not to ${parsed.protocol}.`);
  return parsed;
}

/** Columns of fixed width, so that each row can be printed when it is known. */
function tableLine(name: string, ...columns: string[]): string {
  const widths = [12, 9, 22, 9];
  return `${name.padEnd(22)}${columns.map((column, i) => column.padStart(widths[i] ?? 0)).join("")}\n`;
}

function formatRow({ name, error, bitsPerWeight, bytes, perplexity, standardError, scoredTokens }: Row): string {
  if (error !== undefined || perplexity === undefined) return `${name.padEnd(22)}  ${error?.message ?? "no result"}\n`;
  const megabytes = ((bytes?.total ?? NaN) / 1e6).toFixed(2);
  return tableLine(name, (bitsPerWeight ?? NaN).toFixed(3), megabytes, `${perplexity.toFixed(4)} ± ${(standardError ?? NaN).toFixed(4)}`, String(scoredTokens));
}

export async function perplexity(args: readonly string[], io: CliIo): Promise<void> {
  const options = ParsedOptions.parse(perplexityCommand, args);
  options.refuseOperands("the text is given by --text");
  const textPath = options.required("text");
  const perplexityOptions = parseProtocol(options);
  const choice = parseModelChoice(options);
  const calibration = await readCalibration(io, options);
  const chosen = parsePresets(options.text("quantization") ?? "f32,int8,nf4");
  const text = await io.readText(textPath);
  const { name: modelName, source } = await openModel(options.text("model"));
  const asJson = options.has("json");

  /** Loads, scores and frees one recipe. */
  const measure = async (name: PresetName): Promise<Row> => {
    using model = await loadWithProgress(io, source, { ...choice, quantization: name, calibration });
    if (name === chosen[0]) io.stderr.write(`${modelName} · ${describeBackend(model)}\n`);
    const progress = new ProgressLine(io.stderr);
    const startMs = performance.now();
    const report = await model
      .perplexity(text, {
        ...perplexityOptions,
        signal: io.signal,
        onProgress: ({ scoredTokens, totalTokens, perplexity }) => progress.update(`scoring ${name}`, scoredTokens / totalTokens, `perplexity ${perplexity.toFixed(3)}`),
      })
      .finally(() => progress.end());
    const { bitsPerWeight, bytes, quantizeMs } = model.quantization;
    return { name, bitsPerWeight, bytes, quantizeMs, evaluateMs: performance.now() - startMs, ...report };
  };

  if (!asJson) io.stdout.write(tableLine("recipe", "bits/weight", "MB", "perplexity ± error", "tokens"));
  const rows: Row[] = [];
  const failures: EngineError[] = [];
  for (const name of chosen) {
    const row = await measure(name).catch((error: unknown): Row => {
      if (!(error instanceof EngineError)) throw error;
      failures.push(error);
      return { name, error: { code: error.code, message: error.message } };
    });
    rows.push(row);
    if (!asJson) io.stdout.write(formatRow(row));
  }
  if (asJson) io.stdout.write(`${JSON.stringify({ model: modelName, text: textPath, rows }, null, 2)}\n`);
  if (failures[0] !== undefined) throw failures[0];
}
