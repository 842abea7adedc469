import type { F16Columns, QuantizedTensor, TensorFormat } from "../types.ts";
import { DYNAMIC_MAP_SIGNED, FP4_CODES, NESTED_BLOCK, NF4_CODES } from "./formats.ts";

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

/** A table of what 4 bits stand for, f32 [16], comes before the scales. */
export const TABLE_WORDS = 16;

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
  /** u32 words: table, scales, zero points, f16 columns; see `bases`. */
  scales: Uint32Array<ArrayBuffer>;
  /**
   * Where each region of `scales` begins, in words. f16Columns, 0 where there are none: u32 [columns], 0 or one more than a column's place among those
   * with f16 weights, then f16 [their count][padded rows].
   */
  bases: { scale: number; zero: number; nestedAbsmax: number; f16Columns: number };
}

/** A matrix in the one GPU layout, for every kernel alike. */
export interface PackedMatrix {
  layout: "tiles";
  format: TensorFormat;
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

/** How a quantized tensor will be packed, before its weights are there: formats differ only in these. zeroPoints absent: assumed to fit int8. */
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
      const zero = format.mode === "absmax" ? "none" : !tensor.zeroPoints || tensor.zeroPoints.every((z) => z >= -128 && z <= 127) ? "i8" : "f32";
      return { code: format.type, scale, zero };
    }
    case "nf4":
    case "fp4":
      return { code: "lut4", scale: format.doubleQuantization ? "nested" : "group", zero: "none" };
  }
}

/** Sizes of a packed matrix and its parts. */
export interface PackedLayout extends Omit<PackedMatrix, "layout" | "format" | "parts"> {
  parts: (Pick<PackedPart, "rowOffset" | "rows" | "bases"> & { codeBytes: number; scaleBytes: number })[];
}

/**
 * The layout of design §4 for a tensor, cut into parts of at most maxPartBytes of codes.
 * @param maxPartBytes the device's binding limit; at least one 64-row strip always goes into a part
 */
export function packedLayout(tensor: Pick<QuantizedTensor, "format" | "shape" | "zeroPoints" | "f16Columns">, maxPartBytes: number): PackedLayout {
  const encoding = encodingOf(tensor);
  const [rows, columns] = tensor.shape;
  const paddedColumns = padTo(columns, COLUMN_PADDING);
  const chunkValues = CHUNK_VALUES[encoding.code];
  const chunksPerRow = paddedColumns / chunkValues;
  const groupLength = groupLengthOf(tensor);
  const groupsPerRow = groupLength === null ? 1 : Math.ceil(columns / groupLength);
  const chunksPerGroup = groupLength === null ? chunksPerRow : groupLength / chunkValues;
  const rowBytes = chunksPerRow * 16;
  const partRows = Math.max(1, Math.floor(maxPartBytes / (ROW_PADDING * rowBytes))) * ROW_PADDING;
  const parts: PackedLayout["parts"] = [];
  for (let rowOffset = 0; rowOffset < rows; rowOffset += partRows) {
    const partRowCount = Math.min(partRows, rows - rowOffset);
    const paddedRows = padTo(partRowCount, ROW_PADDING);
    const { scaleBytes, bases } = scaleLayout(encoding, paddedRows * groupsPerRow, rows * groupsPerRow);
    const f16Bytes = tensor.f16Columns ? 4 * columns + 2 * tensor.f16Columns.columns.length * paddedRows : 0;
    parts.push({ rowOffset, rows: partRowCount, codeBytes: paddedRows * rowBytes, scaleBytes: scaleBytes + f16Bytes, bases: { ...bases, f16Columns: f16Bytes && scaleBytes / 4 } });
  }
  return { encoding, rows, columns, paddedColumns, groupsPerRow, chunksPerGroup, parts };
}

/** @param slots scales of a part, padding included @param count scales of the tensor */
function scaleLayout({ code, scale, zero }: Encoding, slots: number, count: number): { scaleBytes: number; bases: Omit<PackedPart["bases"], "f16Columns"> } {
  const tableWords = code === "lut4" ? TABLE_WORDS : 0;
  const layout = (words: number, bases: Partial<PackedPart["bases"]>): ReturnType<typeof scaleLayout> => ({ scaleBytes: 4 * words, bases: { scale: 0, zero: 0, nestedAbsmax: 0, ...bases } });
  if (scale === "none") return layout(4, {});
  if (scale === "nested") {
    const nestedAbsmax = tableWords + 1 + DYNAMIC_MAP_SIGNED.length;
    const codes = nestedAbsmax + Math.ceil(count / NESTED_BLOCK);
    return layout(codes + Math.ceil(slots / 4), { scale: codes, nestedAbsmax });
  }
  const scaleSlots = scale === "tensor" ? 1 : slots;
  const zeroBase = tableWords + scaleSlots;
  const zeroWords = zero === "none" ? 0 : zero === "i8" ? Math.ceil(scaleSlots / 4) : scaleSlots;
  return layout(zeroBase + zeroWords, { scale: tableWords, zero: zeroBase });
}

/** Packs a quantized tensor; maxPartBytes: as packedLayout's. */
export function packTensor(tensor: QuantizedTensor, maxPartBytes: number): PackedMatrix {
  const layout = packedLayout(tensor, maxPartBytes);
  const { encoding, paddedColumns, groupsPerRow } = layout;
  const parts = layout.parts.map((part) => {
    const { rowOffset, rows, bases } = part;
    const scales = packScales(tensor, encoding, part, groupsPerRow);
    if (tensor.f16Columns) packF16Columns(tensor.f16Columns, tensor.shape[1], part, scales);
    return { rowOffset, rows, codes: packCodes(tensor, encoding.code, part, paddedColumns / CHUNK_VALUES[encoding.code]), scales, bases };
  });
  return { layout: "tiles", ...layout, format: tensor.format, parts };
}

/** Values per group along a row, or null where one scale serves the whole row (or tensor, or none is needed). */
function groupLengthOf({ format }: Pick<QuantizedTensor, "format">): number | null {
  if (format.type === "nf4" || format.type === "fp4") return format.block;
  if ((format.type === "int8" || format.type === "int4") && typeof format.granularity === "object") return format.granularity.group;
  return null;
}

/** What a tensor keeps its codes in. */
export const codeArrays = { f32: Float32Array, f16: Uint16Array, int8: Int8Array, int4: Int8Array, lut4: Uint8Array } as const;

/** Byte of a row's value k: byte b of word w of a chunk holds value 8w + b in its low half and value 8w + 4 + b in its high half. */
export function nibbleByte(k: number): number {
  return (k >> 5) * 128 + ((k & 31) >> 3) * 4 + (k & 3);
}

function packCodes(tensor: QuantizedTensor, code: CodeType, part: PackedLayout["parts"][number], chunksPerRow: number): Uint32Array<ArrayBuffer> {
  const columns = tensor.shape[1];
  const { codes } = tensor;
  const buffer = new ArrayBuffer(part.codeBytes);
  const chunkValues = CHUNK_VALUES[code];
  const valuesPerChunkStep = chunkValues * TILE_ROWS; // elements from one chunk of a row to its next, where an element is a value
  if (code === "int4" || code === "lut4") {
    const bytes = new Uint8Array(buffer);
    const excess = code === "int4" ? 8 : 0; // two's complement -8…7 becomes 0…15
    if (excess > 0) bytes.fill(0x88);
    for (let r = 0; r < part.rows; r++) {
      const from = (part.rowOffset + r) * columns;
      const tile = ((r >> 3) * chunksPerRow * TILE_ROWS + (r & 7)) * 16;
      for (let k = 0; k < columns; k++) {
        const at = tile + nibbleByte(k);
        const nibble = (codes[from + k]! + excess) & 15;
        bytes[at] = (k & 4) === 0 ? (bytes[at]! & 0xf0) | nibble : (bytes[at]! & 0x0f) | (nibble << 4);
      }
    }
    return new Uint32Array(buffer);
  }
  const target = new codeArrays[code](buffer);
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

function packScales(tensor: QuantizedTensor, encoding: Encoding, part: PackedLayout["parts"][number], groupsPerRow: number): Uint32Array<ArrayBuffer> {
  const { scaleBytes, bases } = part;
  const words = new Uint32Array(scaleBytes / 4);
  if (encoding.scale === "none") return words;
  const floats = new Float32Array(words.buffer);
  const visitSlots = (visit: (slot: number, index: number) => void): void => forEachSlot(encoding, part, groupsPerRow, visit);
  if (encoding.code === "lut4") floats.set(tensor.format.type === "nf4" ? NF4_CODES : FP4_CODES);
  if (encoding.scale === "nested") {
    const { codes, absmax, offset, map = DYNAMIC_MAP_SIGNED } = tensor.doubleQuantization!;
    floats[TABLE_WORDS] = offset;
    floats.set(map, TABLE_WORDS + 1);
    floats.set(absmax, bases.nestedAbsmax);
    const bytes = new Uint8Array(words.buffer, bases.scale * 4);
    visitSlots((slot, index) => (bytes[slot] = codes[index]!));
    return words;
  }
  visitSlots((slot, index) => (floats[bases.scale + slot] = tensor.scales[index]!));
  if (encoding.zero !== "none") {
    const zeros = encoding.zero === "i8" ? new Int8Array(words.buffer, bases.zero * 4) : new Float32Array(words.buffer, bases.zero * 4);
    visitSlots((slot, index) => (zeros[slot] = tensor.zeroPoints![index]!));
  }
  return words;
}

/** words: `scales` of the part. */
function packF16Columns({ columns: kept, weights }: F16Columns, columns: number, part: PackedLayout["parts"][number], words: Uint32Array<ArrayBuffer>): void {
  const halves = halvesOf(part, columns, words);
  kept.forEach((k, i) => {
    words[part.bases.f16Columns + k] = i + 1;
    for (let r = 0; r < part.rows; r++) halves[halfIndex(part, r, i)] = weights[(part.rowOffset + r) * kept.length + i]!;
  });
}

export function halvesOf({ bases }: Pick<PackedPart, "bases">, columns: number, { buffer }: Uint32Array<ArrayBuffer>): Uint16Array<ArrayBuffer> {
  return new Uint16Array(buffer, 4 * (bases.f16Columns + columns));
}

/** Of row r of a part in the i-th column: neighbouring threads read neighbouring rows. */
export function halfIndex({ rows }: Pick<PackedPart, "rows">, r: number, i: number): number {
  return i * padTo(rows, ROW_PADDING) + r;
}

/** Calls visit with the place of each scale in a part, in tile order as the codes: (rowTile · groupsPerRow + group) · 8 + (row & 7), and its index in the tensor. */
export function forEachSlot({ scale }: Encoding, { rowOffset, rows }: Pick<PackedPart, "rowOffset" | "rows">, groupsPerRow: number, visit: (slot: number, index: number) => void): void {
  if (scale === "tensor") return visit(0, 0);
  for (let r = 0; r < rows; r++) {
    for (let g = 0; g < groupsPerRow; g++) visit(((r >> 3) * groupsPerRow + g) * TILE_ROWS + (r & 7), (rowOffset + r) * groupsPerRow + g);
  }
}
