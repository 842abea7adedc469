import type { Choices } from "./choices.ts";

/** What the caller's own code throws from within an option. */
export class CallersError extends Error {}

const throws = (): never => {
  throw new CallersError("the caller's");
};

/** Values that no option expects, each made anew. */
const hostileValues: readonly (() => unknown)[] = [
  () => undefined, () => null, () => NaN, () => Infinity, () => -Infinity, () => -1, () => -0, () => 0, () => 1, () => 1.5, () => 7, () => 2 ** 31, () => 2 ** 32, () => 2 ** 53, () => 1e308, () => 5e-324,
  () => 10n, () => Symbol("s"), () => true, () => "", () => "0", () => "NaN", () => "int8", () => "\ud800", () => "x".repeat(100_000), () => throws, () => new Date(NaN), () => new Map(), () => /x/,
  () => [], () => [null], () => [1], () => ["a", "\ud800"], () => new Array<number>(5), () => new Array<number>(2 ** 32 - 1), () => new Array<string>(100_000).fill("x"), () => [[[]]], () => new Uint8Array(4), () => new ArrayBuffer(4),
  () => ({}), () => Object.create(null) as unknown, () => JSON.parse('{"__proto__":{"polluted":1}}') as unknown, () => ({ length: 2 ** 32 }), () => ({ then: throws }), () => ({ toString: null, valueOf: null }), () => ({ get type() { return throws(); } }),
  () => ({ "-1": 1, "1.5": 1 }), () => ({ 0: NaN }), () => ({ 1: "x" }), () => ({ 1e21: 1 }), () => ({ 0: -Infinity, 1: Infinity, 2: 1e308 }), () => ({ type: "nf4", block: 64n }), () => ({ type: "int8", ranges: "dynamic" }),
  () => { const own: Record<string, unknown> = {}; own.own = own; own.linear = own; return own; },
  () => { let asked = 0; return { get type() { return ["f32", "nf4", 5][asked++ % 3]; } }; },
]; // prettier-ignore

export function hostileValue(choices: Choices): unknown {
  return choices.pick(hostileValues)();
}

/** The values with one to three of them replaced; at times one whose getter throws. */
export function hostileOptions(choices: Choices, good: Readonly<Record<string, unknown>>): { options: Record<string, unknown>; what: string } {
  const options: Record<string, unknown> = { ...good };
  const changed = Array.from({ length: choices.pick([1, 1, 1, 2, 3]) }, () => choices.pick(Object.keys(good)));
  for (const name of changed) {
    if (choices.oneIn(20)) Object.defineProperty(options, name, { get: throws, enumerable: true, configurable: true });
    else Object.defineProperty(options, name, { value: hostileValue(choices), enumerable: true, configurable: true });
  }
  const shown = (name: string): string => {
    const value = Object.getOwnPropertyDescriptor(options, name)?.value as unknown;
    return typeof value === "object" && value !== null ? (Array.isArray(value) ? `an array of ${value.length}` : `an object of ${Reflect.ownKeys(value).map(String).join()}`) : String(value).slice(0, 40);
  };
  return { options, what: changed.map((name) => `${name} = ${shown(name)}`).join(", ") };
}
