import type { F16Columns, QuantizedTensor } from "../types.ts";
import { DYNAMIC_MAP_SIGNED, NESTED_BLOCK, scaleCount } from "./formats.ts";
import { assembleTensor } from "./nearest.ts";
import { CHUNK_VALUES, codeArrays, type CodeType, forEachSlot, halfIndex, halvesOf, nibbleByte, type PackedMatrix, type PackedPart, TABLE_WORDS, TILE_ROWS } from "./pack.ts";

/** The tensor that packTensor was given; its parts may have come back from a device, with bytes behind their ends. */
export function unpackTensor(packed: PackedMatrix): QuantizedTensor {
  const { format, encoding, rows, columns, paddedColumns, groupsPerRow, parts } = packed;
  const codes = new codeArrays[encoding.code](rows * columns);
  const scales = new Float32Array(encoding.scale === "nested" ? 0 : scaleCount(format, [rows, columns]));
  const zeroPoints = encoding.zero === "none" ? undefined : new Int32Array(scales.length);
  const nestedCodes = new Uint8Array(encoding.scale === "nested" ? rows * groupsPerRow : 0);
  for (const part of parts) {
    unpackCodes(part, encoding.code, paddedColumns / CHUNK_VALUES[encoding.code], columns, codes);
    if (encoding.scale === "none") continue;
    const { bases } = part;
    const floats = new Float32Array(part.scales.buffer);
    const bytes = new Int8Array(part.scales.buffer);
    forEachSlot(encoding, part, groupsPerRow, (slot, index) => {
      if (encoding.scale === "nested") nestedCodes[index] = bytes[4 * bases.scale + slot]!;
      else scales[index] = floats[bases.scale + slot]!;
      if (zeroPoints) zeroPoints[index] = encoding.zero === "i8" ? bytes[4 * bases.zero + slot]! : floats[bases.zero + slot]!;
    });
  }
  if (encoding.scale !== "nested") return assembleTensor(format, [rows, columns], { codes, scales, zeroPoints, f16Columns: unpackF16Columns(packed) });
  const { scales: words, bases } = parts[0]!; // table 16, offset 1, map 256, second-level absmax: the same in every part
  const floats = new Float32Array(words.buffer);
  const absmax = floats.slice(bases.nestedAbsmax, bases.nestedAbsmax + Math.ceil(nestedCodes.length / NESTED_BLOCK));
  const map = floats.slice(TABLE_WORDS + 1, TABLE_WORDS + 1 + DYNAMIC_MAP_SIGNED.length);
  const ownMap = map.some((value, i) => value !== DYNAMIC_MAP_SIGNED[i]) ? { map } : {};
  return assembleTensor(format, [rows, columns], { codes, doubleQuantization: { codes: nestedCodes, absmax, offset: floats[TABLE_WORDS]!, ...ownMap } });
}

function unpackCodes({ rowOffset, rows, codes: words }: PackedPart, code: CodeType, chunksPerRow: number, columns: number, codes: QuantizedTensor["codes"]): void {
  const isNibble = code === "int4" || code === "lut4";
  const source = isNibble ? new Uint8Array(words.buffer) : new codeArrays[code](words.buffer);
  const chunkValues = CHUNK_VALUES[code];
  const excess = code === "int4" ? 8 : 0;
  for (let r = 0; r < rows; r++) {
    const to = (rowOffset + r) * columns;
    const tile = (r >> 3) * chunksPerRow * TILE_ROWS + (r & 7);
    if (isNibble) {
      for (let k = 0; k < columns; k++) codes[to + k] = ((source[tile * 16 + nibbleByte(k)]! >> (k & 4)) & 15) - excess;
      continue;
    }
    for (let k = 0; k < columns; k += chunkValues) {
      const at = (tile + (k / chunkValues) * TILE_ROWS) * chunkValues;
      codes.set(source.subarray(at, at + Math.min(chunkValues, columns - k)), to + k);
    }
  }
}

function unpackF16Columns({ rows, columns, parts }: Pick<PackedMatrix, "rows" | "columns" | "parts">): F16Columns | undefined {
  const { scales: words, bases } = parts[0]!;
  if (bases.f16Columns === 0) return undefined;
  const kept = Uint32Array.from({ length: columns }, (_, k) => k).filter((k) => words[bases.f16Columns + k] !== 0);
  const weights = new Uint16Array(rows * kept.length);
  for (const part of parts) {
    const halves = halvesOf(part, columns, part.scales);
    for (let r = 0; r < part.rows; r++) for (let i = 0; i < kept.length; i++) weights[(part.rowOffset + r) * kept.length + i] = halves[halfIndex(part, r, i)]!;
  }
  return { columns: kept, weights };
}
