import { FileReader } from "../checkpoint/fileReader.ts";
import { throwIfAborted } from "../errors.ts";

/*
 * A cached model is one stream of records, read front to back:
 *   u32 [4]   magic and version, number of the record from 0, bytes of the JSON, check of the JSON
 *   JSON      UTF-8, padded with spaces to a multiple of 16: { value, arrays: [type, length, check][] }
 *   arrays    as they are in memory (little-endian wherever there is WebGPU), each padded with zeros to a multiple of 16
 * In `value`, { "#": n } stands for the n-th array, and { "#": "Infinity" } and the like for a number that JSON has not.
 */

/** "NIB" and the version of this format. */
const MAGIC = 0x0142494e;
const ALIGNMENT = 16;

const arrayTypes = { Int8Array, Uint8Array, Uint16Array, Int32Array, Uint32Array, Float32Array, Float64Array };
type ArrayTypeName = keyof typeof arrayTypes;
type StoredArray = InstanceType<(typeof arrayTypes)[ArrayTypeName]>;

/** The bytes of a cached model are not those that were written: they end early, or were damaged. */
export class DamagedRecord extends Error {}

/** The pieces of one record; value: plain objects, lists, numbers, words and typed arrays, whose bytes are not copied. */
export function encodeRecord(number: number, value: unknown): Uint8Array[] {
  const arrays: StoredArray[] = [];
  const replaced = JSON.stringify(value, (_key, part: unknown) => {
    if (typeof part === "number" && !Number.isFinite(part)) return { "#": String(part) };
    return ArrayBuffer.isView(part) ? { "#": arrays.push(part as StoredArray) - 1 } : part;
  });
  const sections = arrays.map((array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
  const table = arrays.map((array, i) => [array.constructor.name, array.length, checkOf(sections[i]!)]);
  const text = new TextEncoder().encode(`{"value":${replaced},"arrays":${JSON.stringify(table)}}`);
  const head = new Uint8Array(ALIGNMENT + padded(text.length)).fill(0x20);
  head.set(text, ALIGNMENT);
  new Uint32Array(head.buffer).set([MAGIC, number, head.length - ALIGNMENT, checkOf(head.subarray(ALIGNMENT))]);
  return [head, ...sections.flatMap((section) => [section, new Uint8Array(padded(section.length) - section.length)])].filter(({ length }) => length > 0);
}

interface RecordText {
  value: unknown;
  arrays: [type: ArrayTypeName, length: number, check: number][];
}

/** Reads records one by one. All reject with signal.reason on abort. */
export class RecordReader {
  readonly #file: FileReader;
  readonly #signal: AbortSignal | undefined;
  #number = 0;

  constructor(pieces: AsyncIterable<Uint8Array>, signal: AbortSignal | undefined) {
    this.#file = new FileReader({ name: "the cached model", sizeBytes: null, stream: () => pieces }, signal);
    this.#signal = signal;
  }

  /** The value of the next record; its arrays have buffers of their own. @throws DamagedRecord */
  async next(): Promise<unknown> {
    const [magic, number, textBytes, check] = new Uint32Array((await this.#read(ALIGNMENT)).buffer);
    if (magic !== MAGIC || number !== this.#number++) throw new DamagedRecord(`Record ${this.#number - 1} does not begin as it should.`);
    const { value, arrays } = this.#parse(await this.#read(textBytes!), check!);
    const stored: StoredArray[] = [];
    for (const [type, length, arrayCheck] of arrays) {
      const ArrayType = arrayTypes[type];
      const bytes = length * ArrayType.BYTES_PER_ELEMENT;
      const section = await this.#read(bytes);
      await this.#read(padded(bytes) - bytes);
      if (checkOf(section) !== arrayCheck) throw new DamagedRecord(`An array of record ${number} has other bytes than were written.`);
      stored.push(new ArrayType(section.buffer));
    }
    return revive(value, stored);
  }

  /** @throws DamagedRecord where more follows */
  async expectEnd(): Promise<void> {
    await this.#file.expectEnd().catch((cause: unknown) => this.#damaged(cause));
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  #parse(bytes: Uint8Array, check: number): RecordText {
    if (checkOf(bytes) !== check) throw new DamagedRecord(`The JSON of record ${this.#number - 1} has other bytes than were written.`);
    return JSON.parse(new TextDecoder().decode(bytes)) as RecordText;
  }

  async #read(bytes: number): Promise<Uint8Array<ArrayBuffer>> {
    return this.#file.read(bytes).catch((cause: unknown) => this.#damaged(cause));
  }

  #damaged(cause: unknown): never {
    throwIfAborted(this.#signal);
    throw new DamagedRecord((cause as Error).message, { cause });
  }
}

/** 32 bits that differ for any change of a word, and for nearly any other: each step is a bijection of what was and of what comes. bytes: any length. */
function checkOf(bytes: Uint8Array): number {
  const words = bytes.byteOffset % 4 === 0 ? new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2) : new Uint32Array(bytes.slice(0, bytes.length & ~3).buffer);
  let hash = bytes.length;
  for (let i = 0; i < words.length; i++) {
    hash = Math.imul(hash ^ words[i]!, 0x9e3779b1); // odd, so that it can be undone: 2³² over the golden ratio
    hash ^= hash >>> 15;
  }
  for (let i = words.length * 4; i < bytes.length; i++) {
    hash = Math.imul(hash ^ bytes[i]!, 0x9e3779b1);
    hash ^= hash >>> 15;
  }
  return hash >>> 0;
}

/** Puts arrays and numbers back where encodeRecord() took them from. */
function revive(value: unknown, arrays: readonly StoredArray[]): unknown {
  if (Array.isArray(value)) return value.map((item) => revive(item, arrays));
  if (typeof value !== "object" || value === null) return value;
  const { "#": mark } = value as { "#"?: number | string };
  if (typeof mark === "number") return arrays[mark];
  if (typeof mark === "string") return Number(mark);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, revive(item, arrays)]));
}

function padded(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}
