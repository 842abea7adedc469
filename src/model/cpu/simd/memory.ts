import { EngineError } from "../../../errors.ts";

const PAGE_BYTES = 65536;
/** Behind each array: the loops read, and some write, whole vectors. */
const SLACK_BYTES = 256;

/** What addresses reach. */
export const MEMORY_LIMIT_BYTES = 2 ** 32 - PAGE_BYTES;

/** What arrays of these lengths take. */
function takenBytes(arrayBytes: readonly number[]): number {
  return arrayBytes.reduce((sum, bytes) => sum + Math.ceil((bytes + SLACK_BYTES) / 16) * 16, 0);
}

/** How large a memory is that holds these arrays and no others. */
export function memoryBytes(arrayBytes: readonly number[]): number {
  return Math.ceil((SLACK_BYTES + takenBytes(arrayBytes)) / PAGE_BYTES) * PAGE_BYTES;
}

type Copied = Float32Array | Uint16Array | Uint8Array | Int8Array;

/** A WebAssembly memory that hands out arrays one behind the other. It grows and never shrinks; it goes when nothing refers to it. */
export class Memory {
  readonly wasm = new WebAssembly.Memory({ initial: 1 });
  private end = SLACK_BYTES; // address 0 stands for "none"

  /** Makes room for arrays; false where the memory cannot grow that far, or not within the limit. */
  reserve(arrayBytes: readonly number[], limitBytes: number): boolean {
    const bytes = takenBytes(arrayBytes);
    const missing = this.end + bytes - this.wasm.buffer.byteLength;
    if (this.end + bytes > limitBytes) return false;
    try {
      if (missing > 0) this.wasm.grow(Math.ceil(missing / PAGE_BYTES));
      return true;
    } catch {
      return false;
    }
  }

  /** As reserve, up to the 4 GiB that addresses reach. @throws EngineError `outOfMemory` */
  require(arrayBytes: readonly number[]): void {
    if (this.reserve(arrayBytes, MEMORY_LIMIT_BYTES)) return;
    const bytes = takenBytes(arrayBytes);
    throw new EngineError("outOfMemory", `A WebAssembly memory of ${this.wasm.buffer.byteLength} bytes could not grow by ${bytes}; a smaller contextLength or fewer bits per weight would fit.`, { bytes });
  }

  /** Address, a multiple of 16, of so many zero bytes. @throws EngineError `outOfMemory` */
  allocate(bytes: number): number {
    const address = this.end;
    this.require([bytes]);
    this.end += takenBytes([bytes]);
    return address;
  }

  /** Address of an array's element. @throws TypeError for an array that lies elsewhere, or did before the memory grew */
  addressOf(array: Copied | Int16Array, index = 0): number {
    if (array.buffer !== this.wasm.buffer) throw new TypeError("The array is not in this WebAssembly memory; expected one from allocate(), made after the memory last grew.");
    return array.byteOffset + index * array.BYTES_PER_ELEMENT;
  }

  /** Address of a copy. */
  copy(values: Copied): number {
    const address = this.allocate(values.byteLength);
    new Uint8Array(this.wasm.buffer, address).set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    return address;
  }

  /** What copy() put at an address. */
  bytesAt(address: number, length: number): ArrayBuffer {
    return this.wasm.buffer.slice(address, address + length);
  }
}
