/** What code asked for while it was watched. */
export interface Watch {
  /** Of the largest request of memory for an array, a buffer or WebAssembly since reset(). */
  readonly largestBytes: number;
  reset(): void;
  /** Names that were added to the prototypes of all objects, or taken from them. */
  pollution(): string[];
  stop(): void;
}

const arrays = ["Uint8Array", "Int8Array", "Uint8ClampedArray", "Uint16Array", "Int16Array", "Uint32Array", "Int32Array", "Float32Array", "Float64Array", "BigInt64Array", "BigUint64Array", "ArrayBuffer"] as const;
type Constructor = new (...parameters: unknown[]) => object;

/** Watches the constructors of arrays and buffers, and WebAssembly's memory, until stop(). Copies that arrays make of themselves are no larger than they. */
export function watchMemory(): Watch {
  let largestBytes = 0;
  const scope = globalThis as unknown as Record<string, Constructor>;
  const originals = arrays.map((name) => [name, scope[name]!] as const);
  for (const [name, original] of originals) {
    const elementBytes = (original as unknown as { BYTES_PER_ELEMENT?: number }).BYTES_PER_ELEMENT ?? 1;
    const watched: Constructor = new Proxy(original, {
      construct(target, parameters: unknown[], newTarget: Constructor): object {
        const [first] = parameters;
        const length = typeof first === "number" ? first : Array.isArray(first) || ArrayBuffer.isView(first) ? (first as ArrayLike<number>).length : 0;
        largestBytes = Math.max(largestBytes, length * elementBytes);
        return Reflect.construct<unknown[], object>(target, parameters, newTarget === watched ? target : newTarget);
      },
    });
    scope[name] = watched;
  }
  const grow = Object.getOwnPropertyDescriptor(WebAssembly.Memory.prototype, "grow")!;
  WebAssembly.Memory.prototype.grow = function (this: WebAssembly.Memory, pages: number) {
    largestBytes = Math.max(largestBytes, pages * 65536);
    return (grow.value as typeof this.grow).call(this, pages);
  };
  const prototypes = [Object.prototype, Array.prototype, Function.prototype, String.prototype, Number.prototype, Map.prototype, Set.prototype];
  const namesOf = (): string[] => prototypes.flatMap((prototype, i) => Reflect.ownKeys(prototype).map((key) => `${i}.${String(key)}`));
  const before = new Set(namesOf());
  return {
    get largestBytes() {
      return largestBytes;
    },
    reset: () => (largestBytes = 0),
    pollution: () => {
      const now = namesOf();
      return now.length === before.size ? now.filter((name) => !before.has(name)) : [...now.filter((name) => !before.has(name)), `${now.length} names for ${before.size}`];
    },
    stop() {
      for (const [name, original] of originals) scope[name] = original;
      Object.defineProperty(WebAssembly.Memory.prototype, "grow", grow);
    },
  };
}
