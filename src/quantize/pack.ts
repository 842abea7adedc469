import type { QuantizedTensor } from "../types.ts";
import { DYNAMIC_MAP_SIGNED, FP4_CODES, NF4_CODES } from "./formats.ts";

/** Rows of one tile; consecutive chunks of a tile belong to consecutive rows, so that a tile is one contiguous stream. */
export const TILE_ROWS = 8;
/** Rows are padded to it: a GEMM workgroup covers 64 outputs. */
export const ROW_PADDING = 64;
/** Columns are padded to it: one 4-bit chunk, the widest. */
export const COLUMN_PADDING = 32;

export type CodeType = "f32" | "f16" | "int8" | "int4" | "lut4";
export type ScaleType = "none" | "tensor" | "channel" | "group" | "nested";
export type ZeroType = "none" | "i8" | "f32";

/** What a kernel must know to read a packed matrix; all of it selects shader variants. */
export interface Encoding {
  code: CodeType;
  scale: ScaleType;
  zero: ZeroType;
}

/** Values per 16-byte chunk. */
export const CHUNK_VALUES: Readonly<Record<CodeType, number>> = { f32: 4, f16: 8, int8: 16, int4: 32, lut4: 32 };

/** A range of rows of a matrix, small enough for one storage binding. */
export interface PackedPart {
  /** First row of the part in the matrix; a multiple of 64. */
  rowOffset: number;
  /** Rows that hold weights; the rest up to a multiple of 64 is zero. */
  rows: number;
  /** u32 [paddedRows / 8][paddedColumns / E][8 rows][4]: chunk = (rowTile · chunksPerRow + chunkInRow) · 8 + (row & 7). */
  codes: Uint32Array<ArrayBuffer>;
  /** u32 words: table, scales, zero points; see `bases`. */
  scales: Uint32Array<ArrayBuffer>;
  /** Where each region of `scales` begins, in words. */
  bases: { scale: number; zero: number; nestedAbsmax: number };
}

/** A matrix in the one GPU layout, for every kernel alike. */
export interface PackedMatrix {
  encoding: Encoding;
  rows: number;
  columns: number;
  paddedColumns: number;
  /** Groups (blocks) per row; 1 where one scale serves a row or the tensor. */
  groupsPerRow: number;
  /** Chunks that share one group's scale; chunks per row where there is one group. */
  chunksPerGroup: number;
  parts: PackedPart[];
}

export function padTo(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}

/** How a quantized tensor will be packed, before its weights are there: formats differ only in these. */
export function encodingOf(tensor: Pick<QuantizedTensor, "format" | "zeroPoints">): Encoding {
  const { format } = tensor;
  switch (format.type) {
    case "f32":
    case "f16":
      return { code: format.type, scale: "none", zero: "none" };
    case "int8":
    case "int4": {
      const { granularity } = format;
      const scale = typeof granularity === "object" ? "group" : granularity;
      const zero = format.mode === "absmax" ? "none" : tensor.zeroPoints!.every((z) => z >= -128 && z <= 127) ? "i8" : "f32";
      return { code: format.type, scale, zero };
    }
    case "nf4":
    case "fp4":
      return { code: "lut4", scale: format.doubleQuantization ? "nested" : "group", zero: "none" };
  }
}

/**
 * Packs a quantized tensor into the layout of design §4, cut into parts of at most maxPartBytes of codes.
 * @param maxPartBytes the device's binding limit; at least one 64-row strip always goes into a part
 */
export function packTensor(tensor: QuantizedTensor, maxPartBytes: number): PackedMatrix {
  const encoding = encodingOf(tensor);
  const [rows, columns] = tensor.shape;
  const paddedColumns = padTo(columns, COLUMN_PADDING);
  const chunkValues = CHUNK_VALUES[encoding.code];
  const chunksPerRow = paddedColumns / chunkValues;
  const groupLength = groupLengthOf(tensor);
  const groupsPerRow = groupLength === null ? 1 : Math.ceil(columns / groupLength);
  const chunksPerGroup = groupLength === null ? chunksPerRow : groupLength / chunkValues;
  const stripBytes = ROW_PADDING * chunksPerRow * 16;
  const partRows = Math.max(1, Math.floor(maxPartBytes / stripBytes)) * ROW_PADDING;
  const parts: PackedPart[] = [];
  for (let rowOffset = 0; rowOffset < rows; rowOffset += partRows) {
    const part = { rowOffset, rows: Math.min(partRows, rows - rowOffset) };
    parts.push({ ...part, codes: packCodes(tensor, encoding.code, part, chunksPerRow), ...packScales(tensor, encoding, part, groupsPerRow) });
  }
  return { encoding, rows, columns, paddedColumns, groupsPerRow, chunksPerGroup, parts };
}

/** Values per group along a row, or null where one scale serves the whole row (or tensor, or none is needed). */
function groupLengthOf({ format }: QuantizedTensor): number | null {
  if (format.type === "nf4" || format.type === "fp4") return format.block;
  if ((format.type === "int8" || format.type === "int4") && typeof format.granularity === "object") return format.granularity.group;
  return null;
}

function packCodes(tensor: QuantizedTensor, code: CodeType, part: { rowOffset: number; rows: number }, chunksPerRow: number): Uint32Array<ArrayBuffer> {
  const columns = tensor.shape[1];
  const { codes } = tensor;
  const buffer = new ArrayBuffer(padTo(part.rows, ROW_PADDING) * chunksPerRow * 16);
  const chunkValues = CHUNK_VALUES[code];
  const valuesPerChunkStep = chunkValues * TILE_ROWS; // elements from one chunk of a row to its next, where an element is a value
  if (code === "int4" || code === "lut4") {
    // Byte b of word w of a chunk holds value 8w + b in its low half and value 8w + 4 + b in its high half.
    const bytes = new Uint8Array(buffer);
    const excess = code === "int4" ? 8 : 0; // two's complement -8…7 becomes 0…15
    if (excess > 0) bytes.fill(0x88);
    for (let r = 0; r < part.rows; r++) {
      const from = (part.rowOffset + r) * columns;
      const tile = ((r >> 3) * chunksPerRow * TILE_ROWS + (r & 7)) * 16;
      for (let k = 0; k < columns; k++) {
        const at = tile + (k >> 5) * 128 + ((k & 31) >> 3) * 4 + (k & 3);
        const nibble = (codes[from + k]! + excess) & 15;
        bytes[at] = (k & 4) === 0 ? (bytes[at]! & 0xf0) | nibble : (bytes[at]! & 0x0f) | (nibble << 4);
      }
    }
    return new Uint32Array(buffer);
  }
  const target = code === "f32" ? new Float32Array(buffer) : code === "f16" ? new Uint16Array(buffer) : new Int8Array(buffer);
  for (let r = 0; r < part.rows; r++) {
    const from = (part.rowOffset + r) * columns;
    const tile = ((r >> 3) * chunksPerRow * TILE_ROWS + (r & 7)) * chunkValues;
    for (let c = 0, k = 0; k < columns; c++) {
      const at = tile + c * valuesPerChunkStep;
      const end = Math.min(columns, k + chunkValues);
      for (let i = at; k < end; i++, k++) target[i] = codes[from + k]!;
    }
  }
  return new Uint32Array(buffer);
}

function packScales(tensor: QuantizedTensor, encoding: Encoding, part: { rowOffset: number; rows: number }, groupsPerRow: number): Pick<PackedPart, "scales" | "bases"> {
  const table = encoding.code === "lut4" ? (tensor.format.type === "nf4" ? NF4_CODES : FP4_CODES) : null;
  const tableWords = table ? 16 : 0;
  if (encoding.scale === "none") return { scales: new Uint32Array(4), bases: { scale: 0, zero: 0, nestedAbsmax: 0 } };

  const onePerTensor = encoding.scale === "tensor";
  const slots = onePerTensor ? 1 : padTo(part.rows, ROW_PADDING) * groupsPerRow;
  /** Tile order, as the codes: slot = (rowTile · groupsPerRow + group) · 8 + (row & 7). */
  const forEachSlot = (visit: (slot: number, index: number) => void): void => {
    if (onePerTensor) return visit(0, 0);
    for (let r = 0; r < part.rows; r++) {
      for (let g = 0; g < groupsPerRow; g++) visit(((r >> 3) * groupsPerRow + g) * TILE_ROWS + (r & 7), (part.rowOffset + r) * groupsPerRow + g);
    }
  };

  if (encoding.scale === "nested") {
    const { codes, absmax, offset } = tensor.doubleQuantization!;
    const nestedAbsmax = tableWords + 1 + 256;
    const scale = nestedAbsmax + absmax.length;
    const scales = new Uint32Array(scale + Math.ceil(slots / 4));
    const floats = new Float32Array(scales.buffer);
    floats.set(table!, 0);
    floats[tableWords] = offset;
    floats.set(DYNAMIC_MAP_SIGNED, tableWords + 1);
    floats.set(absmax, nestedAbsmax);
    const bytes = new Uint8Array(scales.buffer, scale * 4);
    forEachSlot((slot, index) => (bytes[slot] = codes[index]!));
    return { scales, bases: { scale, zero: 0, nestedAbsmax } };
  }

  const zero = tableWords + slots;
  const zeroWords = encoding.zero === "none" ? 0 : encoding.zero === "i8" ? Math.ceil(slots / 4) : slots;
  const scales = new Uint32Array(zero + zeroWords);
  const floats = new Float32Array(scales.buffer);
  if (table) floats.set(table, 0);
  forEachSlot((slot, index) => (floats[tableWords + slot] = tensor.scales[index]!));
  if (encoding.zero !== "none") {
    const zeros = encoding.zero === "i8" ? new Int8Array(scales.buffer, zero * 4) : new Float32Array(scales.buffer, zero * 4);
    forEachSlot((slot, index) => (zeros[slot] = tensor.zeroPoints![index]!));
  }
  return { scales, bases: { scale: tableWords, zero, nestedAbsmax: 0 } };
}
