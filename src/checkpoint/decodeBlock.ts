import { EngineError } from "../errors.ts";
import { toFloat32 } from "../safetensors/index.ts";
import { transpose } from "./gpt2Weights.ts";
import type { CheckpointTensor, RawBlock } from "./types.ts";

/**
 * The rows of a block, f32, as the engine sees them: a linear matrix as [outputs, inputs]. F32 bytes are not copied where nothing is transposed.
 * @throws EngineError `checkpoint` for NaN and Infinity, `outOfMemory`
 */
export function decodeBlock({ tensor, entry, firstRow, bytes }: RawBlock): Float32Array<ArrayBuffer> {
  return allocating(tensor, entry.name, () => {
    const values = toFloat32(bytes, entry.dtype);
    checkFinite(values, entry, firstRow * tensor.shape[1]);
    const [rows, columns] = tensor.shape;
    return tensor.kind === "linear" ? transpose(values, columns, rows) : values;
  });
}

/** Says which tensor an allocation that failed was for; name: in the file. */
export function allocating<Result>(tensor: CheckpointTensor, name: string, work: () => Result): Result {
  try {
    return work();
  } catch (error) {
    throw namingAllocation(tensor, name, error);
  }
}

/** The error to throw instead: engines say no more than RangeError of what they cannot allocate. */
export function namingAllocation({ shape }: CheckpointTensor, name: string, cause: unknown): unknown {
  if (!(cause instanceof RangeError)) return cause;
  const needBytes = 4 * shape[0] * shape[1];
  return new EngineError("outOfMemory", `Tensor "${name}" needs ${needBytes} bytes of memory, and there are none left.`, { tensor: name, needBytes }, { cause });
}

/** values: in the order of the file from index `first` on, so that the index is the one a user finds in Python. */
function checkFinite(values: Float32Array, { name, shape }: RawBlock["entry"], first: number): void {
  for (let i = 0; i < values.length; i++) {
    if (values[i]! - values[i]! === 0) continue;
    const columns = shape.at(-1)!;
    const index = shape.length === 2 ? [Math.floor((first + i) / columns), (first + i) % columns] : [i];
    throw new EngineError("checkpoint", `Tensor "${name}" holds ${values[i]} at [${index.join(", ")}]; expected finite weights.`, { tensor: name, index });
  }
}
