import { describe, expect, test } from "vitest";
import { findNearest, findNearest16, nearestCode } from "../../src/quantize/codebook.ts";
import { describeFormat, DYNAMIC_MAP_SIGNED, FP4_CODES, groupLayout, NF4_CODES, scaleCount, storedBytes, validateTensorFormat } from "../../src/quantize/formats.ts";
import type { TensorFormat } from "../../src/types.ts";

const int8 = (granularity: "tensor" | "channel" | { group: 32 | 64 | 128 }): TensorFormat => ({ type: "int8", mode: "absmax", granularity });
const int4z: TensorFormat = { type: "int4", mode: "zeropoint", granularity: { group: 32 } };

/** Φ(x) = 1/2 + φ(x) · Σ x^(2k + 1) / (1 · 3 · 5 … (2k + 1)), f64. */
function normalCdf(x: number): number {
  let term = x;
  let sum = x;
  for (let k = 1; k < 60; k++) {
    term *= (x * x) / (2 * k + 1);
    sum += term;
  }
  return 0.5 + (sum * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);
}

/** Inverse of Φ by bisection, |x| ≤ 4. */
function normalQuantile(p: number): number {
  let low = -4;
  let high = 4;
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (normalCdf(middle) < p) low = middle;
    else high = middle;
  }
  return low;
}

describe("NF4_CODES", () => {
  test("are the normal quantiles of the QLoRA paper, 8 positive and 7 negative, normalized", () => {
    const offset = 0.9677083;
    const steps = (count: number): number[] => Array.from({ length: count }, (_, i) => normalQuantile(offset + ((0.5 - offset) * i) / count));
    const values = [...steps(7).map((x) => -x), 0, ...steps(8).reverse()];
    const largest = Math.max(...values);
    expect(NF4_CODES).toHaveLength(16);
    values.forEach((value, i) => expect(Math.abs(NF4_CODES[i]! - value / largest)).toBeLessThan(1e-6));
  });
});

describe("FP4_CODES", () => {
  test("hold each magnitude with both signs, the sign in bit 3", () => {
    const magnitudes = [0, 0.0625 / 12, 8 / 12, 1, 4 / 12, 6 / 12, 2 / 12, 3 / 12].map(Math.fround);
    expect([...FP4_CODES.subarray(0, 8)]).toEqual(magnitudes);
    expect([...FP4_CODES.subarray(8)]).toEqual(magnitudes.map((value) => -value));
  });
});

describe("DYNAMIC_MAP_SIGNED", () => {
  test("holds 256 ascending values: 127 of each sign, 0 and 1", () => {
    expect(DYNAMIC_MAP_SIGNED).toHaveLength(256);
    for (let i = 1; i < 256; i++) expect(DYNAMIC_MAP_SIGNED[i]!).toBeGreaterThan(DYNAMIC_MAP_SIGNED[i - 1]!);
    expect(DYNAMIC_MAP_SIGNED.filter((value) => value < 0)).toHaveLength(127);
    expect([DYNAMIC_MAP_SIGNED[127], DYNAMIC_MAP_SIGNED[255]]).toEqual([0, 1]);
  });

  test("has one value in the lowest decade and 64 in the highest, in the middles of equal parts of [0.1, 1]", () => {
    const at = (i: number): number => DYNAMIC_MAP_SIGNED[i]!;
    expect(at(128)).toBe(Math.fround(0.55e-6));
    expect([at(129), at(130)]).toEqual([0.325e-5, 0.775e-5].map(Math.fround));
    expect(at(254)).toBe(Math.fround(1 - 0.45 / 64));
    expect(at(191)).toBe(Math.fround(0.1 + 0.45 / 64));
    expect(at(0)).toBe(-at(254));
  });
});

describe("nearestCode", () => {
  const codebooks: [string, Float32Array][] = [
    ["NF4", NF4_CODES],
    ["FP4", FP4_CODES],
    ["the dynamic map", DYNAMIC_MAP_SIGNED],
  ];

  /** bitsandbytes' argmin |x − code| in f32; the first index wins a tie. */
  function argmin(codes: Float32Array, x: number): number {
    let best = 0;
    for (let i = 1; i < codes.length; i++) if (Math.fround(Math.abs(x - codes[i]!)) < Math.fround(Math.abs(x - codes[best]!))) best = i;
    return best;
  }

  test.each(codebooks)("finds what argmin over all codes finds, around every threshold and in between: %s", (_, codes) => {
    const prepared = nearestCode(codes);
    const xs = [0, -0, 1, -1, 0.999, -0.999, 1.5, -1.5];
    for (const threshold of prepared.thresholds.filter(Number.isFinite)) {
      const float = Float32Array.of(threshold);
      const bits = new Int32Array(float.buffer);
      for (let step = -4; step <= 4; step++) {
        bits[0] = new Int32Array(Float32Array.of(threshold).buffer)[0]! + step;
        xs.push(float[0]!);
      }
    }
    for (let i = 0; i < 2000; i++) xs.push(Math.fround(Math.sin(i)));
    for (const x of xs) {
      expect(findNearest(prepared, x), `${x}`).toBe(argmin(codes, x));
      if (codes.length === 16) expect(findNearest16(prepared, x), `${x}`).toBe(argmin(codes, x));
    }
  });

  test("never chooses FP4's negative zero", () => {
    expect([0, -0, -1e-9, 1e-9].map((x) => findNearest16(nearestCode(FP4_CODES), x))).toEqual([0, 0, 0, 0]);
  });
});

describe("groupLayout", () => {
  test.each<[string, TensorFormat, [number, number], number]>([
    ["one scale per tensor", int8("tensor"), [5, 70], 1],
    ["one per row", int8("channel"), [5, 70], 5],
    ["whole groups and a shorter last one per row", int8({ group: 32 }), [5, 70], 15],
    ["whole groups only", int8({ group: 32 }), [5, 64], 10],
    ["a row shorter than a block", { type: "nf4", block: 64 }, [5, 3], 5],
    ["none", { type: "f16" }, [5, 70], 0],
  ])("counts scales: %s", (_, format, shape, count) => {
    expect(scaleCount(format, shape)).toBe(count);
  });

  test("takes a per-tensor format as one line", () => {
    expect(groupLayout({ type: "int8", mode: "absmax", granularity: "tensor" }, [5, 70])).toEqual({ lineCount: 1, lineLength: 350, groupLength: 350, groupsPerLine: 1 });
  });
});

describe("storedBytes", () => {
  test.each<[TensorFormat, [number, number], number]>([
    [{ type: "f32" }, [3, 5], 60],
    [{ type: "f16" }, [3, 5], 30],
    [int8("tensor"), [3, 5], 15 + 4],
    [int8("channel"), [3, 5], 15 + 3 * 4],
    [int8({ group: 32 }), [3, 33], 99 + 6 * 4],
    [{ type: "int8", mode: "zeropoint", granularity: "channel" }, [3, 5], 15 + 3 * (4 + 1)],
    [int4z, [3, 33], 50 + 6 * (4 + 1)], // 99 nibbles: the odd one takes a byte
    [{ type: "nf4", block: 64 }, [3, 65], 98 + 6 * 4],
    [{ type: "nf4", block: 32, doubleQuantization: true }, [1, 256 * 32], 4096 + 256 + 4 + 4],
    [{ type: "fp4", block: 32, doubleQuantization: true }, [1, 256 * 32 + 1], 4097 + 257 + 8 + 4],
  ])("of %j %j is %i", (format, shape, bytes) => {
    expect(storedBytes(format, shape)).toBe(bytes);
  });

  test("gives zero points four bytes each once one of them does not fit a byte", () => {
    const bytes = (...zeroPoints: number[]): number => storedBytes(int4z, [1, 64], Int32Array.from(zeroPoints));
    expect(bytes(-128, 127)).toBe(32 + 2 * (4 + 1));
    expect(bytes(-128, 128)).toBe(32 + 2 * (4 + 4));
  });
});

describe("describeFormat", () => {
  test.each<[TensorFormat, string]>([
    [{ type: "f32" }, "f32"],
    [int8("channel"), "int8 absmax, per channel"],
    [{ type: "int8", mode: "zeropoint", granularity: "tensor" }, "int8 zero-point, per tensor"],
    [int4z, "int4 zero-point, group 32"],
    [{ type: "fp4", block: 128 }, "FP4, block 128"],
    [{ type: "nf4", block: 64, doubleQuantization: true }, "NF4, block 64, double quantization"],
  ])("%j", (format, text) => {
    expect(describeFormat(format)).toBe(text);
  });
});

describe("validateTensorFormat", () => {
  test.each([{ type: "f32" }, int8("tensor"), int8({ group: 128 }), int4z, { type: "nf4", block: 256 }, { type: "fp4", block: 32, doubleQuantization: false }])("accepts %j", (format) => {
    expect(() => validateTensorFormat(format, "format")).not.toThrow();
  });

  test.each<[unknown, typeof TypeError | typeof RangeError, string]>([
    [null, TypeError, "format is null"],
    ["int8", TypeError, 'format is "int8"'],
    [{}, TypeError, "format.type is undefined"],
    [{ type: "int5" }, TypeError, 'format.type is "int5"; expected "f32"'],
    [{ type: "f16", mode: "absmax" }, TypeError, 'format has the unknown field "mode"'],
    [{ type: "int8", mode: "absMax", granularity: "channel" }, TypeError, 'format.mode is "absMax"'],
    [{ type: "int8", mode: "absmax" }, TypeError, "format.granularity is undefined"],
    [{ type: "int8", mode: "absmax", granularity: "row" }, TypeError, 'format.granularity is "row"; expected "tensor", "channel" or { group }'],
    [{ type: "int4", mode: "absmax", granularity: { group: 48 } }, RangeError, "format.granularity.group is 48; expected 32, 64, 128"],
    [{ type: "int4", mode: "absmax", granularity: { group: "32" } }, TypeError, 'format.granularity.group is "32"'],
    [{ type: "nf4" }, TypeError, "format.block is undefined"],
    [{ type: "nf4", block: 16 }, RangeError, "format.block is 16; expected 32, 64, 128, 256"],
    [{ type: "nf4", block: 64, doubleQuantization: 1 }, TypeError, "format.doubleQuantization is 1"],
    [{ type: "nf4", group: 64 }, TypeError, 'format has the unknown field "group"'],
  ])("rejects %j by name", (format, error, message) => {
    const validate = (): void => validateTensorFormat(format, "format");
    expect(validate).toThrow(error);
    expect(validate).toThrow(message);
  });
});
