import { EngineError, show } from "../errors.ts";
import type { CheckpointSource, SourceFile } from "../source/types.ts";
import { parseGpt2Config } from "./config.ts";
import { isHtml, readJson, readText } from "./fileReader.ts";
import { gpt2Weights, isHeadWte, modelName } from "./gpt2Weights.ts";
import { readBlocks, readHeaders, readWeights, requireAll, type WeightFiles } from "./readWeights.ts";
import type { Checkpoint, CheckpointTensor, FetchRestore } from "./types.ts";
import { WeightFile } from "./weightFile.ts";

const maxConfigBytes = 2 ** 20;
const maxTokenizerBytes = 32 * 2 ** 20;
const maxIndexBytes = 32 * 2 ** 20;
const indexName = "model.safetensors.index.json";

export interface OpenCheckpointOptions {
  signal?: AbortSignal;
  /** For matrices that are stored quantized; this area knows no formats. @default they are refused as `unsupported` */
  fetchRestore?: FetchRestore;
}

/** Finds the files of a GPT-2 checkpoint, validates its config.json and reads its tokenizer. The weights wait for read(). */
export async function openCheckpoint(source: CheckpointSource, { signal, fetchRestore = async () => refuseStored }: OpenCheckpointOptions = {}): Promise<Checkpoint> {
  const configFile = await source.open("config.json", { signal });
  if (!configFile) throw new EngineError("checkpoint", `There is no config.json in ${source.description}.`, { file: "config.json" });
  const config = parseGpt2Config(await readJson(configFile, maxConfigBytes, signal));
  const tokenizerFiles = await readTokenizerFiles(source, signal);
  const expected = gpt2Weights(config);
  const files = await findWeightFiles(source, signal);
  if (files.tensorNames) {
    const headIsWte = isHeadWte(files.tensorNames, config);
    requireAll(expected, new Set(files.tensorNames.map((name) => modelName(name, headIsWte))), indexName);
  }
  return {
    config,
    description: source.description,
    tokenizerFiles,
    weightFiles: files.files.map(({ name }) => name),
    weightBytes: files.totalBytes,
    tensors: expected.map(({ name, kind, shape }) => ({ name, kind, shape })),
    readHeaders: (signal) => readHeaders(files, config, signal),
    read: (options) => readWeights(files, expected, config, fetchRestore, options),
    readBlocks: (options) => readBlocks(files, expected, config, fetchRestore, options),
  };
}

function refuseStored({ name }: CheckpointTensor): never {
  throw new EngineError("unsupported", `Tensor "${name}" is stored quantized; expected F32, F16, BF16 or F64.`, { tensor: name });
}

/** tokenizer.json, or else vocab.json with merges.txt. */
async function readTokenizerFiles(source: CheckpointSource, signal: AbortSignal | undefined): Promise<Record<string, string>> {
  const json = await readOptionalText(source, "tokenizer.json", signal);
  if (json !== null) return { "tokenizer.json": json };
  const vocab = await readOptionalText(source, "vocab.json", signal);
  const merges = vocab === null ? null : await readOptionalText(source, "merges.txt", signal);
  return vocab === null || merges === null ? {} : { "vocab.json": vocab, "merges.txt": merges };
}

/** null where the file is absent. Some servers say so with 403 (S3) or with their start page (any single-page app). */
async function readOptionalText(source: CheckpointSource, name: string, signal: AbortSignal | undefined): Promise<string | null> {
  let file: SourceFile | null;
  try {
    file = await source.open(name, { signal });
  } catch (error) {
    if (error instanceof EngineError && error.details["status"] === 403) return null;
    throw error;
  }
  const text = file && (await readText(file, maxTokenizerBytes, signal));
  return text === null || isHtml(text) ? null : text;
}

/** model.safetensors where there is one; else the files of the index; else every .safetensors that the source names. */
async function findWeightFiles(source: CheckpointSource, signal: AbortSignal | undefined): Promise<WeightFiles> {
  const named = source.safetensorsNames;
  const single = named.length === 1 ? named[0]! : "model.safetensors";
  if (named.length <= 1 || named.includes(single)) {
    const file = await source.open(single, { signal });
    if (file) return { totalBytes: file.sizeBytes, files: [new WeightFile(single, async () => file)] };
    if (named.length === 1) throw missing(source, single);
  }
  const index = await source.open(indexName, { signal });
  if (index) return indexedFiles(source, await readJson(index, maxIndexBytes, signal));
  if (named.length === 0) throw missing(source, "model.safetensors");
  const files = await Promise.all(named.map((name) => openWeights(source, name, signal)));
  const totalBytes = files.reduce<number | null>((total, { sizeBytes }) => (total === null || sizeBytes === null ? null : total + sizeBytes), 0);
  return { totalBytes, files: files.map((file) => new WeightFile(file.name, async () => file)) };
}

/** The shards of a model.safetensors.index.json: { metadata: { total_size }, weight_map: { tensor name: file name } }. */
function indexedFiles(source: CheckpointSource, index: unknown): WeightFiles {
  const { weight_map: weightMap, metadata } = (index ?? {}) as { weight_map?: unknown; metadata?: { total_size?: unknown } };
  if (typeof weightMap !== "object" || weightMap === null) {
    throw new EngineError("checkpoint", `${indexName} has no weight_map; expected an object of file names by tensor.`, { file: indexName });
  }
  const entries = Object.entries(weightMap);
  for (const [tensor, file] of entries) {
    if (typeof file === "string" && /^[^/\\]+\.safetensors$/.test(file)) continue; // a name with a path could lead anywhere
    const message = `${indexName}: weight_map[${show(tensor)}] is ${show(file)}; expected the name of a .safetensors beside it.`;
    throw new EngineError("checkpoint", message, { file: indexName, tensor });
  }
  const names = [...new Set(entries.map(([, file]) => file as string))].sort();
  const totalSize = metadata?.total_size;
  return {
    totalBytes: typeof totalSize === "number" && totalSize > 0 ? totalSize : null,
    files: names.map((name) => new WeightFile(name, (signal) => openWeights(source, name, signal))),
    tensorNames: entries.map(([tensor]) => tensor),
  };
}

async function openWeights(source: CheckpointSource, name: string, signal: AbortSignal | undefined): Promise<SourceFile> {
  const file = await source.open(name, { signal });
  if (!file) throw missing(source, name);
  return file;
}

function missing(source: CheckpointSource, name: string): EngineError {
  const or = name === "model.safetensors" ? ` and no ${indexName}` : "";
  return new EngineError("checkpoint", `There is no ${name}${or} in ${source.description}.`, { file: name });
}
