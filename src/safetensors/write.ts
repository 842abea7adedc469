import { type Dtype, dtypeBytes } from "./dtypes.ts";

/** A tensor to be written; its bytes follow the header, in the order of the list. */
export interface WrittenEntry {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
}

export function entryBytes({ dtype, shape }: Omit<WrittenEntry, "name">): number {
  return shape.reduce((product, length) => product * length, dtypeBytes[dtype]);
}

/** The order in which no tensor needs padding: elements of 8 bytes before those of 4, 2 and 1; by name among equals, as the format's own library has it. */
export function compareEntries(a: WrittenEntry, b: WrittenEntry): number {
  return dtypeBytes[b.dtype] - dtypeBytes[a.dtype] || (a.name < b.name ? -1 : 1);
}

/** What stands before the tensors of a safetensors file: the header's length in 8 bytes, and the header, filled with spaces to a multiple of 8. */
export function writeHeader(entries: readonly WrittenEntry[], metadata: Readonly<Record<string, string>>): Uint8Array<ArrayBuffer> {
  let end = 0;
  const fields = entries.map((entry) => {
    const begin = end;
    end += entryBytes(entry);
    return [entry.name, { dtype: entry.dtype, shape: entry.shape, data_offsets: [begin, end] }] as const;
  });
  // Joined by hand: an object would put names that are whole numbers first.
  const json = [["__metadata__", metadata] as const, ...fields].map(([name, field]) => `${JSON.stringify(name)}:${JSON.stringify(field)}`).join(",");
  const header = new TextEncoder().encode(`{${json}}`);
  const headerBytes = Math.ceil(header.length / 8) * 8;
  const bytes = new Uint8Array(8 + headerBytes).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(headerBytes), true);
  bytes.set(header, 8);
  return bytes;
}
