import { EngineError, show } from "../errors.ts";
import { type Dtype, dtypeBytes, isDtype } from "./dtypes.ts";
import { findDuplicateKey } from "./duplicateKey.ts";

/** The format's own bound, https://github.com/huggingface/safetensors: a longer header is an attack on the parser. */
export const maxHeaderBytes = 100_000_000;

/** What a header says of one tensor. */
export interface SafetensorsEntry {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Offsets of the tensor's bytes within the data that follows the header: [begin, end). */
  readonly begin: number;
  readonly end: number;
}

/** A validated header. */
export interface SafetensorsHeader {
  /** `__metadata__`. */
  readonly metadata: ReadonlyMap<string, string>;
  /** In the order of their bytes in the file. */
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>;
  /** Where the data begins in the file: 8 + header length. */
  readonly dataStartBytes: number;
  /** Length of the data as the header has it. */
  readonly dataBytes: number;
}

/**
 * The header's length in bytes, from the file's first eight.
 * Throws `checkpoint` for a length that no safetensors file of `fileBytes` (null: unknown) can have.
 */
export function readHeaderLength(start: Uint8Array, fileBytes: number | null = null): number {
  if (start.length < 8) throw malformed(`The file has ${start.length} bytes; expected at least the 8 of the header length.`, { fileBytes: start.length });
  const view = new DataView(start.buffer, start.byteOffset, 8);
  const headerBytes = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
  if (headerBytes > maxHeaderBytes) {
    const text = String.fromCharCode(...start.subarray(0, 8));
    if (/^\s*<[!a-z?]/i.test(text)) throw malformed(`Found HTML, starting with ${show(text)}; expected safetensors.`, { start: text });
    if (/^[\x20-\x7e\s]{8}$/.test(text)) throw malformed(`Found text, starting with ${show(text)}; expected safetensors.`, { start: text });
    throw malformed(`The header length is ${headerBytes} bytes; expected at most ${maxHeaderBytes}.`, { headerBytes });
  }
  if (headerBytes < 2) throw malformed(`The header length is ${headerBytes} bytes; expected at least the 2 of "{}".`, { headerBytes });
  if (fileBytes !== null && 8 + headerBytes > fileBytes) {
    throw malformed(`The header needs ${headerBytes} bytes after the first 8, and the file has ${fileBytes} bytes in all: truncated.`, { headerBytes, fileBytes });
  }
  return headerBytes;
}

/**
 * Reads and validates a header: every tensor's size is shape × dtype, and the tensors cover the data without overlap or hole.
 * bytes: the file from its start, header included; more may follow. fileBytes: length of the whole file, null where unknown.
 * Throws `checkpoint` naming the tensor and the numbers.
 */
export function parseSafetensorsHeader(bytes: Uint8Array, fileBytes: number | null = null): SafetensorsHeader {
  const headerBytes = readHeaderLength(bytes, fileBytes);
  if (bytes.length < 8 + headerBytes) {
    throw malformed(`The header needs ${headerBytes} bytes after the first 8, and ${bytes.length - 8} came.`, { headerBytes, presentBytes: bytes.length - 8 });
  }
  const header = parseHeaderJson(bytes.subarray(8, 8 + headerBytes));

  const metadata = readMetadata(header["__metadata__"]);
  const entries = Object.entries(header)
    .filter(([name]) => name !== "__metadata__")
    .map(([name, value]) => readEntry(name, value))
    .sort((a, b) => a.begin - b.begin || a.end - b.end);

  const dataBytes = checkCoverage(entries);
  const dataStartBytes = 8 + headerBytes;
  const presentBytes = fileBytes === null ? dataBytes : fileBytes - dataStartBytes;
  const details = { dataBytes, presentBytes };
  if (presentBytes < dataBytes) throw malformed(`The tensors need ${dataBytes} bytes of data, and the file holds ${presentBytes}: truncated.`, details);
  if (presentBytes > dataBytes) throw malformed(`${presentBytes - dataBytes} bytes follow the last tensor; expected the data to end at byte ${dataBytes}.`, details);
  return { metadata, tensors: new Map(entries.map((entry) => [entry.name, entry])), dataStartBytes, dataBytes };
}

function parseHeaderJson(bytes: Uint8Array): Record<string, unknown> {
  if (bytes[0] !== 0x7b) {
    const start = show(String.fromCharCode(...bytes.subarray(0, 16)));
    throw malformed(`The header starts with ${start}; expected "{".`, { start });
  }
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw malformed("The header is not valid UTF-8.", {}, cause);
  }
  let header: unknown;
  try {
    header = JSON.parse(text);
  } catch (cause) {
    throw malformed(`The header is not valid JSON: ${(cause as Error).message}.`, {}, cause);
  }
  const duplicate = findDuplicateKey(text);
  if (duplicate?.depth === 1) throw malformed(`The header names ${show(duplicate.key)} twice.`, { tensor: duplicate.key });
  if (duplicate) throw malformed(`The key ${show(duplicate.key)} occurs twice in one object of the header.`, { key: duplicate.key });
  return header as Record<string, unknown>; // valid JSON that starts with "{"
}

function readMetadata(value: unknown): Map<string, string> {
  if (value === undefined) return new Map();
  if (!isObject(value)) throw malformed(`__metadata__ is ${show(value)}; expected an object of strings.`);
  const entries = Object.entries(value);
  for (const [key, text] of entries) {
    if (typeof text !== "string") throw malformed(`__metadata__[${show(key)}] is ${show(text)}; expected a string.`, { key });
  }
  return new Map(entries as [string, string][]);
}

function readEntry(name: string, value: unknown): SafetensorsEntry {
  const fail = (found: string, details: Readonly<Record<string, unknown>> = {}): EngineError => malformed(`Tensor ${show(name)} ${found}`, { tensor: name, ...details });
  if (!isObject(value)) throw fail(`is described by ${show(value)}; expected { dtype, shape, data_offsets }.`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (!isDtype(dtype)) throw fail(`has dtype ${showField(dtype)}; expected one of ${Object.keys(dtypeBytes).join(", ")}.`);
  if (!Array.isArray(shape) || !shape.every(isSize)) throw fail(`has shape ${showField(shape)}; expected an array of non-negative integers.`);
  let expectedBytes: number = dtypeBytes[dtype];
  for (const length of shape.includes(0) ? [0] : shape) expectedBytes *= length;
  if (!Number.isSafeInteger(expectedBytes)) throw fail(`has shape ${show(shape)}, more than 2^53 bytes.`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize)) throw fail(`has data_offsets ${showField(offsets)}; expected two non-negative integers.`);
  const [begin, end] = offsets as [number, number];
  if (begin > end) throw fail(`begins at byte ${begin} and ends at byte ${end}; expected begin ≤ end.`, { begin, end });
  const foundBytes = end - begin;
  if (foundBytes !== expectedBytes) throw fail(`has ${foundBytes} bytes; expected ${expectedBytes} for ${dtype} ${show(shape)}.`, { foundBytes, expectedBytes });
  return { name, dtype, shape, begin, end };
}

/** Walks the entries, sorted by begin; returns the length of the data. */
function checkCoverage(entries: readonly SafetensorsEntry[]): number {
  let end = 0;
  let previous = "the header";
  for (const entry of entries) {
    const details = { tensor: entry.name, begin: entry.begin, previousEnd: end };
    const begins = `Tensor ${show(entry.name)} begins at byte ${entry.begin}`;
    if (entry.begin < end) throw malformed(`${begins} and overlaps ${previous}, which ends at ${end}.`, details);
    if (entry.begin > end) throw malformed(`${begins}, ${entry.begin - end} bytes after ${previous}; expected no hole.`, details);
    end = entry.end;
    previous = show(entry.name);
  }
  return end;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function showField(value: unknown): string {
  return value === undefined ? "missing" : show(value);
}

function malformed(message: string, details: Readonly<Record<string, unknown>> = {}, cause?: unknown): EngineError {
  return new EngineError("checkpoint", message, details, cause === undefined ? undefined : { cause });
}
