import type { GenerateOptions, GenerationSummary } from "../index.ts";
import type { CliIo } from "./io.ts";
import { describeBackend, loadWithProgress, modelOptions, parseModelChoice } from "./load.ts";
import { openModel } from "./modelFiles.ts";
import { readQuantization, recipeOptions } from "./recipe.ts";
import { type CommandSpec, ParsedOptions, UsageError } from "./usage.ts";

export const generateCommand: CommandSpec = {
  name: "generate",
  operands: "<prompt>",
  summary: "Continues a prompt (- reads it from stdin). The new text goes to stdout while it is made; everything else goes to stderr.",
  options: {
    ...modelOptions,
    ...recipeOptions,
    "max-tokens": { value: "n", help: "end after n new tokens [128]" },
    temperature: { value: "t", help: "0 is greedy [1]" },
    "top-k": { value: "k", help: "keep the k likeliest tokens" },
    "top-p": { value: "p", help: "keep the likeliest tokens that together reach probability p" },
    "min-p": { value: "p", help: "keep tokens at least p times as likely as the likeliest" },
    seed: { value: "n", help: "same seed, same text [a random one]" },
    stop: { value: "text", multiple: true, help: "end before this text; may be given more than once" },
    json: { help: "one JSON object at the end instead of streamed text" },
    help: { help: "this text" },
  },
};

function parseGenerateOptions(options: ParsedOptions): GenerateOptions {
  return {
    maxTokens: options.number("max-tokens", { least: 1, integer: true }),
    temperature: options.number("temperature", { least: 0 }),
    topK: options.number("top-k", { least: 1, integer: true }),
    topP: options.number("top-p", { least: Number.MIN_VALUE, most: 1 }),
    minP: options.number("min-p", { least: 0, most: 1 }),
    seed: options.number("seed", { least: 0, most: 2 ** 32 - 1, integer: true }),
    stop: options.has("stop") ? options.texts("stop") : undefined,
  };
}

/** "59 tokens/s", measured between the first token and the last. */
function describeRate({ newTokens, decodeMs }: GenerationSummary): string {
  return newTokens > 1 && decodeMs > 0 ? `${(((newTokens - 1) / decodeMs) * 1000).toFixed(1)} tokens/s` : "no rate";
}

export async function generate(args: readonly string[], io: CliIo): Promise<void> {
  const options = ParsedOptions.parse(generateCommand, args);
  const [operand, ...others] = options.operands;
  if (operand === undefined) throw new UsageError("The prompt is missing.");
  if (others.length > 0) throw new UsageError(`Expected one prompt, found ${options.operands.length}; put it in quotes.`);
  const generateOptions = { ...parseGenerateOptions(options), signal: io.signal };
  const choice = parseModelChoice(options);
  const recipe = await readQuantization(io, options);
  const prompt = operand === "-" ? await io.readText("-") : operand;
  const { name, source } = await openModel(options.text("model"));

  const model = await loadWithProgress(io, source, { ...choice, ...recipe });
  const { name: quantization } = model.quantization.recipe;
  try {
    if (options.has("json")) {
      const completion = await model.complete(prompt, generateOptions);
      io.stdout.write(`${JSON.stringify({ model: name, quantization, adapter: model.adapter, prompt, ...completion }, null, 2)}\n`);
      return;
    }
    io.stderr.write(`${name} · ${quantization} · ${describeBackend(model)}\n`);
    if (io.stderr.isTTY && io.stdout.isTTY) io.stderr.write(prompt);
    const generation = model.generate(prompt, generateOptions);
    for await (const { text } of generation) io.stdout.write(text);
    io.stdout.write("\n");
    const { summary } = generation;
    if (summary) io.stderr.write(`${summary.newTokens} tokens · ${describeRate(summary)} · prompt ${summary.promptTokens} tokens in ${Math.round(summary.prefillMs)} ms · ${summary.finishReason}\n`);
  } finally {
    model.dispose();
  }
}
