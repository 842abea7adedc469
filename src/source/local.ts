import { EngineError, show, throwIfAborted } from "../errors.ts";
import type { ModelSource } from "../types.ts";
import { readPieces } from "./readPieces.ts";
import { Sha256 } from "./sha256.ts";
import type { CheckpointSource, SourceFile } from "./types.ts";

/** The files that loading may read; a folder may hold the same weights for other frameworks. */
const isOfCheckpoint = /\.safetensors(\.index\.json)?$|^(config|tokenizer|vocab)\.json$|^merges\.txt$/;
/** Hashed between two rounds of the event loop: some 20 ms, which Chromium spends on the calling thread even for crypto.subtle. */
const hashedBytes = 4 * 2 ** 20;

type Content = Blob | ArrayBuffer | Uint8Array;
interface LocalEntry {
  /** As the user sees it, folders included. */
  path: string;
  content: Content;
}

/** Files that were picked or dropped, or contents by file name. Throws TypeError for anything else, `checkpoint` for two files of one name. */
export function localSource(source: Exclude<ModelSource, string | URL>, signal?: AbortSignal): CheckpointSource {
  if (source instanceof Blob || source instanceof ArrayBuffer || ArrayBuffer.isView(source)) {
    throw new TypeError(`source is a ${source.constructor.name}; expected a record that names it: { "config.json": …, "model.safetensors": … }.`);
  }
  const entries = Symbol.iterator in source ? Array.from(source, fileEntry) : Object.entries(source).map(recordEntry);
  if (entries.length === 0) throw new TypeError("source holds no files; expected config.json, model.safetensors and the like.");
  const files = new Map<string, LocalEntry>();
  for (const entry of checkpointFolder(entries)) {
    const name = baseName(entry.path);
    const other = files.get(name);
    if (other) throw new EngineError("checkpoint", `Two files are named ${name}: ${other.path} and ${entry.path}; expected one checkpoint.`, { file: name });
    files.set(name, entry);
  }
  return {
    description: files.size === 1 ? [...files.keys()][0]! : `${files.size} files`,
    safetensorsNames: [...files.keys()].filter((name) => name.endsWith(".safetensors")).sort(),
    isLocal: true,
    async open(name) {
      const entry = files.get(name);
      return entry ? localFile(name, entry.content, signal) : null;
    },
    async cacheName(readerSignal) {
      const lines: string[] = [];
      for (const [name, { content }] of files) {
        if (isOfCheckpoint.test(name)) lines.push(`${name} ${content instanceof File ? `${content.size} ${content.lastModified}` : await hashOf(content, readerSignal)}\n`);
      }
      return lines.sort().join("");
    },
  };
}

export function localFile(name: string, content: Content, sourceSignal?: AbortSignal): SourceFile {
  return {
    name,
    sizeBytes: content instanceof Blob ? content.size : content.byteLength,
    async *stream({ signal = sourceSignal } = {}) {
      throwIfAborted(signal);
      const unreadable = (cause: unknown): EngineError =>
        new EngineError("checkpoint", `${name} could not be read; was it changed or removed after it was chosen?`, { file: name }, { cause });
      if (content instanceof Blob) yield* readPieces(content.stream(), signal, unreadable);
      else yield bytesOf(content);
    },
  };
}

function bytesOf(content: ArrayBuffer | Uint8Array): Uint8Array {
  return content instanceof Uint8Array ? content : new Uint8Array(content);
}

/** Tells contents from others: the SHA-256 of those of their parts, by the browser where it can. */
async function hashOf(content: Content, signal: AbortSignal | undefined): Promise<string> {
  const { subtle } = globalThis.crypto as Partial<Crypto>; // absent in a page that is no secure context
  const sizeBytes = content instanceof Blob ? content.size : content.byteLength;
  const buffer = new Uint8Array(Math.min(sizeBytes, hashedBytes)); // one for all parts, or each would be garbage; crypto.subtle takes no shared memory
  const whole = new Sha256();
  for (let at = 0; at < sizeBytes; at += hashedBytes) {
    if (at > 0) await new Promise((resolve) => setTimeout(resolve));
    throwIfAborted(signal);
    const end = Math.min(at + hashedBytes, sizeBytes);
    const part = buffer.subarray(0, end - at);
    part.set(content instanceof Blob ? new Uint8Array(await content.slice(at, end).arrayBuffer()) : bytesOf(content).subarray(at, end));
    if (!subtle) whole.update(part);
    else whole.update(new Uint8Array(await subtle.digest("SHA-256", part)));
  }
  return whole.digest();
}

function fileEntry(file: unknown, index: number): LocalEntry {
  if (!(file instanceof File)) throw new TypeError(`source[${index}] is ${typeof file === "object" ? "not a File" : `a ${typeof file}`}; expected a File.`);
  return { path: file.webkitRelativePath || file.name, content: file }; // the relative path is set where a folder was chosen
}

function recordEntry([path, content]: [string, unknown]): LocalEntry {
  if (content instanceof Blob || content instanceof ArrayBuffer || content instanceof Uint8Array) return { path, content };
  throw new TypeError(`source[${show(path)}] is ${content === null ? "null" : typeof content}; expected a Blob, ArrayBuffer or Uint8Array.`);
}

/** Of a folder with subfolders (a clone from the hub has onnx/config.json), the files beside the outermost config.json or .safetensors. */
function checkpointFolder(entries: readonly LocalEntry[]): LocalEntry[] {
  const depth = ({ path }: LocalEntry): number => path.split("/").length;
  const marks = entries.filter(({ path }) => baseName(path) === "config.json" || path.endsWith(".safetensors"));
  const outermost = (marks.length > 0 ? marks : entries).reduce((least, entry) => Math.min(least, depth(entry)), Infinity); // not Math.min(...): a folder may have a million files
  return entries.filter((entry) => depth(entry) === outermost);
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}
