import { type TypedView, typedView } from "./dtypes.ts";
import { parseSafetensorsHeader, type SafetensorsEntry } from "./header.ts";

/** One tensor of a file that is in memory. */
export interface SafetensorsTensor extends SafetensorsEntry {
  /** The tensor's bytes, a view of the file. */
  readonly bytes: Uint8Array;
  /** Its elements by dtype; a view of the file where alignment allows, else copied anew on every access. F16 and BF16 as bits. */
  readonly values: TypedView;
}

/** A whole file that is in memory. */
export interface Safetensors {
  /** `__metadata__` of the header. */
  readonly metadata: ReadonlyMap<string, string>;
  /** In the order of the file. */
  readonly tensors: ReadonlyMap<string, SafetensorsTensor>;
}

/** Parses a whole file that is in memory; tensors are views of it. Throws `checkpoint` on anything malformed. */
export function parseSafetensors(file: ArrayBuffer | Uint8Array): Safetensors {
  const bytes = file instanceof Uint8Array ? file : new Uint8Array(file);
  const { metadata, tensors, dataStartBytes } = parseSafetensorsHeader(bytes, bytes.length);
  const views = new Map<string, SafetensorsTensor>();
  for (const [name, entry] of tensors) {
    const tensorBytes = bytes.subarray(dataStartBytes + entry.begin, dataStartBytes + entry.end);
    views.set(name, {
      ...entry,
      bytes: tensorBytes,
      get values() {
        return typedView(tensorBytes, entry.dtype);
      },
    });
  }
  return { metadata, tensors: views };
}
