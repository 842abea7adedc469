import { existsSync } from "node:fs";
import { dirname } from "node:path";
import type { CliIo } from "./io.ts";
import { describeBackend, loadWithProgress, modelOptions, parseModelChoice } from "./load.ts";
import { openModel } from "./modelFiles.ts";
import { ProgressLine } from "./progress.ts";
import { readQuantization, recipeOptions } from "./recipe.ts";
import { type CommandSpec, ParsedOptions, UsageError } from "./usage.ts";

export const exportCommand: CommandSpec = {
  name: "export",
  operands: "--out <file.safetensors>",
  summary: "Quantizes a model and writes it to a file, which nibble and Python read (beside its config.json and tokenizer files). The result goes to stdout, progress to stderr.",
  options: {
    out: { value: "file", help: "where to write; until it is complete it has another name" },
    model: modelOptions.model!,
    backend: modelOptions.backend!,
    ...recipeOptions,
    help: { help: "this text" },
  },
};

export async function exportModel(args: readonly string[], io: CliIo): Promise<void> {
  const options = ParsedOptions.parse(exportCommand, args);
  options.refuseOperands("the file is given by --out");
  const out = options.required("out");
  if (!out.endsWith(".safetensors")) throw new UsageError(`Option --out is "${out}"; expected a name that ends with .safetensors.`);
  if (!existsSync(dirname(out))) throw new UsageError(`Option --out is "${out}"; there is no folder "${dirname(out)}".`);
  const choice = parseModelChoice(options);
  const quantization = await readQuantization(io, options);
  const { name, source } = await openModel(options.text("model"));

  using model = await loadWithProgress(io, source, { ...choice, ...quantization });
  const { recipe, bitsPerWeight, bytes } = model.quantization;
  io.stderr.write(`${name} · ${recipe.name} · ${describeBackend(model)}\n`);
  const progress = new ProgressLine(io.stderr);
  const writtenBytes = await io
    .writeStream(out, io.exportSafetensors(model, { signal: io.signal }), (written) => progress.update(`writing ${out}`, Math.min(1, written / bytes.total)))
    .finally(() => progress.end());
  io.stdout.write(`${out} · ${recipe.name} · ${bitsPerWeight.toFixed(3)} bits/weight · ${(writtenBytes / 1e6).toFixed(2)} MB\n`);
}
