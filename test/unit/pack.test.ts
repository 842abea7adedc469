import { isDeepStrictEqual } from "node:util";
import { describe, expect, test } from "vitest";
import { CODE_BITS, describeFormat, DYNAMIC_MAP_SIGNED, NF4_CODES } from "../../src/quantize/formats.ts";
import { buffersOf, type PackedWeights, type WeightLayout } from "../../src/quantize/layout.ts";
import { assembleTensor, dequantizeTensor, quantizeTensor } from "../../src/quantize/nearest.ts";
import { CHUNK_VALUES, encodingOf, packTensor, padTo, type PackedMatrix, type PackedPart } from "../../src/quantize/pack.ts";
import { packFor } from "../../src/quantize/packFor.ts";
import { unpackTensor } from "../../src/quantize/unpack.ts";
import { packRows, unpackRows } from "../../src/quantize/packRows.ts";
import type { QuantizedTensor, TensorFormat } from "../../src/types.ts";

const formats: TensorFormat[] = [
  { type: "f32" },
  { type: "f16" },
  ...(["int8", "int4"] as const).flatMap((type) =>
    (["absmax", "zeropoint"] as const).flatMap((mode) => (["tensor", "channel", { group: 32 }, { group: 64 }, { group: 128 }] as const).map((granularity) => ({ type, mode, granularity }))),
  ),
  ...(["nf4", "fp4"] as const).flatMap((type) => ([32, 64, 128, 256] as const).flatMap((block) => [{ type, block }, { type, block, doubleQuantization: true }])),
];
/** Below, at and above a tile of 8 rows, a strip of 64 rows, a chunk and a group; [130, 100] has more than 256 blocks of 32. */
const shapes: [number, number][] = [[1, 1], [7, 31], [8, 32], [9, 33], [64, 64], [65, 5], [130, 100], [2, 257]]; // prettier-ignore

/** f32 [rows · columns], of both signs and different sizes from row to row, around `mean`. */
function quantized([rows, columns]: readonly [number, number], format: TensorFormat, mean = 0): QuantizedTensor {
  const values = Float32Array.from({ length: rows * columns }, (_, i) => mean + Math.sin(i * 12.9898) * (1 + (Math.floor(i / columns) % 5)));
  return quantizeTensor(values, [rows, columns], format);
}

function halfToNumber(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = (bits & 1023) / 1024;
  return (bits >> 15 ? -1 : 1) * (exponent === 0 ? fraction * 2 ** -14 : (1 + fraction) * 2 ** (exponent - 15));
}

/** The code (f32 and f16: the value) at a row of a part and a column, by the formula of design §4 and in WebGPU's byte order. */
function codeAt({ encoding, paddedColumns }: PackedMatrix, part: PackedPart, row: number, column: number): number {
  const bytes = new DataView(part.codes.buffer);
  const chunkValues = CHUNK_VALUES[encoding.code];
  const chunk = (Math.floor(row / 8) * (paddedColumns / chunkValues) + Math.floor(column / chunkValues)) * 8 + (row & 7);
  const i = column % chunkValues;
  switch (encoding.code) {
    case "f32":
      return bytes.getFloat32(chunk * 16 + i * 4, true);
    case "f16":
      return halfToNumber(bytes.getUint16(chunk * 16 + i * 2, true));
    case "int8":
      return bytes.getInt8(chunk * 16 + i);
    default: {
      const word = bytes.getUint32(chunk * 16 + Math.floor(i / 8) * 4, true);
      const nibble = (word >>> (8 * (i & 3) + (i & 4))) & 15; // values 0…3 of a word in its bytes' low halves, 4…7 in the high ones
      return encoding.code === "int4" ? nibble - 8 : nibble;
    }
  }
}

/** Scale and zero point of a row of a part and a group along it. */
function scaleAt({ encoding, groupsPerRow }: PackedMatrix, part: PackedPart, row: number, group: number): { scale: number; zeroPoint: number } {
  const bytes = new DataView(part.scales.buffer);
  const float = (word: number): number => bytes.getFloat32(word * 4, true);
  const slot = encoding.scale === "tensor" ? 0 : (Math.floor(row / 8) * groupsPerRow + group) * 8 + (row & 7);
  const { scale: scaleBase, zero: zeroBase, nestedAbsmax } = part.bases;
  const zeroPoint = encoding.zero === "none" ? 0 : encoding.zero === "i8" ? bytes.getInt8(zeroBase * 4 + slot) : float(zeroBase + slot);
  if (encoding.scale === "none") return { scale: 1, zeroPoint };
  if (encoding.scale !== "nested") return { scale: float(scaleBase + slot), zeroPoint };
  // Words: table 16, offset 1, map 256, second-level absmax, then a byte per block.
  const block = (part.rowOffset + row) * groupsPerRow + group;
  const product = Math.fround(float(17 + bytes.getUint8(scaleBase * 4 + slot)) * float(nestedAbsmax + Math.floor(block / 256)));
  return { scale: Math.fround(product + float(16)), zeroPoint };
}

/** f32 [rows, columns], row-major, as kernels restore it. */
function unpack(packed: PackedMatrix): Float32Array {
  const { encoding, rows, columns, chunksPerGroup } = packed;
  const values = new Float32Array(rows * columns).fill(NaN);
  for (const part of packed.parts) {
    const table = new DataView(part.scales.buffer);
    for (let row = 0; row < part.rows; row++) {
      for (let column = 0; column < columns; column++) {
        const code = codeAt(packed, part, row, column);
        const { scale, zeroPoint } = scaleAt(packed, part, row, Math.floor(column / CHUNK_VALUES[encoding.code] / chunksPerGroup));
        const value = encoding.code === "lut4" ? table.getFloat32(code * 4, true) : Math.fround(code - zeroPoint);
        values[(part.rowOffset + row) * columns + column] = value * scale;
      }
    }
  }
  return values;
}

/** "[5]: 0.25, expected 0.5", or null where both are the same to the sign of zero. */
function firstDifference(found: Float32Array, expected: Float32Array): string | null {
  if (found.length !== expected.length) return `${found.length} values, expected ${expected.length}`;
  const i = found.findIndex((value, index) => !Object.is(value, expected[index]));
  return i < 0 ? null : `[${i}]: ${found[i]}, expected ${expected[i]}`;
}

/** Words that are not `background`, by index. */
const wordsBut = (background: number, words: Uint32Array): Record<number, string> =>
  Object.fromEntries([...words.entries()].filter(([, word]) => word !== background).map(([index, word]) => [index, word.toString(16).padStart(8, "0")]));

describe("packTensor", () => {
  describe.each(formats.map((format) => [describeFormat(format), format] as const))("%s", (_, format) => {
    test("holds the very values of dequantizeTensor, whole and in parts of 64 rows", () => {
      for (const shape of shapes) {
        const tensor = quantized(shape, format);
        const expected = dequantizeTensor(tensor);
        const whole = packTensor(tensor, 2 ** 27);
        expect(whole.parts).toHaveLength(1);
        expect(firstDifference(unpack(whole), expected), `whole [${shape.join(", ")}]`).toBeNull();
        const cut = packTensor(tensor, 1);
        expect(cut.parts.map(({ rowOffset }) => rowOffset)).toEqual(Array.from({ length: Math.ceil(shape[0] / 64) }, (_, i) => 64 * i));
        expect(firstDifference(unpack(cut), expected), `in parts [${shape.join(", ")}]`).toBeNull();
      }
    });
    test("pads rows to 64 and columns to 32 with code 0, and rows with scale 0 and zero point 0", () => {
      for (const shape of [[1, 1], [65, 33]] as const) {
        const packed = packTensor(quantized(shape, format), 2 ** 27);
        const part = packed.parts[0]!;
        const wrong: string[] = [];
        for (let row = 0; row < padTo(shape[0], 64); row++) {
          const padding = row >= shape[0];
          for (let column = padding ? 0 : shape[1]; column < packed.paddedColumns; column++) if (codeAt(packed, part, row, column) !== 0) wrong.push(`code [${row}, ${column}]`);
          // Nested scales are codes too, and code 0 is not an absmax of 0: those rows are computed, and never written.
          if (!padding || !["channel", "group"].includes(packed.encoding.scale)) continue;
          for (let group = 0; group < packed.groupsPerRow; group++) {
            const { scale, zeroPoint } = scaleAt(packed, part, row, group);
            if (scale !== 0 || zeroPoint !== 0) wrong.push(`scale [${row}, ${group}]`);
          }
        }
        expect(wrong).toEqual([]);
      }
    });
  });

  test("writes zero points beyond the range of int8 as f32, and those within it as i8", () => {
    for (const granularity of ["tensor", "channel", { group: 32 }] as const) {
      const format: TensorFormat = { type: "int8", mode: "zeropoint", granularity };
      for (const [mean, zero] of [[0, "i8"], [40, "f32"]] as const) {
        const tensor = quantized([66, 96], format, mean);
        const packed = packTensor(tensor, 1);
        expect(packed.encoding.zero).toBe(zero);
        expect(firstDifference(unpack(packed), dequantizeTensor(tensor))).toBeNull();
      }
    }
  });

  test("cuts between strips of 64 rows: the parts' codes in a row are the whole's", () => {
    const tensor = quantized([200, 40], { type: "int8", mode: "absmax", granularity: "channel" });
    const [whole] = packTensor(tensor, 2 ** 27).parts;
    const stripBytes = 64 * 64; // 40 columns padded to 64, a byte each
    for (const [maxPartBytes, rows] of [
      [4 * stripBytes, [200]],
      [4 * stripBytes - 1, [192, 8]],
      [2 * stripBytes, [128, 72]],
      [2 * stripBytes - 1, [64, 64, 64, 8]],
      [1, [64, 64, 64, 8]], // at least one strip
    ] as const) {
      const { parts } = packTensor(tensor, maxPartBytes);
      expect(parts.map((part) => part.rows)).toEqual(rows);
      expect(parts.flatMap(({ codes }) => [...codes])).toEqual([...whole!.codes]);
      for (const { codes } of parts) expect(codes.byteLength).toBeLessThanOrEqual(Math.max(maxPartBytes, stripBytes));
    }
  });

  test("takes as many bytes as rows and columns padded to 64 and 32, and the scales beside them", () => {
    const shape = [70, 100] as const; // padded: [128, 128]
    const slots = 128;
    const bytes = (format: TensorFormat): [codes: number, scales: number] => {
      const { codes, scales } = packTensor(quantized(shape, format), 2 ** 27).parts[0]!;
      return [codes.byteLength, scales.byteLength];
    };
    expect(bytes({ type: "f32" })).toEqual([128 * 128 * 4, 16]); // one binding's worth, never read
    expect(bytes({ type: "f16" })).toEqual([128 * 128 * 2, 16]);
    expect(bytes({ type: "int8", mode: "absmax", granularity: "tensor" })).toEqual([128 * 128, 4]);
    expect(bytes({ type: "int8", mode: "absmax", granularity: "channel" })).toEqual([128 * 128, slots * 4]);
    expect(bytes({ type: "int8", mode: "zeropoint", granularity: "channel" })).toEqual([128 * 128, slots * 5]);
    expect(bytes({ type: "int8", mode: "absmax", granularity: { group: 32 } })).toEqual([128 * 128, slots * 4 * 4]);
    expect(bytes({ type: "int4", mode: "zeropoint", granularity: { group: 64 } })).toEqual([128 * 64, slots * 2 * 5]);
    expect(bytes({ type: "nf4", block: 64 })).toEqual([128 * 64, 64 + slots * 2 * 4]);
    expect(bytes({ type: "fp4", block: 256 })).toEqual([128 * 64, 64 + slots * 4]);
    expect(bytes({ type: "nf4", block: 64, doubleQuantization: true })).toEqual([128 * 64, 4 * (16 + 1 + 256 + 1) + slots * 2]); // 140 blocks: one second-level absmax
  });

  test("puts int8 codes where the formula says: rows of a tile alternate chunk by chunk", () => {
    const tensor: QuantizedTensor = {
      format: { type: "int8", mode: "absmax", granularity: "channel" },
      shape: [9, 18],
      codes: new Int8Array(9 * 18),
      scales: Float32Array.of(0.5, 2, 0, 0, 0, 0, 0, 0, 4),
      storedBytes: 0,
    };
    tensor.codes.set([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, -18], 0);
    tensor.codes.set([-1, -2, -127, 127], 18); // row 1
    tensor.codes.set([64, 65, 66, 67], 8 * 18 + 14); // row 8, columns 14 to 17: the last two in its second chunk
    const { parts, paddedColumns, groupsPerRow, chunksPerGroup } = packTensor(tensor, 2 ** 27);
    expect({ paddedColumns, groupsPerRow, chunksPerGroup }).toEqual({ paddedColumns: 32, groupsPerRow: 1, chunksPerGroup: 2 });
    expect(parts[0]!.codes).toHaveLength(64 * 2 * 4);
    expect(wordsBut(0, parts[0]!.codes)).toEqual({
      ...{ 0: "04030201", 1: "08070605", 2: "0c0b0a09", 3: "100f0e0d" }, // row 0, chunk 0 -> chunk 0
      4: "7f81feff", // row 1, chunk 0 -> chunk 1
      32: "0000ee11", // row 0, chunk 1 -> chunk 8
      67: "41400000", // row 8, chunk 0 -> chunk 16
      96: "00004342", // row 8, chunk 1 -> chunk 24
    });
    expect([...new Float32Array(parts[0]!.scales.buffer)]).toEqual([0.5, 2, 0, 0, 0, 0, 0, 0, 4, ...new Array<number>(55).fill(0)]);
  });

  test("puts int4 codes with an excess of 8: values 0 to 3 of a word in the low halves of its bytes, 4 to 7 in the high ones", () => {
    const tensor: QuantizedTensor = {
      format: { type: "int4", mode: "zeropoint", granularity: { group: 32 } },
      shape: [9, 40],
      codes: new Int8Array(9 * 40),
      scales: Float32Array.from({ length: 18 }, (_, i) => i + 1),
      zeroPoints: Int32Array.from({ length: 18 }, (_, i) => -i - 1),
      storedBytes: 0,
    };
    tensor.codes.set([-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7], 0);
    tensor.codes.set([7, -8], 8 * 40 + 32); // row 8, second chunk
    const { parts, paddedColumns, groupsPerRow, chunksPerGroup } = packTensor(tensor, 2 ** 27);
    expect({ paddedColumns, groupsPerRow, chunksPerGroup }).toEqual({ paddedColumns: 64, groupsPerRow: 2, chunksPerGroup: 1 });
    expect(wordsBut(0x88888888, parts[0]!.codes)).toEqual({
      ...{ 0: "73625140", 1: "fbead9c8" }, // row 0, chunk 0
      96: "8888808f", // row 8, chunk 1 -> chunk 24
    });
    // Scale of row r and group g at ((r >> 3) · 2 + g) · 8 + (r & 7), zero points as bytes in the same order behind them.
    const { scales, bases } = parts[0]!;
    expect(bases).toEqual({ scale: 0, zero: 128, nestedAbsmax: 0, f16Columns: 0 });
    const even = [1, 3, 5, 7, 9, 11, 13, 15];
    const order = [...even, ...even.map((i) => i + 1), 17, 0, 0, 0, 0, 0, 0, 0, 18];
    expect([...new Float32Array(scales.buffer, 0, 25)]).toEqual(order);
    expect([...new Int8Array(scales.buffer, 128 * 4, 25)].map((zeroPoint) => -zeroPoint + 0)).toEqual(order);
  });

  test("puts table, offset, map, second-level absmax and a byte per block behind each other", () => {
    const codes = Uint8Array.from({ length: 3 * 2 }, (_, i) => 10 * (i + 1));
    const tensor: QuantizedTensor = {
      format: { type: "nf4", block: 32, doubleQuantization: true },
      shape: [3, 40],
      codes: new Uint8Array(3 * 40),
      scales: new Float32Array(6),
      doubleQuantization: { codes, absmax: Float32Array.of(0.25), offset: 0.75 },
      storedBytes: 0,
    };
    const { scales, bases } = packTensor(tensor, 2 ** 27).parts[0]!;
    expect(bases).toEqual({ scale: 274, zero: 0, nestedAbsmax: 273, f16Columns: 0 });
    const floats = new Float32Array(scales.buffer);
    expect(floats.subarray(0, 16)).toEqual(NF4_CODES);
    expect(floats[16]).toBe(0.75);
    expect(floats.subarray(17, 273)).toEqual(DYNAMIC_MAP_SIGNED);
    expect(floats[273]).toBe(0.25);
    expect([...new Uint8Array(scales.buffer, 274 * 4, 16)]).toEqual([10, 30, 50, 0, 0, 0, 0, 0, 20, 40, 60, 0, 0, 0, 0, 0]);
  });
});

describe("unpackTensor", () => {
  test.each(formats.map((format) => [describeFormat(format), format] as const))("gives back %s, whole and in parts of 64 rows", (_, format) => {
    for (const shape of shapes) {
      const tensor = quantized(shape, format);
      expect(isDeepStrictEqual(unpackTensor(packTensor(tensor, 2 ** 27)), tensor), `whole [${shape.join(", ")}]`).toBe(true);
      expect(isDeepStrictEqual(unpackTensor(packTensor(tensor, 1)), tensor), `in parts [${shape.join(", ")}]`).toBe(true);
    }
  });

  test("gives back zero points beyond int8, a map of the checkpoint's own, and what a device padded", () => {
    const wide = quantized([66, 96], { type: "int8", mode: "zeropoint", granularity: { group: 32 } }, 40);
    expect(unpackTensor(packTensor(wide, 1))).toEqual(wide);
    const nested = quantized([66, 96], { type: "nf4", block: 32, doubleQuantization: true });
    const own: QuantizedTensor = { ...nested, doubleQuantization: { ...nested.doubleQuantization!, map: DYNAMIC_MAP_SIGNED.map((value) => value * 0.5) } };
    const unpacked = unpackTensor(packTensor(own, 1));
    expect(unpacked.doubleQuantization).toEqual(own.doubleQuantization);
    expect(unpacked.scales).not.toEqual(nested.scales);
    const packed = packTensor(nested, 1);
    const padded = packed.parts.map((part) => ({ ...part, scales: Uint32Array.from([...part.scales, 7, 7, 7]) }));
    expect(unpackTensor({ ...packed, parts: padded })).toEqual(nested);
  });
});

describe("f16 columns", () => {
  const [rows, columns] = [66, 45];
  const tensor = (format: TensorFormat): QuantizedTensor => {
    const f16Columns = { columns: Uint32Array.of(0, 31, 44), weights: Uint16Array.from({ length: rows * 3 }, (_, i) => 1000 + i) };
    return assembleTensor(format, [rows, columns], { ...quantized([rows, columns], format), f16Columns });
  };

  test.each(formats.filter(({ type }) => type === "int8").map((format) => [describeFormat(format), format] as const))("of %s come back from both layouts, whole and in parts", (_, format) => {
    for (const maxPartBytes of [2 ** 27, 1]) expect(unpackTensor(packTensor(tensor(format), maxPartBytes))).toEqual(tensor(format));
    expect(unpackRows(packRows(tensor(format)))).toEqual(tensor(format));
    expect(tensor(format).storedBytes - quantized([rows, columns], format).storedBytes).toBe(3 * 4 + rows * 3 * 2);
  });

  test("lie behind the scales: a word for each column, then column by column the halves of all rows up to a multiple of 64", () => {
    const format = { type: "int8", mode: "absmax", granularity: "channel" } as const;
    const [first, second] = packTensor(tensor(format), 1).parts;
    expect(first!.bases).toEqual({ scale: 0, zero: 64, nestedAbsmax: 0, f16Columns: 64 });
    expect([...first!.scales.subarray(64, 64 + columns).entries()].filter(([, place]) => place > 0)).toEqual([[0, 1], [31, 2], [44, 3]]); // prettier-ignore
    const halves = new Uint16Array(second!.scales.buffer, 4 * (64 + columns));
    expect(halves).toHaveLength(3 * 64);
    expect([...halves.entries()].filter(([, half]) => half > 0)).toEqual([[0, 1192], [1, 1195], [64, 1193], [65, 1196], [128, 1194], [129, 1197]]); // prettier-ignore
  });
});

describe("packRows", () => {
  test.each(formats.map((format) => [describeFormat(format), format] as const))("keeps the codes of %s row by row, and unpackRows gives the tensor back", (_, format) => {
    for (const shape of shapes) {
      const tensor = quantized(shape, format);
      const packed = packRows(tensor);
      expect(packed.codes.byteLength).toBe(shape[0] * Math.ceil((shape[1] * CODE_BITS[format.type]) / 8));
      expect(isDeepStrictEqual(unpackRows(packed), tensor), `[${shape.join(", ")}]`).toBe(true);
    }
  });

  test("puts the first of two 4-bit codes into a byte's lower half, and begins each row with a byte", () => {
    const { codes } = packRows({ ...quantized([2, 3], { type: "int4", mode: "absmax", granularity: "tensor" }), codes: Int8Array.of(1, 2, 3, -1, -2, -3) });
    expect([...codes]).toEqual([0x21, 0x03, 0xef, 0x0d]);
  });

  test("keeps zero points as int8 where they fit, else as they are", () => {
    const format = { type: "int8", mode: "zeropoint", granularity: { group: 32 } } as const;
    const wide = quantized([66, 96], format, 40);
    expect(packRows(quantized([66, 96], format)).zeroPoints).toBeInstanceOf(Int8Array);
    expect(packRows(wide).zeroPoints).toEqual(wide.zeroPoints);
    expect(unpackRows(packRows(wide))).toEqual(wide);
  });
});

describe("packFor", () => {
  const nested = (): QuantizedTensor => quantized([66, 96], { type: "nf4", block: 32, doubleQuantization: true });
  const layouts: WeightLayout[] = [{ layout: "rows" }, { layout: "tiles", maxPartBytes: 1 }];

  test.each(layouts)("packs for %j what a structured clone carries, its buffers transferred", (layout) => {
    const packed = packFor(layout, nested());
    const copy = structuredClone(packed);
    const moved = structuredClone(packed, { transfer: buffersOf(packed) });
    expect(moved).toEqual(copy);
    const unpack = (weights: PackedWeights): QuantizedTensor => (weights.layout === "rows" ? unpackRows(weights) : unpackTensor(weights));
    expect(unpack(moved)).toEqual(nested());
  });

  test.each(layouts)("packs for %j nothing but JSON and typed arrays", (layout) => {
    const arrays: ArrayBufferView[] = [];
    const packed = packFor(layout, nested());
    const json = JSON.stringify(packed, (_, value: unknown) => (ArrayBuffer.isView(value) ? { array: arrays.push(value) - 1 } : value));
    const restored: unknown = JSON.parse(json, (_, value: { array?: number } | null) => (value?.array === undefined ? value : arrays[value.array]));
    expect(restored).toEqual(packed);
    expect(new Set(arrays.map(({ buffer }) => buffer))).toEqual(new Set(buffersOf(packed)));
  });
});

describe("encodingOf", () => {
  test.each([
    [{ type: "f32" }, { code: "f32", scale: "none", zero: "none" }],
    [{ type: "f16" }, { code: "f16", scale: "none", zero: "none" }],
    [{ type: "int8", mode: "absmax", granularity: "tensor" }, { code: "int8", scale: "tensor", zero: "none" }],
    [{ type: "int8", mode: "zeropoint", granularity: "channel" }, { code: "int8", scale: "channel", zero: "i8" }],
    [{ type: "int4", mode: "zeropoint", granularity: { group: 32 } }, { code: "int4", scale: "group", zero: "i8" }],
    [{ type: "nf4", block: 64 }, { code: "lut4", scale: "group", zero: "none" }],
    [{ type: "fp4", block: 64, doubleQuantization: true }, { code: "lut4", scale: "nested", zero: "none" }],
  ] as const satisfies readonly (readonly [TensorFormat, unknown])[])("%j is %j", (format, encoding) => {
    expect(encodingOf(quantized([3, 40], format))).toEqual(encoding);
  });
  test.each([[-128, "i8"], [127, "i8"], [-129, "f32"], [128, "f32"]] as const)("stores zero points of which one is %i as %s", (extreme, zero) => { // prettier-ignore
    const format: TensorFormat = { type: "int8", mode: "zeropoint", granularity: "channel" };
    expect(encodingOf({ format, zeroPoints: Int32Array.of(0, extreme, 1) }).zero).toBe(zero);
  });
});
