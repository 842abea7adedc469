import { openCheckpoint } from "../checkpoint/openCheckpoint.ts";
import type { ReadTensor } from "../checkpoint/types.ts";
import { EngineError, show } from "../errors.ts";
import { checkWatching } from "../generate/options.ts";
import { openSource } from "../source/openSource.ts";
import type { LoadOptions, ModelSource } from "../types.ts";
import { fetchRestore } from "./stored.ts";

/** Options of readTensor(). */
export interface ReadTensorOptions extends Pick<LoadOptions, "hub" | "fetch" | "signal"> {
  /** Called with the bytes of one file so far. */
  onProgress?: (progress: { file: string; loadedBytes: number; totalBytes: number | null }) => void;
}

/** One tensor of a checkpoint. */
export interface NamedTensor {
  /** Without `transformer.`. */
  name: string;
  /** A block's matrix is given as [outputs, inputs], transposed from the file; a vector as [1, length]. */
  shape: readonly [rows: number, columns: number];
  /** f32 [rows, columns], row-major. */
  values: Float32Array<ArrayBuffer>;
}

const LISTED_NAMES = 3;

/**
 * Reads one tensor of a checkpoint; what comes before it in the file is passed over, what comes after is not read.
 * @param name as in the checkpoint, with or without `transformer.`: "h.0.attn.c_attn.weight"
 * @throws TypeError for a name that is none; EngineError network, checkpoint (an unknown name, with those that are close); signal.reason on abort
 */
export async function readTensor(source: ModelSource, name: string, options: ReadTensorOptions = {}): Promise<NamedTensor> {
  const { tensor, values } = await readOne(source, name, options);
  return { name: tensor.name, shape: tensor.shape, values };
}

/** As readTensor(), with what kind of tensor it is. */
export async function readOne(source: ModelSource, name: string, { hub, fetch, signal, onProgress }: ReadTensorOptions): Promise<ReadTensor> {
  if (typeof name !== "string" || name === "") throw new TypeError(`name is ${show(name)}; expected a tensor such as "h.0.attn.c_attn.weight".`);
  checkWatching({ signal, onProgress });
  signal?.throwIfAborted();
  const checkpoint = await openCheckpoint(openSource(source, { hub, fetch, signal }), { signal, fetchRestore });
  const wanted = name.replace(/^transformer\./, "");
  const names = checkpoint.tensors.map((tensor) => tensor.name);
  if (!names.includes(wanted)) {
    const close = closestNames(wanted, names);
    throw new EngineError("checkpoint", `There is no tensor ${show(name)} in ${checkpoint.description}; close to it are ${close.join(", ")}.`, { tensor: name, close });
  }
  for await (const read of checkpoint.read({ signal, onBytes: onProgress })) {
    if (read.tensor.name === wanted) return read;
  }
  throw new EngineError("checkpoint", `Tensor "${name}" is in no file of ${checkpoint.description}.`, { tensor: name }); // read() itself finds it missing first
}

/** By the letters that both have in common in the same order from the start and from the end; a shorter name first among equals. */
function closestNames(wanted: string, names: readonly string[]): string[] {
  const common = (name: string): number => {
    const most = Math.min(name.length, wanted.length);
    let start = 0;
    while (start < most && name[start] === wanted[start]) start++;
    let end = 0;
    while (end < most - start && name.at(-1 - end) === wanted.at(-1 - end)) end++;
    return start + end;
  };
  return [...names].sort((a, b) => common(b) - common(a) || a.length - b.length).slice(0, LISTED_NAMES);
}
