import { describe, expect, test } from "vitest";
import { EngineError } from "../../src/errors.ts";
import { describeFormat, DYNAMIC_MAP_SIGNED, FP4_CODES, groupLayout, NF4_CODES, storedBytes } from "../../src/quantize/formats.ts";
import { dequantizeTensor, quantizeTensor } from "../../src/quantize/nearest.ts";
import type { QuantizedTensor, TensorFormat } from "../../src/types.ts";

const integerFormats = (["int8", "int4"] as const).flatMap((type) =>
  (["absmax", "zeropoint"] as const).flatMap((mode) => (["tensor", "channel", { group: 32 }, { group: 64 }, { group: 128 }] as const).map((granularity) => ({ type, mode, granularity }))),
);
const codebookFormats = (["nf4", "fp4"] as const).flatMap((type) => ([32, 64, 128, 256] as const).map((block) => ({ type, block })));
const nestedFormats = codebookFormats.map((format) => ({ ...format, doubleQuantization: true }));
const allFormats: TensorFormat[] = [{ type: "f32" }, { type: "f16" }, ...integerFormats, ...codebookFormats, ...nestedFormats];
const shapes: [number, number][] = [[1, 1], [3, 31], [2, 33], [5, 64], [7, 100], [2, 257]]; // prettier-ignore

const int8Tensor: TensorFormat = { type: "int8", mode: "absmax", granularity: "tensor" };
const int4Tensor: TensorFormat = { type: "int4", mode: "absmax", granularity: "tensor" };
const int8ZeroPoint: TensorFormat = { type: "int8", mode: "zeropoint", granularity: "tensor" };

/** f32 [rows · columns], of both signs, of different size and centre from row to row. */
function weights([rows, columns]: readonly [number, number]): Float32Array {
  return Float32Array.from({ length: rows * columns }, (_, i) => {
    const row = Math.floor(i / columns);
    return (Math.sin(i * 12.9898) + 0.3 * Math.cos(i * 78.233) + 0.4 * row) * 10 ** -row;
  });
}

/** Index of the scale of each value. */
function groupIndices(format: TensorFormat, shape: readonly [number, number]): number[] {
  const { lineCount, lineLength, groupLength, groupsPerLine } = groupLayout(format as Parameters<typeof groupLayout>[0], shape);
  return Array.from({ length: lineCount * lineLength }, (_, i) => Math.floor(i / lineLength) * groupsPerLine + Math.floor((i % lineLength) / groupLength));
}

const row = (...values: number[]): [Float32Array, [number, number]] => [Float32Array.from(values), [1, values.length]];

describe("quantizeTensor, absmax", () => {
  test("reproduces the field's known example: scale 2.9612541", () => {
    const [values, shape] = row(0, -7.2955, -174.8314, -194.0518, 174.687, 376.0793, -29.7248, -143.4094, 260.2398, -57.8868);
    const { codes, scales } = quantizeTensor(values, shape, int8Tensor);
    expect(scales).toHaveLength(1);
    expect(scales[0]).toBeCloseTo(2.9612541, 6); // the values are printed with four decimals: 376.0793 ± 0.00005 leaves ± 4e-7
    expect([...codes]).toEqual([0, -2, -59, -66, 59, 127, -10, -48, 88, -20]);
  });

  test("rounds half to even", () => {
    const halves = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5];
    expect([...quantizeTensor(...row(127, ...halves), int8Tensor).codes]).toEqual([127, 0, 2, 2, 0, -2, -2]);
    expect([...quantizeTensor(...row(-7, ...halves), int4Tensor).codes]).toEqual([-7, 0, 2, 2, 0, -2, -2]);
  });

  test("maps the largest magnitude of each group to ±127, or ±7", () => {
    const shape = [2, 70] as const;
    const values = weights(shape);
    for (const [type, largest] of [["int8", 127], ["int4", 7]] as const) {
      const { codes, scales } = quantizeTensor(values, shape, { type, mode: "absmax", granularity: { group: 32 } });
      expect(scales).toHaveLength(6);
      for (let group = 0; group < 6; group++) {
        const start = Math.floor(group / 3) * 70 + (group % 3) * 32;
        const slice = codes.slice(start, start + (group % 3 === 2 ? 6 : 32));
        expect(Math.max(...[...slice].map(Math.abs))).toBe(largest);
      }
    }
  });

  test("turns a group without a normal f32 scale into zeros, and keeps one that has it", () => {
    const tiny = 127 * 2 ** -126;
    expect(quantizeTensor(...row(tiny, -tiny), int8Tensor)).toMatchObject({ codes: Int8Array.of(127, -127), scales: Float32Array.of(2 ** -126) });
    expect(quantizeTensor(...row(tiny * 0.99, -tiny * 0.99), int8Tensor)).toMatchObject({ codes: Int8Array.of(0, 0), scales: Float32Array.of(0) });
    expect([...dequantizeTensor(quantizeTensor(...row(0, 0, 2 ** -149), int8Tensor))]).toEqual([0, 0, 0]);
  });
});

describe("quantizeTensor, zero-point", () => {
  test("maps the smallest value to the lowest code and the largest to the highest", () => {
    const { codes, scales, zeroPoints } = quantizeTensor(...row(-1, 0, 1.9, 3), { ...int8ZeroPoint, type: "int4" });
    expect([...scales]).toEqual([Math.fround(4 / 15)]);
    expect([...zeroPoints!]).toEqual([4 - 8]); // 1 / scale = 3.75
    expect([...codes]).toEqual([-8, -4, 3, 7]); // 1.9 / scale = 7.125
  });

  test("rounds half to even", () => {
    const { codes, zeroPoints } = quantizeTensor(...row(0, 255, 0.5, 1.5, 2.5, 3.5), int8ZeroPoint);
    expect([...zeroPoints!]).toEqual([-128]);
    expect([...codes].map((code) => code + 128)).toEqual([0, 255, 0, 2, 2, 4]);
  });

  test("keeps 0 exact where the range spans it", () => {
    const tensor = quantizeTensor(...row(-0.3, 0, 0.7), int8ZeroPoint);
    expect(dequantizeTensor(tensor)[1]).toBe(0);
  });

  test.each([5.5, -0.1, 0, 3e38, -3e38, 2 ** -149, -(2 ** -130)])("restores a group of equal values exactly: %d", (value) => {
    const tensor = quantizeTensor(Float32Array.from({ length: 40 }, () => value), [1, 40], { type: "int4", mode: "zeropoint", granularity: { group: 32 } });
    expect([...tensor.scales]).toEqual(Array(2).fill(Math.fround(Math.abs(value))));
    expect([...tensor.zeroPoints!]).toEqual([0, 0]);
    expect([...dequantizeTensor(tensor)]).toEqual(Array(40).fill(Math.fround(value)));
  });

  test.each([1, -1, 1e30, -1e-30])("restores nearly equal values to within one f32 step, with a zero point that f32 holds exactly: %d", (value) => {
    const values = Float32Array.from([value, value * (1 + 2 ** -23), value * (1 + 2 ** -22), value]);
    const tensor = quantizeTensor(values, [1, 4], int8ZeroPoint);
    expect(Math.fround(tensor.zeroPoints![0]!)).toBe(tensor.zeroPoints![0]);
    expect(Math.abs(tensor.zeroPoints![0]!)).toBeGreaterThan(2 ** 22);
    dequantizeTensor(tensor).forEach((restored, i) => expect(Math.abs(restored - values[i]!)).toBeLessThanOrEqual(Math.abs(value) * 2 ** -23));
    expect(tensor.storedBytes).toBe(4 + 4 + 4);
  });

  test("gives a range below 255 normal f32 steps a scale of 2^-126", () => {
    const tensor = quantizeTensor(...row(0, 2 ** -126, 2 ** -120), int8ZeroPoint);
    expect([...tensor.scales]).toEqual([2 ** -126]);
    expect([...dequantizeTensor(tensor)]).toEqual([0, 2 ** -126, 2 ** -120]);
  });
});

describe("quantizeTensor, NF4 and FP4", () => {
  test("NF4: a block by hand", () => {
    const tensor = quantizeTensor(...row(0.5, -2, 1.2, 0, -0.1, 2, 0.9), { type: "nf4", block: 32 });
    expect([...tensor.scales]).toEqual([2]);
    expect([...tensor.codes]).toEqual([10, 0, 13, 7, 6, 15, 12]); // 0.25 → 0.2461, 0.6 → 0.5626, −0.05 → −0.0911, 0.45 → 0.4407
    expect([...dequantizeTensor(tensor)]).toEqual([10, 0, 13, 7, 6, 15, 12].map((code) => Math.fround(NF4_CODES[code]! * 2)));
  });

  test("FP4: a block by hand", () => {
    const tensor = quantizeTensor(...row(12, -8, 6.4, 3, -2, 0, 0.05, -0), { type: "fp4", block: 32 });
    expect([...tensor.codes]).toEqual([3, 10, 5, 7, 14, 0, 1, 0]);
    expect([...dequantizeTensor(tensor)].map((value) => Math.round(value * 1e5) / 1e5)).toEqual([12, -8, 6, 3, -2, 0, 0.0625, 0]);
  });

  test.each([["nf4", 7], ["fp4", 0]] as const)("%s: an all-zero or subnormal block takes the code of 0 and scale 0", (type, zero) => {
    const values = new Float32Array(64).fill(2 ** -127, 32);
    const tensor = quantizeTensor(values, [1, 64], { type, block: 32 });
    expect([...tensor.scales]).toEqual([0, 0]);
    expect(tensor.codes.every((code) => code === zero)).toBe(true);
    expect(quantizeTensor(values.map((value) => value * 2), [1, 64], { type, block: 32 }).scales[1]).toBe(2 ** -126); // control
  });

  test.each(codebookFormats)("leaves no code nearer than the chosen one: $type, block $block", (format) => {
    const codebook = format.type === "nf4" ? NF4_CODES : FP4_CODES;
    const shape = [3, 300] as const;
    const values = weights(shape);
    const { codes, scales } = quantizeTensor(values, shape, format);
    const groups = groupIndices(format, shape);
    const farther = values.findIndex((value, i) => {
      const scaled = value / scales[groups[i]!]!;
      const distances = [...codebook].map((code) => Math.abs(scaled - code));
      return !(distances[codes[i]!]! - Math.min(...distances) < 2 ** -23); // the reciprocal and the product are rounded to f32
    });
    expect(farther).toBe(-1);
  });
});

describe("quantizeTensor, double quantization", () => {
  /** bitsandbytes' nested state, value by value. */
  function nestedSlowly(absmax: Float32Array): { codes: number[]; absmax: number[]; offset: number; restored: number[] } {
    const offset = Math.fround(absmax.reduce((sum, value) => sum + value, 0) / absmax.length);
    const codes: number[] = [];
    const second: number[] = [];
    const restored: number[] = [];
    absmax.forEach((value, i) => {
      const block = Math.floor(i / 256);
      second[block] ??= Math.max(...[...absmax.subarray(block * 256, block * 256 + 256)].map((other) => Math.abs(Math.fround(other - offset))));
      const scaled = Math.fround(Math.fround(value - offset) * Math.fround(1 / second[block]));
      const distances = [...DYNAMIC_MAP_SIGNED].map((code) => Math.fround(Math.abs(scaled - code)));
      codes.push(distances.indexOf(Math.min(...distances)));
      restored.push(Math.fround(Math.fround(DYNAMIC_MAP_SIGNED[codes[i]!]! * second[block]) + offset));
    });
    return { codes, absmax: second, offset, restored };
  }

  test.each([[3, 33 * 32, 32], [5, 64 * 64, 64], [2, 300 * 32 + 5, 32]] as const)("agrees with a direct computation: %i × %i, block %i", (rows, columns, block) => {
    const values = weights([rows, columns]);
    const plain = quantizeTensor(values, [rows, columns], { type: "nf4", block });
    const nested = quantizeTensor(values, [rows, columns], { type: "nf4", block, doubleQuantization: true });
    const expected = nestedSlowly(plain.scales);
    expect(nested.codes).toEqual(plain.codes); // chosen with the exact absmax
    expect([...nested.doubleQuantization!.codes]).toEqual(expected.codes);
    expect([...nested.doubleQuantization!.absmax]).toEqual(expected.absmax);
    expect(nested.doubleQuantization!.offset).toBe(expected.offset);
    expect([...nested.scales]).toEqual(expected.restored);
  });

  test("restores absmax exactly where all blocks have the same", () => {
    const values = Float32Array.from({ length: 128 }, (_, i) => (i % 32 === 0 ? 0.75 : 0.1));
    const nested = quantizeTensor(values, [2, 64], { type: "nf4", block: 32, doubleQuantization: true });
    expect([...nested.scales]).toEqual([0.75, 0.75, 0.75, 0.75]);
    expect(nested.doubleQuantization).toEqual({ codes: Uint8Array.of(127, 127, 127, 127), absmax: Float32Array.of(0), offset: 0.75 });
  });
});

describe("quantizeTensor, f32 and f16", () => {
  test("f32 keeps every bit, in a copy", () => {
    const values = Float32Array.of(-0, 1e-45, 3.4e38, -1 / 3);
    const tensor = quantizeTensor(values, [2, 2], { type: "f32" });
    expect(tensor.codes).toEqual(values);
    expect(tensor.codes).not.toBe(values);
    expect(tensor.scales).toHaveLength(0);
  });

  test.each([
    [0, 0x0000],
    [-0, 0x8000],
    [1, 0x3c00],
    [-2, 0xc000],
    [65504, 0x7bff],
    [65519.996, 0x7bff], // below the midpoint to 65536
    [1 + 2 ** -11, 0x3c00], // halfway, to even
    [1 + 3 * 2 ** -11, 0x3c02], // halfway, to even
    [1 + 2 ** -11 + 2 ** -23, 0x3c01],
    [2047.5 / 1024, 0x4000], // carries into the exponent
    [2 ** -14, 0x0400],
    [2 ** -14 - 2 ** -25, 0x0400], // rounds up to the smallest normal
    [2 ** -24, 0x0001],
    [2 ** -25, 0x0000], // halfway, to even
    [3 * 2 ** -25, 0x0002],
    [-(2 ** -25 + 2 ** -48), 0x8001],
    [1e-45, 0x0000],
  ])("f16 rounds %d to nearest even", (value, bits) => {
    expect(quantizeTensor(Float32Array.of(value), [1, 1], { type: "f16" }).codes[0]).toBe(bits);
  });

  test("f16 round-trips each of its finite bit patterns", () => {
    const codes = Uint16Array.from({ length: 2 ** 16 }, (_, bits) => bits).filter((bits) => (bits & 0x7c00) !== 0x7c00);
    const shape = [1, codes.length] as const;
    const values = dequantizeTensor({ format: { type: "f16" }, shape, codes, scales: new Float32Array(0), storedBytes: 0 });
    expect(quantizeTensor(values, shape, { type: "f16" }).codes).toEqual(codes);
    expect([0x3555, 0x0001, 0xfbff].map((bits) => values[codes.indexOf(bits)])).toEqual([0.333251953125, 2 ** -24, -65504]);
  });

  test("f16 rejects what rounds beyond 65504, having accepted what does not", () => {
    const values = Float32Array.of(0, 1, 2, 65519, 4, 5);
    quantizeTensor(values, [2, 3], { type: "f16" }); // control case
    values[3] = -65520;
    expect(() => quantizeTensor(values, [2, 3], { type: "f16" })).toThrow("Weight at row 1, column 0 is -65520; expected at most ±65504 after rounding to f16.");
  });
});

describe("every format", () => {
  const cases = allFormats.flatMap((format) => shapes.map((shape) => ({ name: `${describeFormat(format)} ${shape.join(" × ")}`, format, shape })));

  test.each(cases)("stores one code per value and the bytes its format says: $name", ({ format, shape }) => {
    const tensor = quantizeTensor(weights(shape), shape, format);
    expect(tensor.codes).toHaveLength(shape[0] * shape[1]);
    expect(tensor.format).toEqual(format);
    expect(tensor.shape).toEqual(shape);
    expect(tensor.storedBytes).toBe(storedBytes(format, shape, tensor.zeroPoints));
  });

  test.each(cases)("restores every value to within half a step: $name", ({ format, shape }) => {
    const values = weights(shape);
    const tensor = quantizeTensor(values, shape, format);
    const restored = dequantizeTensor(tensor);
    const bound = halfSteps(tensor, values);
    const beyond = restored.findIndex((value, i) => !(Math.abs(value - values[i]!) <= bound[i]! + Math.abs(value) * 2 ** -24));
    expect(beyond, `value ${beyond}: ${restored[beyond]} for ${values[beyond]}`).toBe(-1);
  });

  test.each(cases.filter(({ format }) => !("doubleQuantization" in format)))("gives the same codes again for what it restored: $name", ({ format, shape }) => {
    const once = quantizeTensor(weights(shape), shape, format);
    const restored = dequantizeTensor(once);
    const twice = quantizeTensor(restored, shape, format);
    expect(twice.codes).toEqual(once.codes);
    const groups = once.scales.length > 0 ? groupIndices(format, shape) : null;
    const moved = dequantizeTensor(twice).findIndex((value, i) => {
      const step = groups ? once.scales[groups[i]!]! : 0;
      return Math.abs(value - restored[i]!) > step * 2 ** -10 + Math.abs(value) * 2 ** -23; // the extremes were rounded to f32 on the way
    });
    expect(moved).toBe(-1);
  });

  test.each(allFormats.map((format) => [describeFormat(format), format] as const))("rejects NaN and Infinity with their place, having accepted the same weights without: %s", (_, format) => {
    const values = weights([3, 70]);
    quantizeTensor(values, [3, 70], format); // control case
    for (const bad of [NaN, Infinity, -Infinity]) {
      values[2 * 70 + 66] = bad;
      const group = format.type === "f32" || format.type === "f16" ? undefined : groupIndices(format, [3, 70])[2 * 70 + 66];
      expect(() => quantizeTensor(values, [3, 70], format)).toThrow(expect.objectContaining({ code: "quantize", details: { row: 2, column: 66, group, value: bad } }));
    }
  });

  test.each(allFormats.filter((format) => format.type !== "f16").map((format) => [describeFormat(format), format] as const))("restores the largest f32 to something finite, or refuses it: %s", (_, format) => {
    const largest = (2 - 2 ** -23) * 2 ** 127;
    for (const values of [[largest, -largest], [largest, 0], [-largest, 1], [largest, largest / 2]]) {
      try {
        expect(dequantizeTensor(quantizeTensor(...row(...values), format)).every(Number.isFinite)).toBe(true);
      } catch (error) {
        if (!(error instanceof EngineError)) throw error;
        expect(error.message).toContain("expected a weight whose rounded form an f32 can hold");
        expect(dequantizeTensor(quantizeTensor(...row(...values.map((value) => value * 0.9)), format)).every(Number.isFinite)).toBe(true); // control case
      }
    }
  });

  /** Per value, half the distance between its neighbours among the codes of its group; the scale's own rounding included. */
  function halfSteps(tensor: QuantizedTensor, values: Float32Array): Float64Array {
    const { format, shape, scales } = tensor;
    if (format.type === "f32") return new Float64Array(values.length);
    if (format.type === "f16") return Float64Array.from(values, (value) => Math.max(Math.abs(value) * 2 ** -11, 2 ** -25));
    const groups = groupIndices(format, shape);
    if ("mode" in format) return Float64Array.from(values, (_, i) => scales[groups[i]!]! * (0.5 + 256 * 2 ** -24));
    const exact = quantizeTensor(values, shape, { type: format.type, block: format.block }).scales;
    const widest = format.type === "nf4" ? NF4_CODES[1]! - NF4_CODES[0]! : FP4_CODES[3]! - FP4_CODES[2]!;
    return Float64Array.from(values, (_, i) => exact[groups[i]!]! * (widest / 2 + 2 ** -22) + Math.abs(scales[groups[i]!]! - exact[groups[i]!]!));
  }
});

describe("quantizeTensor and dequantizeTensor, arguments", () => {
  const values = new Float32Array(6).fill(1);

  test("reject a shape that does not fit the values, having accepted one that does", () => {
    quantizeTensor(values, [2, 3], int8Tensor); // control case
    expect(() => quantizeTensor(values, [2, 4], int8Tensor)).toThrow(new RangeError("values has 6 elements; expected 8 for shape [2, 4]."));
    for (const shape of [[0, 3], [3, 0], [-2, -3], [1.5, 4], [NaN, 1]] as const) expect(() => quantizeTensor(values, shape, int8Tensor)).toThrow(RangeError);
  });

  test("reject codes, scales and zero points of the wrong length, having accepted the right ones", () => {
    const tensor = quantizeTensor(values, [2, 3], int8ZeroPoint);
    dequantizeTensor(tensor); // control case
    expect(() => dequantizeTensor({ ...tensor, codes: tensor.codes.slice(1) })).toThrow("tensor.codes has 5 elements; expected 6 for int8 [2, 3].");
    expect(() => dequantizeTensor({ ...tensor, scales: new Float32Array(2) })).toThrow("tensor.scales has 2 elements; expected 1");
    expect(() => dequantizeTensor({ ...tensor, zeroPoints: new Int32Array(2) })).toThrow("tensor.zeroPoints has 2 elements; expected 1");
  });

  test("leave the values untouched and read them from any offset of a buffer", () => {
    const whole = Float32Array.from({ length: 9 }, (_, i) => i - 4);
    const part = whole.subarray(2, 8);
    for (const format of allFormats) expect(quantizeTensor(part, [2, 3], format).codes).toEqual(quantizeTensor(part.slice(), [2, 3], format).codes);
    expect([...whole]).toEqual([-4, -3, -2, -1, 0, 1, 2, 3, 4]);
  });
});
