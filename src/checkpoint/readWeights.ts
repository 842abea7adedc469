import { EngineError, throwIfAborted } from "../errors.ts";
import { isFloatDtype, parseSafetensorsHeader, readHeaderLength, type SafetensorsEntry, type SafetensorsHeader, toFloat32 } from "../safetensors/index.ts";
import type { SourceFile } from "../source/types.ts";
import type { Gpt2Config } from "../types.ts";
import { FileReader } from "./fileReader.ts";
import { type ExpectedTensor, isHeadWte, modelName, transpose } from "./gpt2Weights.ts";
import type { CheckpointTensor, ReadOptions } from "./types.ts";

/** Where the weights are. */
export interface WeightFiles {
  /** Each is called once per pass, when its turn comes: an opened response waits for nobody. */
  files: readonly ((signal: AbortSignal | undefined) => Promise<SourceFile>)[];
  /** Of all files; null where unknown, short by the headers where only an index has told it. */
  totalBytes: number | null;
  /** Every tensor of every file, where an index has told them. */
  tensorNames?: readonly string[];
}

interface ReadTensor {
  tensor: CheckpointTensor;
  values: Float32Array<ArrayBuffer>;
}

/** One pass over the files; see Checkpoint.read. */
export async function* readWeights(
  { files, totalBytes, tensorNames }: WeightFiles,
  expected: readonly ExpectedTensor[],
  config: Gpt2Config,
  { signal, onBytes }: ReadOptions = {},
): AsyncGenerator<ReadTensor> {
  const wanted = new Map(expected.map((tensor) => [tensor.name, tensor]));
  const found = new Map<string, string>(); // model name -> the file it is in
  let earlierBytes = 0;
  for (const openFile of files) {
    const file = await openFile(signal);
    const reader = new FileReader(file, signal, (readBytes) => {
      const loadedBytes = earlierBytes + readBytes;
      onBytes?.({ file: file.name, loadedBytes, totalBytes: totalBytes && Math.max(totalBytes, loadedBytes) });
    });
    try {
      const header = await readHeader(reader, file);
      const allNames = tensorNames ?? (files.length === 1 ? [...header.tensors.keys()] : null);
      const headIsWte = allNames !== null && isHeadWte(allNames, config);
      const plan = planFile(file.name, header, wanted, found, config.nLayer, headIsWte);
      if (files.length === 1) requireAll(expected, found, file.name);
      for (const entry of header.tensors.values()) {
        throwIfAborted(signal);
        const tensor = plan.get(entry);
        if (tensor) yield await readTensor(reader, entry, tensor);
        else await reader.skip(entry.end - entry.begin);
      }
      await reader.expectEnd();
    } finally {
      await reader.close();
    }
    earlierBytes += reader.readBytes;
  }
  requireAll(expected, found, `The set of ${files.length} files`);
}

async function readHeader(reader: FileReader, { name, sizeBytes }: SourceFile): Promise<SafetensorsHeader> {
  const start = await reader.read(8);
  const headerBytes = inFile(name, () => readHeaderLength(start, sizeBytes));
  const bytes = new Uint8Array(8 + headerBytes);
  bytes.set(start);
  bytes.set(await reader.read(headerBytes), 8);
  return inFile(name, () => parseSafetensorsHeader(bytes, sizeBytes));
}

/** Puts the file's name before the parser's message. */
function inFile<Result>(file: string, parse: () => Result): Result {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    throw new EngineError(error.code, `${file}: ${error.message}`, { ...error.details, file }, { cause: error });
  }
}

/** Which entries of a file are tensors of the model; notes them in `found`. Mask buffers, a tied head and what GPT-2 does not have are left out. */
function planFile(
  file: string,
  header: SafetensorsHeader,
  wanted: ReadonlyMap<string, ExpectedTensor>,
  found: Map<string, string>,
  nLayer: number,
  headIsWte: boolean,
): Map<SafetensorsEntry, ExpectedTensor> {
  const plan = new Map<SafetensorsEntry, ExpectedTensor>();
  for (const entry of header.tensors.values()) {
    const name = modelName(entry.name, headIsWte);
    const layer = /^h\.(\d+)\./.exec(name)?.[1];
    if (layer !== undefined && Number(layer) >= nLayer) {
      throw new EngineError("checkpoint", `Tensor "${entry.name}" lies beyond the last layer; config.json says n_layer is ${nLayer}.`, { tensor: entry.name, file, nLayer });
    }
    const tensor = wanted.get(name);
    if (!tensor) continue;
    const otherFile = found.get(name);
    if (otherFile !== undefined) {
      const where = otherFile === file ? `under two names in ${file}` : `in ${otherFile} and in ${file}`;
      throw new EngineError("checkpoint", `Tensor "${name}" is there twice, ${where}.`, { tensor: name, file });
    }
    checkDtypeAndShape(entry, tensor.fileShape);
    found.set(name, file);
    plan.set(entry, tensor);
  }
  return plan;
}

function checkDtypeAndShape({ name, dtype, shape }: SafetensorsEntry, expected: readonly number[]): void {
  if (!isFloatDtype(dtype)) throw new EngineError("checkpoint", `Tensor "${name}" has dtype ${dtype}; expected F32, F16, BF16 or F64.`, { tensor: name, dtype });
  if (shape.length === expected.length && shape.every((length, i) => length === expected[i])) return;
  throw new EngineError("checkpoint", `Tensor "${name}" has shape [${shape.join(", ")}]; expected [${expected.join(", ")}].`, { tensor: name, shape, expected });
}

async function readTensor(reader: FileReader, entry: SafetensorsEntry, { name, kind, shape }: ExpectedTensor): Promise<ReadTensor> {
  try {
    const values = toFloat32(await reader.read(entry.end - entry.begin), entry.dtype);
    checkFinite(values, entry);
    const [rows, columns] = shape;
    return { tensor: { name, kind, shape }, values: kind === "linear" ? transpose(values, columns, rows) : values };
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause; // an allocation that failed
    const needBytes = 4 * shape[0] * shape[1];
    throw new EngineError("outOfMemory", `Tensor "${entry.name}" needs ${needBytes} bytes of memory, and there are none left.`, { tensor: entry.name, needBytes }, { cause });
  }
}

/** values: in the order of the file, so that the index is the one a user finds in Python. */
function checkFinite(values: Float32Array, { name, shape }: SafetensorsEntry): void {
  for (let i = 0; i < values.length; i++) {
    if (values[i]! - values[i]! === 0) continue;
    const columns = shape.at(-1)!;
    const index = shape.length === 2 ? [Math.floor(i / columns), i % columns] : [i];
    throw new EngineError("checkpoint", `Tensor "${name}" holds ${values[i]} at [${index.join(", ")}]; expected finite weights.`, { tensor: name, index });
  }
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
