import type { Choices } from "./choices.ts";

/** JSON that may be what no JavaScript value is: objects with a key twice, numbers out of range, text that is no JSON. A string is a leaf as it is written. */
export type Node = string | Node[] | Fields;
export class Fields {
  pairs: [key: string, value: Node][];

  constructor(pairs: [key: string, value: Node][]) {
    this.pairs = pairs;
  }
}

export function toNode(value: unknown): Node {
  if (Array.isArray(value)) return value.map(toNode);
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  return new Fields(Object.entries(value).map(([key, field]) => [key, toNode(field)]));
}

export function toText(node: Node): string {
  if (typeof node === "string") return node;
  if (Array.isArray(node)) return `[${node.map(toText).join(",")}]`;
  return `{${node.pairs.map(([key, value]) => `${JSON.stringify(key)}:${toText(value)}`).join(",")}}`;
}

const hostileLeaves = [
  "0", "-0", "-1", "1", "2", "3", "1.5", "0.1", "1e308", "-1e308", "1e999", "-1e999", "5e-324", "1e-30", "127", "256", "65536", "2147483648", "4294967295", "4294967296", "1099511627776",
  "9007199254740991", "9007199254740992", "18446744073709551616", "true", "false", "null", '""', '"0"', '"1"', '"NaN"', '"null"', '"F32"', '"\\ud800"', '"\\u0000"', '"__proto__"', "NaN", "Infinity", "undefined", "01", "'a'",
  "[]", "{}", "[[]]", "[0]", "[null]", "[1e999,2]", '{"__proto__":{"polluted":1}}', '{"constructor":{"prototype":{"polluted":1}}}', '{"length":4294967295}', '{"toString":1,"valueOf":1,"toJSON":1}',
] as const; // prettier-ignore
const hostileKeys = ["__proto__", "constructor", "prototype", "toString", "hasOwnProperty", "length", "toJSON", "", "0", "\ud800", "\0", "\u202e", "__metadata__"] as const;
const keySuffixes = ["", " ", "2", ".weight", "_scale", "_zero_point", ".absmax", ".quant_map", ".nested_absmax", ".quant_state.bitsandbytes__nf4"] as const;

/** Cheap to write, dear to whoever recurses or repeats it in a message. */
function hugeLeaf(choices: Choices): string {
  const size = choices.pick([100, 3_000, 20_000]);
  return choices.pick([(): string => "[".repeat(size) + "]".repeat(size), (): string => '{"a":'.repeat(size) + "1" + "}".repeat(size), (): string => JSON.stringify("x".repeat(size)), (): string => `[${"0,".repeat(size)}0]`])();
}

interface Slot {
  path: string;
  holder: Node[] | Fields;
  index: number;
}

function slotsOf(node: Node, path: string, slots: Slot[] = []): Slot[] {
  if (typeof node === "string") return slots;
  const children = Array.isArray(node) ? node.map((child, i) => [String(i), child] as const) : node.pairs;
  for (const [index, [key, child]] of children.entries()) {
    const childPath = `${path}.${key.slice(0, 40)}`;
    slots.push({ path: childPath, holder: node, index });
    slotsOf(child, childPath, slots);
  }
  return slots;
}

function valueAt({ holder, index }: Slot): Node {
  return Array.isArray(holder) ? holder[index]! : holder.pairs[index]![1];
}

function setValue({ holder, index }: Slot, value: Node): void {
  if (Array.isArray(holder)) holder[index] = value;
  else holder.pairs[index] = [holder.pairs[index]![0], value];
}

/** Changes one place of a tree, and says which and how. */
export function mutateJson(choices: Choices, root: Node, name: string): string {
  const slots = slotsOf(root, name);
  if (slots.length === 0) return `${name} stays`;
  const slot = choices.pick(slots);
  const { path, holder, index } = slot;
  const list: unknown[] = Array.isArray(holder) ? holder : holder.pairs;
  const replace = (value: Node): string => {
    setValue(slot, value);
    return `${path} = ${toText(value).slice(0, 60)}`;
  };
  switch (choices.below(9)) {
    case 0: {
      const number = Number(valueAt(slot));
      return replace(String(Number.isFinite(number) ? choices.pick([number + 1, number - 1, 2 * number, number / 2, -number, number + 0.5]) : 4));
    }
    case 1:
      list.splice(index, 1);
      return `${path} removed`;
    case 2:
      list.splice(choices.below(list.length + 1), 0, list[index]);
      return `${path} twice`;
    case 3: {
      const other = choices.pick(slots);
      if (other.path.startsWith(path) || path.startsWith(other.path)) return `${path} stays`;
      const value = valueAt(slot);
      setValue(slot, valueAt(other));
      setValue(other, value);
      return `${path} and ${other.path} change places`;
    }
    case 4: {
      if (Array.isArray(holder)) return replace(choices.pick(hostileLeaves));
      const [key, value] = holder.pairs[index]!;
      const renamed = choices.oneIn(2) ? choices.pick(hostileKeys) : choices.pick(["", "transformer."]) + key + choices.pick(keySuffixes);
      holder.pairs[index] = [renamed, value];
      return `${path} is called ${JSON.stringify(renamed)}`;
    }
    case 5:
      if (Array.isArray(holder)) holder.push(choices.pick(hostileLeaves));
      else holder.pairs.push([choices.pick(hostileKeys), choices.pick(hostileLeaves)]);
      return `${path} has a new neighbour`;
    case 6:
      return choices.oneIn(4) ? replace(hugeLeaf(choices)) : replace(choices.pick(hostileLeaves));
    default:
      return replace(choices.pick(hostileLeaves));
  }
}
