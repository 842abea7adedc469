import { FileReader } from "../checkpoint/fileReader.ts";
import { throwIfAborted } from "../errors.ts";
import { Pacer } from "../model/cpu/pacer.ts";

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
/** What takes a piece may copy it. */
const PIECE_BYTES = 2 ** 20;
/** Checked between two looks at the clock: some milliseconds. */
const CHECKED_BYTES = 8 * 2 ** 20;

const arrayTypes = { Int8Array, Uint8Array, Uint16Array, Int32Array, Uint32Array, Float32Array, Float64Array };
type ArrayTypeName = keyof typeof arrayTypes;
type StoredArray = InstanceType<(typeof arrayTypes)[ArrayTypeName]>;

/** The bytes of a cached model are not those that were written: they end early, or were damaged. */
export class DamagedRecord extends Error {}

/** The pieces of one record; value: plain objects, lists, numbers, words and typed arrays, whose bytes are not copied. Rejects with signal.reason on abort. */
export async function encodeRecord(number: number, value: unknown, signal?: AbortSignal): Promise<Uint8Array[]> {
  const arrays: StoredArray[] = [];
  const replaced = JSON.stringify(value, (_key, part: unknown) => {
    if (typeof part === "number" && !Number.isFinite(part)) return { "#": String(part) };
    return ArrayBuffer.isView(part) ? { "#": arrays.push(part as StoredArray) - 1 } : part;
  });
  const sections = arrays.map((array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
  const pacer = new Pacer();
  const table: RecordText["arrays"] = [];
  for (const [i, array] of arrays.entries()) table.push([array.constructor.name as ArrayTypeName, array.length, await checkOf(sections[i]!, pacer, signal)]);
  const text = new TextEncoder().encode(`{"value":${replaced},"arrays":${JSON.stringify(table)}}`);
  const head = new Uint8Array(ALIGNMENT + padded(text.length)).fill(0x20);
  head.set(text, ALIGNMENT);
  new Uint32Array(head.buffer).set([MAGIC, number, head.length - ALIGNMENT, await checkOf(head.subarray(ALIGNMENT), pacer, signal)]);
  const pieces: Uint8Array[] = [head];
  for (const section of sections) {
    for (let at = 0; at < section.length; at += PIECE_BYTES) pieces.push(section.subarray(at, at + PIECE_BYTES));
    if (padded(section.length) > section.length) pieces.push(new Uint8Array(padded(section.length) - section.length));
  }
  return pieces;
}

interface RecordText {
  value: unknown;
  arrays: [type: ArrayTypeName, length: number, check: number][];
}

/** Reads records one by one. All reject with signal.reason on abort. */
export class RecordReader {
  readonly #file: FileReader;
  readonly #signal: AbortSignal | undefined;
  readonly #pacer = new Pacer();
  #number = 0;

  constructor(pieces: AsyncIterable<Uint8Array>, signal: AbortSignal | undefined) {
    this.#file = new FileReader({ name: "the cached model", sizeBytes: null, stream: () => pieces }, signal);
    this.#signal = signal;
  }

  /** The value of the next record; its arrays have buffers of their own. @throws DamagedRecord */
  async next(): Promise<unknown> {
    const [magic, number, textBytes, check] = new Uint32Array((await this.#read(ALIGNMENT)).buffer);
    if (magic !== MAGIC || number !== this.#number++) throw new DamagedRecord(`Record ${this.#number - 1} does not begin as it should.`);
    const { value, arrays } = await this.#parse(await this.#read(textBytes!), check!);
    const stored: StoredArray[] = [];
    for (const [type, length, arrayCheck] of arrays) {
      const ArrayType = arrayTypes[type];
      const bytes = length * ArrayType.BYTES_PER_ELEMENT;
      const section = await this.#read(bytes, [new ArrayBuffer(bytes)]); // the length is checked; unproven ones are read into buffers that grow
      await this.#read(padded(bytes) - bytes);
      if ((await checkOf(section, this.#pacer, this.#signal)) !== arrayCheck) throw new DamagedRecord(`An array of record ${number} has other bytes than were written.`);
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

  async #parse(bytes: Uint8Array, check: number): Promise<RecordText> {
    if ((await checkOf(bytes, this.#pacer, this.#signal)) !== check) throw new DamagedRecord(`The JSON of record ${this.#number - 1} has other bytes than were written.`);
    return JSON.parse(new TextDecoder().decode(bytes)) as RecordText;
  }

  async #read(bytes: number, spare?: ArrayBuffer[]): Promise<Uint8Array<ArrayBuffer>> {
    return this.#file.read(bytes, spare).catch((cause: unknown) => this.#damaged(cause));
  }

  #damaged(cause: unknown): never {
    throwIfAborted(this.#signal);
    throw new DamagedRecord((cause as Error).message, { cause });
  }
}

/** 32 bits that differ for any change within a word, and for nearly any other. */
async function checkOf(bytes: Uint8Array, pacer: Pacer, signal: AbortSignal | undefined): Promise<number> {
  let check = bytes.length;
  for (let at = 0; at < bytes.length; at += CHECKED_BYTES) {
    check = checkFurther(check, bytes.subarray(at, at + CHECKED_BYTES));
    if (pacer.isDue()) await pacer.rest(signal);
  }
  return check >>> 0;
}

/** Each step can be undone, so that what differs once stays different. */
function checkFurther(check: number, bytes: Uint8Array): number {
  const wholeBytes = bytes.length & ~3;
  const words = bytes.byteOffset % 4 === 0 ? new Uint32Array(bytes.buffer, bytes.byteOffset, wholeBytes / 4) : new Uint32Array(bytes.slice(0, wholeBytes).buffer);
  const mix = (word: number): void => {
    check = Math.imul(check ^ word, 0x9e3779b1); // odd; 2³² over the golden ratio
    check ^= check >>> 15;
  };
  for (let i = 0; i < words.length; i++) mix(words[i]!);
  for (let i = wholeBytes; i < bytes.length; i++) mix(bytes[i]!);
  return check;
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
