import { EngineError, show, throwIfAborted } from "../errors.ts";
import { isFloatDtype, type SafetensorsEntry, type SafetensorsHeader } from "../safetensors/index.ts";
import type { Gpt2Config } from "../types.ts";
import { allocating, decodeBlock, namingAllocation } from "./decodeBlock.ts";
import type { FileReader } from "./fileReader.ts";
import { type ExpectedTensor, isMatrix, isHeadWte, splitName } from "./gpt2Weights.ts";
import { parseHashes, verifyHash } from "./metadata.ts";
import type { CheckpointTensor, FetchRestore, RawBlock, ReadBlocksOptions, ReadOptions, ReadTensor, StoredEntry, WeightHeaders } from "./types.ts";
import type { WeightFile } from "./weightFile.ts";

/** Where the weights are. */
export interface WeightFiles {
  files: readonly WeightFile[];
  /** Of all files; null where unknown, short by the headers where only an index has told it. */
  totalBytes: number | null;
  /** Every tensor of every file, where an index has told them. */
  tensorNames?: readonly string[];
}

/** An entry of a file that the model wants: a tensor, or of a quantized matrix the part at `suffix`. */
interface Planned {
  tensor: ExpectedTensor;
  suffix: string;
  /** Entries that make the matrix; null for a tensor of floats. */
  storedCount: number | null;
}

/** The bytes of an embedding that are in memory together: its f32 values of 124M are 154 MB. */
const BLOCK_BYTES = 8 * 2 ** 20;

/** One pass over the files; see Checkpoint.read. */
export async function* readWeights(weights: WeightFiles, expected: readonly ExpectedTensor[], config: Gpt2Config, fetchRestore: FetchRestore, options?: ReadOptions): AsyncGenerator<ReadTensor> {
  for await (const block of readBlocks(weights, expected, config, fetchRestore, options, Infinity)) {
    yield "bytes" in block ? { tensor: block.tensor, values: decodeBlock(block) } : block;
  }
}

/** The same, as the file has it; see Checkpoint.readBlocks. */
export async function* readBlocks(
  weights: WeightFiles,
  expected: readonly ExpectedTensor[],
  config: Gpt2Config,
  fetchRestore: FetchRestore,
  { signal, onBytes, spare }: ReadBlocksOptions = {},
  blockBytes = BLOCK_BYTES,
): AsyncGenerator<RawBlock | ReadTensor> {
  const { files, totalBytes } = weights;
  const names = await namesOf(weights, signal);
  const headIsWte = isHeadWte(names, config);
  const wanted = new Map(expected.map((tensor) => [tensor.name, tensor]));
  const partCounts = countParts(names, headIsWte);
  const found = new Map<string, string>(); // model name -> the file it is in
  /** Entries of quantized matrices that are not complete. */
  const pending = new Map<string, Map<string, StoredEntry>>();
  let earlierBytes = 0;
  for (const weightFile of files) {
    const { name: fileName, header, reader } = await weightFile.start(signal);
    reader.onRead = (fileBytes) => {
      const loadedBytes = earlierBytes + fileBytes;
      onBytes?.({ file: fileName, fileBytes, fileTotalBytes: reader.sizeBytes, loadedBytes, totalBytes: totalBytes && Math.max(totalBytes, loadedBytes) });
    };
    try {
      const hashes = parseHashes(header.metadata, fileName);
      const plan = planFile(fileName, header, wanted, found, partCounts, config.nLayer, headIsWte);
      if (files.length === 1) requireAll(expected, found, fileName);
      for (const entry of header.tensors.values()) {
        throwIfAborted(signal);
        const planned = plan.get(entry);
        if (!planned) {
          await reader.skip(entry.end - entry.begin);
          continue;
        }
        const { suffix, storedCount } = planned;
        const tensor = withoutFileShape(planned.tensor);
        const hash = hashes.get(entry.name);
        if (storedCount === null && tensor.kind === "embedding" && hash === undefined) {
          yield* readRows(reader, tensor, entry, blockBytes, spare);
          continue;
        }
        const bytes = await readEntry(reader, tensor, entry, entry.end - entry.begin, isMatrix(tensor) && storedCount === null ? spare : undefined);
        await verifyHash(hash, bytes, entry.name, fileName);
        if (storedCount === null) {
          yield { tensor, entry, firstRow: 0, isLast: true, bytes };
          continue;
        }
        const entries = pending.get(tensor.name) ?? new Map<string, StoredEntry>();
        pending.set(tensor.name, entries.set(suffix, { dtype: entry.dtype, shape: entry.shape, bytes }));
        if (entries.size < storedCount) continue;
        pending.delete(tensor.name);
        const restore = await fetchRestore(signal);
        yield allocating(tensor, entry.name, () => restore(tensor, entries));
      }
      await reader.expectEnd();
    } finally {
      await reader.close();
    }
    earlierBytes += reader.readBytes;
  }
  const where = `The set of ${files.length} files`;
  requireAll(expected, found, where);
  for (const [name, entries] of pending) {
    const missing = names.map((each) => splitName(each, headIsWte)).find((each) => each.name === name && !entries.has(each.suffix));
    throw new EngineError("checkpoint", `${where} lacks "${name}${missing?.suffix}", which the index names.`, { tensor: name });
  }
}

async function* readRows(reader: FileReader, tensor: CheckpointTensor, entry: SafetensorsEntry, blockBytes: number, spare: ArrayBuffer[] | undefined): AsyncGenerator<RawBlock> {
  const [rows] = tensor.shape;
  const rowBytes = (entry.end - entry.begin) / rows;
  const blockRows = Math.max(1, Math.floor(blockBytes / rowBytes));
  for (let firstRow = 0; firstRow < rows; firstRow += blockRows) {
    const blockEnd = Math.min(firstRow + blockRows, rows);
    yield { tensor, entry, firstRow, isLast: blockEnd === rows, bytes: await readEntry(reader, tensor, entry, (blockEnd - firstRow) * rowBytes, spare) };
  }
}

async function readEntry(reader: FileReader, tensor: CheckpointTensor, { name }: SafetensorsEntry, length: number, spare: ArrayBuffer[] | undefined): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return await reader.read(length, spare);
  } catch (error) {
    throw namingAllocation(tensor, name, error);
  }
}

/** See Checkpoint.readHeaders. */
export async function readHeaders(weights: WeightFiles, config: Gpt2Config, signal: AbortSignal | undefined): Promise<WeightHeaders | null> {
  const names = await namesOf(weights, signal);
  const headIsWte = isHeadWte(names, config);
  if (countParts(names, headIsWte).size === 0) return null;
  const matrices = new Map<string, Map<string, SafetensorsEntry>>();
  const metadata = new Map<string, string>();
  for (const header of await headersOf(weights, signal)) {
    for (const [key, value] of header.metadata) metadata.set(key, value);
    for (const entry of header.tensors.values()) {
      const { name, suffix } = splitName(entry.name, headIsWte);
      matrices.set(name, (matrices.get(name) ?? new Map<string, SafetensorsEntry>()).set(suffix, entry));
    }
  }
  return { metadata, matrices };
}

async function namesOf(weights: WeightFiles, signal: AbortSignal | undefined): Promise<readonly string[]> {
  return weights.tensorNames ?? (await headersOf(weights, signal)).flatMap(({ tensors }) => [...tensors.keys()]);
}

/** Of one file, the transfer goes on where the pass begins; several are opened again in their turn. */
async function headersOf({ files }: WeightFiles, signal: AbortSignal | undefined): Promise<SafetensorsHeader[]> {
  const headers: SafetensorsHeader[] = [];
  for (const file of files) {
    headers.push(await file.readHeader(signal));
    if (files.length > 1) await file.close();
  }
  return headers;
}

/** How many entries each quantized matrix has, as names tell. */
function countParts(names: readonly string[], headIsWte: boolean): Map<string, number> {
  const counts = new Map<string, Set<string>>();
  for (const { name, suffix } of names.map((each) => splitName(each, headIsWte))) counts.set(name, (counts.get(name) ?? new Set<string>()).add(suffix));
  return new Map([...counts].filter(([, suffixes]) => suffixes.size > 1).map(([name, suffixes]) => [name, suffixes.size]));
}

/** Which entries of a file are wanted; notes them in `found`. Mask buffers, a tied head and what GPT-2 does not have are left out. */
function planFile(
  file: string,
  header: SafetensorsHeader,
  wanted: ReadonlyMap<string, ExpectedTensor>,
  found: Map<string, string>,
  partCounts: ReadonlyMap<string, number>,
  nLayer: number,
  headIsWte: boolean,
): Map<SafetensorsEntry, Planned> {
  const plan = new Map<SafetensorsEntry, Planned>();
  for (const entry of header.tensors.values()) {
    const { name, suffix } = splitName(entry.name, headIsWte);
    const layer = /^h\.(\d+)\./.exec(name)?.[1];
    if (layer !== undefined && Number(layer) >= nLayer) {
      throw new EngineError("checkpoint", `Tensor ${show(entry.name)} lies beyond the last layer; config.json says n_layer is ${nLayer}.`, { tensor: entry.name, file, nLayer });
    }
    const tensor = wanted.get(name);
    if (!tensor || (suffix !== "" && !isMatrix(tensor))) continue;
    const fullName = name + suffix;
    const otherFile = found.get(fullName);
    if (otherFile !== undefined) {
      const where = otherFile === file ? `under two names in ${file}` : `in ${otherFile} and in ${file}`;
      throw new EngineError("checkpoint", `Tensor "${fullName}" is there twice, ${where}.`, { tensor: fullName, file });
    }
    const storedCount = isMatrix(tensor) ? (partCounts.get(name) ?? (entry.dtype === "I8" || entry.dtype === "U8" ? 1 : null)) : null;
    if (storedCount === null) checkDtypeAndShape(entry, tensor.fileShape);
    found.set(fullName, file);
    plan.set(entry, { tensor, suffix, storedCount });
  }
  return plan;
}

function checkDtypeAndShape({ name, dtype, shape }: SafetensorsEntry, expected: readonly number[]): void {
  if (!isFloatDtype(dtype)) throw new EngineError("checkpoint", `Tensor "${name}" has dtype ${dtype}; expected F32, F16, BF16 or F64.`, { tensor: name, dtype });
  if (shape.length === expected.length && shape.every((length, i) => length === expected[i])) return;
  throw new EngineError("checkpoint", `Tensor "${name}" has shape ${show(shape)}; expected ${show(expected)}.`, { tensor: name, shape, expected });
}

function withoutFileShape({ name, kind, shape }: ExpectedTensor): ReadTensor["tensor"] {
  return { name, kind, shape };
}

/** Throws `checkpoint` listing the tensors whose model names are not among `present`. */
export function requireAll(expected: readonly ExpectedTensor[], present: { has(name: string): boolean }, where: string): void {
  const missing = expected.map(({ name }) => name).filter((name) => !present.has(name));
  if (missing.length === 0) return;
  const listed = missing.slice(0, 3).join(", ") + (missing.length > 3 ? ", …" : "");
  const hint = missing.includes("lm_head.weight") ? " (config.json says tie_word_embeddings is false)" : "";
  const details = { missing: missing.slice(0, 20), missingCount: missing.length };
  throw new EngineError("checkpoint", `${where} lacks ${missing.length} of ${expected.length} tensors: ${listed}${hint}.`, details);
}
