import { parseArgs } from "node:util";

/** What the caller typed wrong; the message names the option. Ends the process with exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

export interface OptionSpec {
  /** Placeholder of its value in the help; without one it is a switch. */
  value?: string;
  /** May be given more than once. */
  multiple?: boolean;
  help: string;
}

export type OptionSpecs = Readonly<Record<string, OptionSpec>>;

export interface CommandSpec {
  name: string;
  /** What stands after the name in the usage line. */
  operands: string;
  summary: string;
  options: OptionSpecs;
}

/** The options of one call, each checked when it is read. */
export class ParsedOptions {
  private constructor(
    private readonly values: Readonly<Record<string, string | boolean | (string | boolean)[] | undefined>>,
    readonly operands: readonly string[],
  ) {}

  static parse(command: CommandSpec, args: readonly string[]): ParsedOptions {
    const options = Object.entries(command.options).map(([name, { value, multiple }]) => [name, { type: value === undefined ? "boolean" : "string", multiple: multiple ?? false } as const] as const);
    try {
      const { values, positionals } = parseArgs({ args: [...args], options: Object.fromEntries(options), allowPositionals: true });
      return new ParsedOptions(values, positionals);
    } catch (error) {
      // Node explains how to escape a dash at length; its first sentence names the option.
      if (error instanceof TypeError) throw new UsageError(error.message.split(/\.\s|\n/)[0], { cause: error });
      throw error;
    }
  }

  has(name: string): boolean {
    return this.values[name] !== undefined;
  }

  text(name: string): string | undefined {
    const value = this.values[name];
    if (value === "") throw new UsageError(`Option --${name} is empty.`);
    return typeof value === "string" ? value : undefined;
  }

  required(name: string): string {
    const value = this.text(name);
    if (value === undefined) throw new UsageError(`Option --${name} is missing.`);
    return value;
  }

  /** For commands whose arguments all have names; `instead` says which one was probably meant. */
  refuseOperands(instead: string): void {
    if (this.operands[0] !== undefined) throw new UsageError(`Unexpected argument "${this.operands[0]}"; ${instead}.`);
  }

  texts(name: string): string[] {
    const value = this.values[name];
    return Array.isArray(value) ? value.map(String) : [];
  }

  /** One of the given words. */
  choice<T extends string>(name: string, allowed: readonly T[]): T | undefined {
    const value = this.text(name);
    if (value === undefined) return undefined;
    const found = allowed.find((word) => word === value);
    if (found === undefined) throw new UsageError(`Option --${name} is "${value}"; expected one of ${allowed.join(", ")}.`);
    return found;
  }

  /** A number from least to most, both included. */
  number(name: string, { least, most = Infinity, integer = false }: { least: number; most?: number; integer?: boolean }): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const value = Number(text.trim() === "" ? NaN : text);
    if (Number.isFinite(value) && value >= least && value <= most && (!integer || Number.isSafeInteger(value))) return value;
    const range = most === Infinity ? `of at least ${least}` : `from ${least} to ${most}`;
    throw new UsageError(`Option --${name} is "${text}"; expected ${integer ? "a whole number" : "a number"} ${range}.`);
  }
}

/** The text of `nibble <command> --help`. */
export function commandHelp({ name, operands, summary, options }: CommandSpec): string {
  const rows = Object.entries(options).map(([option, { value, help }]) => [`--${option}${value === undefined ? "" : ` <${value}>`}`, help] as const);
  const width = Math.max(...rows.map(([left]) => left.length));
  return `Usage: nibble ${name} [options] ${operands}\n\n${summary}\n\nOptions:\n${rows.map(([left, help]) => `  ${left.padEnd(width)}  ${help}\n`).join("")}`;
}
