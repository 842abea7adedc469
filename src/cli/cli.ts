import { EngineError } from "../index.ts";
import { version } from "../../package.json";
import { calibrate, calibrateCommand } from "./calibrate.ts";
import { compare, compareCommand } from "./compare.ts";
import { exportCommand, exportModel } from "./export.ts";
import { generate, generateCommand } from "./generate.ts";
import type { CliIo } from "./io.ts";
import { merge, mergeCommand } from "./merge.ts";
import { perplexity, perplexityCommand } from "./perplexity.ts";
import { commandHelp, type CommandSpec, UsageError } from "./usage.ts";

const commands: readonly { spec: CommandSpec; run: (args: readonly string[], io: CliIo) => Promise<void> }[] = [
  { spec: generateCommand, run: generate },
  { spec: perplexityCommand, run: perplexity },
  { spec: compareCommand, run: compare },
  { spec: mergeCommand, run: merge },
  { spec: calibrateCommand, run: calibrate },
  { spec: exportCommand, run: exportModel },
];

const help = `Usage: nibble <command> [options]

GPT-2 on WebGPU or the CPU, from weights quantized while they load.

Commands:
${commands.map(({ spec }) => `  ${spec.name.padEnd(12)}${spec.summary.split(/[.(]/)[0]?.trim()}\n`).join("")}
nibble <command> --help explains one command; nibble --version prints the version.

Examples:
  nibble generate "Once upon a time" --model models/stories-12m --quantization nf4 --max-tokens 60
  nibble perplexity --text file.txt --model openai-community/gpt2 --quantization f32,int8,nf4
  nibble compare --text file.txt --recipes int8,nf4,mine.json --shard 1/8 --json --out shard-1.json
  nibble merge shard-*.json --markdown
  nibble calibrate --text file.txt --model openai-community/gpt2
  nibble export --model openai-community/gpt2 --quantization nf4 --out gpt2-nf4.safetensors
`;

/** True where --help stands among the options, even beside wrong ones; after -- everything is an operand. */
const asksForHelp = (args: readonly string[]) => args.slice(0, args.includes("--") ? args.indexOf("--") : undefined).some((arg) => arg === "--help" || arg === "-h");

/** Runs one call; gives the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted. */
export async function runCli(args: readonly string[], io: CliIo): Promise<number> {
  const [name, ...rest] = args;
  const command = commands.find(({ spec }) => spec.name === name);
  try {
    if (command !== undefined && asksForHelp(rest)) io.stdout.write(commandHelp(command.spec));
    else if (command !== undefined) await command.run(rest, io);
    else if (name === "--version") io.stdout.write(`${version}\n`);
    else if (name === undefined) throw new UsageError("No command was given.");
    else if (asksForHelp(args) || name === "help") io.stdout.write(help);
    else throw new UsageError(`There is no ${name.startsWith("-") ? "option" : "command"} "${name}".`);
    return 0;
  } catch (error) {
    if (io.signal.aborted) return 130;
    // The engine throws RangeError for an option out of its range, which only the loaded model knows.
    if (error instanceof UsageError || error instanceof RangeError) {
      io.stderr.write(`nibble: ${error.message}\nTry: nibble ${command === undefined ? "" : `${command.spec.name} `}--help\n`);
      return 2;
    }
    const message = error instanceof EngineError ? error.message : error instanceof Error ? (error.stack ?? error.message) : String(error);
    io.stderr.write(`nibble: ${message}\n`);
    return 1;
  }
}
