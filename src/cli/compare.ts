import type { CompareOptions, Comparison, Shard } from "../index.ts";
import { markdownHead, markdownRow, outputOptions, parseOutput, throwFirstError, writeComparison } from "./comparisonOutput.ts";
import type { CliIo } from "./io.ts";
import { describeBackend, modelOptions, parseModelChoice, requestGpu } from "./load.ts";
import { openModel } from "./modelFiles.ts";
import { parseProtocol, protocolOptions } from "./perplexity.ts";
import { ProgressLine } from "./progress.ts";
import { calibrationOption, readCalibration, readRecipe } from "./recipe.ts";
import { type CommandSpec, ParsedOptions, UsageError } from "./usage.ts";

export const compareCommand: CommandSpec = {
  name: "compare",
  operands: "--text <file>",
  summary: "Measures recipes against a baseline, token by token, on one text. Results go to stdout, a table row when it is known; progress goes to stderr.",
  options: {
    text: { value: "file", help: "the text; - is stdin" },
    ...modelOptions,
    recipes: { value: "names", help: "comma-separated: presets (f32, int8, nf4…) and files of recipes as JSON (mine.json) [f32,int8,nf4]" },
    baseline: { value: "name", help: "what they are compared with: a preset or a recipe file [f32]" },
    ...protocolOptions,
    calibration: calibrationOption,
    shard: { value: "i/n", help: "score every n-th window from the i-th on, 1/n … n/n; nibble merge joins their --json" },
    samples: { help: "put what was measured per token into the JSON [with --shard]" },
    ...outputOptions,
    help: { help: "this text" },
  },
};

function parseShard(option: string | undefined): Shard | undefined {
  if (option === undefined) return undefined;
  const [index, count] = /^\d+\/\d+$/.test(option) ? option.split("/").map(Number) : [];
  if (index === undefined || count === undefined || index < 1 || index > count) throw new UsageError(`Option --shard is "${option}"; expected i/n with i from 1 to n.`);
  return { index: index - 1, count };
}

function describeRun(modelName: string, comparison: Comparison): string {
  const { protocol, windows, windowTokens, strideTokens, scoredTokens, shard } = comparison;
  const stride = protocol === "strided" ? `, stride ${strideTokens}` : "";
  const part = shard ? `shard ${shard.index + 1}/${shard.count}: ` : "";
  return `${modelName} · ${describeBackend(comparison)} · ${part}${protocol}, ${windows} windows of ${windowTokens} tokens${stride}, ${scoredTokens} tokens scored\n`;
}

export async function compare(args: readonly string[], io: CliIo): Promise<void> {
  const options = ParsedOptions.parse(compareCommand, args);
  options.refuseOperands("the text is given by --text");
  const textPath = options.required("text");
  const output = parseOutput(options);
  const choice = parseModelChoice(options);
  const protocol = parseProtocol(options);
  const shard = parseShard(options.text("shard"));
  const words = (options.text("recipes") ?? "f32,int8,nf4").split(",").map((word) => word.trim());
  const recipes = await Promise.all(words.map((word) => readRecipe(io, "recipes", word)));
  const baseline = await readRecipe(io, "baseline", options.text("baseline") ?? "f32");
  const calibration = await readCalibration(io, options);
  const text = await io.readText(textPath);
  const { name: modelName, source } = await openModel(options.text("model"));
  const gpu = await requestGpu(io, choice);

  const progress = new ProgressLine(io.stderr);
  const comparing = io.compareQuantizations(source, {
    ...choice,
    ...protocol,
    gpu,
    text,
    recipes,
    baseline,
    calibration,
    shard,
    samples: output.format === "json" && (shard !== undefined || options.has("samples")),
    cache: "none",
    signal: io.signal,
    onProgress: ({ name, row, rows, stage, fraction, perplexity }) => progress.update(`measuring ${name}, ${row + 1} of ${rows}`, fraction, perplexity === null ? stage : `perplexity ${perplexity.toFixed(3)}`),
  } satisfies CompareOptions);
  const showsRows = output.format === "markdown" && output.path === undefined;
  try {
    // A TypeError before the first row is the engine's word on a recipe.
    let step = await comparing.next().catch((error: unknown) => Promise.reject(error instanceof TypeError ? new UsageError(error.message, { cause: error }) : error));
    for (let i = 0; !step.done; i++, step = await comparing.next()) {
      progress.end();
      if (showsRows) io.stdout.write(`${i === 0 ? markdownHead : ""}${markdownRow(step.value, i)}`);
    }
    progress.end();
    if (!showsRows) await writeComparison(io, output, step.value);
    io.stderr.write(describeRun(modelName, step.value));
    throwFirstError(step.value);
  } finally {
    progress.end();
  }
}
