/** A value of a shader constant. Numbers become `const NAME = 8u;`; strings and booleans exist for `#if` alone. */
export type ShaderConstants = Readonly<Record<string, number | string | boolean>>;

/**
 * Expands a WGSL source: `#import "piece"`, `#if A == b && C`, `#elif`, `#else`, `#endif`, with every numeric constant as a `const` line in front.
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
  return out.join("\n");
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
  lines.forEach((line, index) => {
    const directive = /^\s*#(\w+)\s*(.*?)\s*$/.exec(line);
    const enclosing = (): boolean => branches.slice(0, -1).every((b) => b.active);
    if (!directive) {
      if (branches.every((b) => b.active)) out.push(line);
      return;
    }
    const fail = (what: string): never => {
      throw new SyntaxError(`${file}.wgsl:${index + 1}: ${what}`);
    };
    const [, word, rest] = directive as unknown as [string, string, string];
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
        if (!branches.every((b) => b.active)) return;
        const name = rest.replace(/^"(.*)"$/, "$1");
        const piece = pieces[name];
        if (piece === undefined) return fail(`no piece named "${name}"`);
        expand(piece, name, constants, pieces, out);
        break;
      }
      default:
        fail(`unknown directive #${word}`);
    }
  });
  if (branches.length > 0) throw new SyntaxError(`${file}.wgsl: ${branches.length} #if without #endif`);
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
