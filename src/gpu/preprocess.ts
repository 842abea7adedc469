/** A value of a shader constant. Numbers become `const NAME = 8u;`; strings and booleans exist for `#if` alone. */
export type ShaderConstants = Readonly<Record<string, number | string | boolean>>;

/**
 * Expands a WGSL source: `#import "piece"`, `#if A == b && C`, `#elif`, `#else`, `#endif`, `#repeat n COUNT` … `#endrepeat` (its lines COUNT times, with
 * 0, 1, … for `$n`: registers are variables, an array is memory to some compilers), with every numeric constant as a `const` line in front.
 * Constants go in as text because `override` cannot size arrays or choose types everywhere (naga, WebKit). No expression is evaluated beyond
 * names, literals, `! == != < > <= >= && ||`, so a strict Content-Security-Policy holds.
 * @throws SyntaxError naming the line, for an unknown directive, piece or constant.
 */
export function preprocess(source: string, constants: ShaderConstants, pieces: Readonly<Record<string, string>> = {}): string {
  const out: string[] = [];
  for (const [name, value] of Object.entries(constants)) {
    if (typeof value !== "number") continue;
    if (!Number.isInteger(value) || value < 0) throw new SyntaxError(`Shader constant ${name} is ${value}; expected an unsigned integer.`);
    out.push(`const ${name} = ${value}u;`);
  }
  expand(source, "main", constants, pieces, out);
  const isGlobalDirective = (line: string): boolean => /^\s*(enable|requires|diagnostic)\b/.test(line);
  return [...out.filter(isGlobalDirective), ...out.filter((line) => !isGlobalDirective(line))].join("\n"); // WGSL wants them first
}

interface Branch {
  /** Lines of this branch are kept. */
  active: boolean;
  /** Some branch of the chain was already kept. */
  taken: boolean;
  /** #else was read. */
  last?: boolean;
}

function expand(source: string, file: string, constants: ShaderConstants, pieces: Readonly<Record<string, string>>, out: string[]): void {
  const branches: Branch[] = [];
  const lines = source.split("\n");
  for (let index = 0; index < lines.length; index++) {
    const line = lines[index]!;
    const directive = directiveOf(line);
    const enclosing = (): boolean => branches.slice(0, -1).every((b) => b.active);
    if (!directive) {
      if (branches.every((b) => b.active)) out.push(line);
      continue;
    }
    const fail = (what: string): never => {
      throw new SyntaxError(`${file}.wgsl:${index + 1}: ${what}`);
    };
    const [word, rest] = directive;
    const innermost = branches.at(-1);
    switch (word) {
      case "if": {
        const active = branches.every((b) => b.active) && holds(rest, constants, fail);
        branches.push({ active, taken: active });
        break;
      }
      case "elif": {
        if (!innermost || innermost.last) return fail(innermost ? "#elif after #else" : "#elif without #if");
        innermost.active = !innermost.taken && enclosing() && holds(rest, constants, fail);
        innermost.taken ||= innermost.active;
        break;
      }
      case "else":
        if (!innermost || innermost.last) return fail(innermost ? "#else after #else" : "#else without #if");
        innermost.active = !innermost.taken && enclosing();
        innermost.taken = true;
        innermost.last = true;
        break;
      case "endif":
        if (!branches.pop()) fail("#endif without #if");
        break;
      case "import": {
        if (!branches.every((b) => b.active)) break;
        const name = rest.replace(/^"(.*)"$/, "$1");
        const piece = pieces[name];
        if (piece === undefined) return fail(`no piece named "${name}"`);
        expand(piece, name, constants, pieces, out);
        break;
      }
      case "repeat": {
        const end = endOfRepeat(lines, index);
        if (end < 0) return fail("#repeat without #endrepeat");
        if (branches.every((b) => b.active)) {
          const [, variable, limit] = /^([a-z])\s+(\w+)$/.exec(rest) ?? fail(`cannot read "#repeat ${rest}"; expected a letter and a count`);
          const count = Number(constants[limit!] ?? limit);
          if (!Number.isInteger(count) || count < 0) return fail(`#repeat counts to ${limit}, which is no constant and no number`);
          const body = lines.slice(index + 1, end).join("\n");
          for (let i = 0; i < count; i++) expand(body.replaceAll(`$${variable}`, String(i)), `${file}.wgsl:${index + 1}, repeated`, constants, pieces, out);
        }
        index = end;
        break;
      }
      default:
        fail(`unknown directive #${word}`);
    }
  }
  if (branches.length > 0) throw new SyntaxError(`${file}.wgsl: ${branches.length} #if without #endif`);
}

/** Word and rest of a directive line, null for any other line. */
function directiveOf(line: string): [word: string, rest: string] | null {
  const match = /^\s*#(\w+)\s*(.*?)\s*$/.exec(line);
  return match && [match[1]!, match[2]!];
}

/** The line of the #endrepeat that belongs to the #repeat at `start`; −1 without one. */
function endOfRepeat(lines: readonly string[], start: number): number {
  let depth = 0;
  for (let i = start; i < lines.length; i++) {
    const word = directiveOf(lines[i]!)?.[0];
    if (word === "repeat") depth++;
    if (word === "endrepeat" && --depth === 0) return i;
  }
  return -1;
}

function holds(condition: string, constants: ShaderConstants, fail: (what: string) => never): boolean {
  return condition.split("||").some((alternative) => alternative.split("&&").every((term) => termHolds(term.trim(), constants, fail)));
}

function termHolds(term: string, constants: ShaderConstants, fail: (what: string) => never): boolean {
  const match = /^(!?)\s*([A-Z]\w*)(?:\s*(==|!=|<=|>=|<|>)\s*(\w+))?$/.exec(term);
  if (!match || (match[1] === "!" && match[3] !== undefined)) return fail(`cannot read the condition "${term}"`);
  const [, not, name, operator, literal] = match;
  const value = constants[name!];
  if (value === undefined) return fail(`constant ${name} has no value`);
  if (operator === undefined) return not === "!" ? !value : Boolean(value);
  const right = constants[literal!] ?? (/^\d+$/.test(literal!) ? Number(literal) : literal!);
  switch (operator) {
    case "==":
      return value === right;
    case "!=":
      return value !== right;
    case "<":
      return value < right;
    case ">":
      return value > right;
    case "<=":
      return value <= right;
    default:
      return value >= right;
  }
}
