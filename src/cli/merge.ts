import { type Comparison, decodeComparison, EngineError, mergeComparisons } from "../index.ts";
import { outputOptions, parseOutput, throwFirstError, writeComparison } from "./comparisonOutput.ts";
import type { CliIo } from "./io.ts";
import { type CommandSpec, ParsedOptions, UsageError } from "./usage.ts";

export const mergeCommand: CommandSpec = {
  name: "merge",
  operands: "<shard.json>…",
  summary: "Joins the shards of one comparison into what a run over all windows gives, exactly. The files come from nibble compare --shard i/n --json.",
  options: {
    samples: { help: "keep what was measured per token in the JSON" },
    ...outputOptions,
    help: { help: "this text" },
  },
};

async function readShard(io: CliIo, path: string): Promise<Comparison> {
  const json = await io.readText(path);
  try {
    return decodeComparison(json);
  } catch (error) {
    throw error instanceof EngineError ? new EngineError(error.code, `${path}: ${error.message}`, { ...error.details, path }, { cause: error }) : error;
  }
}

export async function merge(args: readonly string[], io: CliIo): Promise<void> {
  const options = ParsedOptions.parse(mergeCommand, args);
  const output = parseOutput(options);
  if (options.operands.length === 0) throw new UsageError("No files were given; expected every shard of a comparison.");
  const shards: Comparison[] = [];
  for (const path of options.operands) shards.push(await readShard(io, path));
  const merged = mergeComparisons(shards);
  const rows = options.has("samples") ? merged.rows : merged.rows.map(({ samples: _samples, ...row }) => row);
  await writeComparison(io, output, { ...merged, rows });
  throwFirstError(merged);
}
