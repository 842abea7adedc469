import { describe, expect, test } from "vitest";
import { EngineError } from "../../src/errors.ts";
import { type Dtype, parseSafetensors, parseSafetensorsHeader, readHeaderLength, toFloat32, typedView } from "../../src/safetensors/index.ts";
import { compareEntries, writeHeader } from "../../src/safetensors/write.ts";
import { encodeFloats, writeSafetensors } from "../fixtures/safetensorsWriter.ts";

/** A file by hand: the header's length, the header, and so many bytes of data. */
function fileOf(header: string, dataBytes: number, headerBytes?: number): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder().encode(header);
  const file = new Uint8Array(8 + text.length + dataBytes);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerBytes ?? text.length), true);
  file.set(text, 8);
  return file;
}

function errorOf(run: () => unknown): EngineError {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(EngineError);
    return error as EngineError;
  }
  throw new Error("Nothing was thrown.");
}

const f32 = (shape: string, begin: number, end: number): string => `{"dtype":"F32","shape":${shape},"data_offsets":[${begin},${end}]}`;

/** The file that every malformed one below differs from in one thing. */
const control = fileOf(`{"a":${f32("[2]", 0, 8)},"b":${f32("[1]", 8, 12)}}`, 12);

const malformed: readonly [rule: string, file: Uint8Array, message: string][] = [
  ["shorter than the header length", Uint8Array.of(2, 0, 0), "The file has 3 bytes; expected at least the 8 of the header length."],
  ["header length beyond 100 MB", fileOf("{}", 0, 100_000_001), "The header length is 100000001 bytes; expected at most 100000000."],
  ["header length with its high word set", fileOf("{}", 0, 2 ** 40), "The header length is 1099511627776 bytes; expected at most 100000000."],
  ["header length of 0", fileOf("", 0), 'The header length is 0 bytes; expected at least the 2 of "{}".'],
  ["header length beyond the file", fileOf("{}", 0, 50), "The header needs 50 bytes after the first 8, and the file has 10 bytes in all: truncated."],
  ["an HTML page", new TextEncoder().encode("<!DOCTYPE html><html></html>"), 'Found HTML, starting with "<!DOCTYP"; expected safetensors.'],
  ["a Git LFS pointer", new TextEncoder().encode("version https://git-lfs.github.com/spec/v1"), 'Found text, starting with "version "; expected safetensors.'],
  ["header that starts with a space", fileOf(" {}", 0), 'The header starts with " {}"; expected "{".'],
  ["header that is an array", fileOf("[]", 0), 'The header starts with "[]"; expected "{".'],
  ["header that is not JSON", fileOf("{'a'}", 0), "The header is not valid JSON: "],
  ["header that is not UTF-8", fileOf('{"a":1}', 0).fill(0xff, 10, 11), "The header is not valid UTF-8."],
  ["metadata that is no object", fileOf('{"__metadata__":[]}', 0), "__metadata__ is []; expected an object of strings."],
  ["metadata with a number", fileOf('{"__metadata__":{"step":7}}', 0), '__metadata__["step"] is 7; expected a string.'],
  ["tensor described by null", fileOf('{"a":null}', 0), 'Tensor "a" is described by null; expected { dtype, shape, data_offsets }.'],
  ["unknown dtype", fileOf('{"a":{"dtype":"F31","shape":[],"data_offsets":[0,4]}}', 4), 'Tensor "a" has dtype "F31"; expected one of F64,'],
  ["dtype named like a method of every object", fileOf('{"a":{"dtype":"toString","shape":[],"data_offsets":[0,4]}}', 4), 'Tensor "a" has dtype "toString"; expected one of'],
  ["no shape", fileOf('{"a":{"dtype":"F32","data_offsets":[0,4]}}', 4), 'Tensor "a" has shape missing; expected an array of non-negative integers.'],
  ["negative length", fileOf(`{"a":${f32("[-2]", 0, 8)}}`, 8), 'Tensor "a" has shape [-2]; expected an array of non-negative integers.'],
  ["fractional length", fileOf(`{"a":${f32("[1.5]", 0, 6)}}`, 6), 'Tensor "a" has shape [1.5]; expected an array of non-negative integers.'],
  ["shape whose product overflows", fileOf(`{"a":${f32("[9007199254740991,9007199254740991]", 0, 4)}}`, 4), 'Tensor "a" has shape [9007199254740991, 9007199254740991], more than 2^53 bytes.'],
  ["one offset", fileOf('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4]}}', 4), 'Tensor "a" has data_offsets [4]; expected two non-negative integers.'],
  ["begin behind end", fileOf(`{"a":${f32("[2]", 8, 0)}}`, 8), 'Tensor "a" begins at byte 8 and ends at byte 0; expected begin ≤ end.'],
  ["size that is not shape × dtype", fileOf(`{"a":${f32("[3]", 0, 8)}}`, 8), 'Tensor "a" has 8 bytes; expected 12 for F32 [3].'],
  ["overlap", fileOf(`{"a":${f32("[2]", 0, 8)},"b":${f32("[1]", 4, 8)}}`, 8), 'Tensor "b" begins at byte 4 and overlaps "a", which ends at 8.'],
  ["hole", fileOf(`{"a":${f32("[2]", 0, 8)},"b":${f32("[1]", 12, 16)}}`, 16), 'Tensor "b" begins at byte 12, 4 bytes after "a"; expected no hole.'],
  ["hole before the first tensor", fileOf(`{"a":${f32("[2]", 1, 9)}}`, 9), 'Tensor "a" begins at byte 1, 1 bytes after the header; expected no hole.'],
  ["bytes behind the last tensor", fileOf(`{"a":${f32("[2]", 0, 8)}}`, 11), "3 bytes follow the last tensor; expected the data to end at byte 8."],
  ["truncated data", fileOf(`{"a":${f32("[2]", 0, 8)}}`, 5), "The tensors need 8 bytes of data, and the file holds 5: truncated."],
  ["two tensors of one name", fileOf(`{"a":${f32("[1]", 0, 4)},"a":${f32("[1]", 0, 4)}}`, 4), 'The header names "a" twice.'],
  ["two tensors of one name, one escaped", fileOf(`{"a":${f32("[1]", 0, 4)},"\\u0061":${f32("[1]", 0, 4)}}`, 4), 'The header names "a" twice.'],
  ["two shapes of one tensor", fileOf('{"a":{"dtype":"F32","shape":[9],"shape":[1],"data_offsets":[0,4]}}', 4), 'The key "shape" occurs twice in one object of the header.'],
];

describe("parseSafetensors", () => {
  test("accepts the control file", () => {
    expect([...parseSafetensors(control).tensors.keys()]).toEqual(["a", "b"]);
  });

  test.each(malformed)("rejects: %s", (_rule, file, message) => {
    parseSafetensors(control);
    expect(file.length).toBeLessThanOrEqual(200);
    const error = errorOf(() => parseSafetensors(file));
    expect(error.code).toBe("checkpoint");
    expect(error.message.slice(0, message.length)).toBe(message);
  });

  test("gives every rule a message of its own", () => {
    const messages = malformed.map(([, , message]) => message.replace(/\d+/g, "#").replace(/"[^"]*"/g, "~"));
    expect(new Set(messages).size).toBeGreaterThanOrEqual(24); // a few rules have two cases
  });

  test("views tensors of every dtype without a copy where aligned", () => {
    const bytes = Uint8Array.from({ length: 16 }, (_, i) => i);
    const file = writeSafetensors({
      f64: { dtype: "F64", shape: [2], data: new Uint8Array(Float64Array.of(1.5, -2).buffer) },
      i64: { dtype: "I64", shape: [1], data: new Uint8Array(BigInt64Array.of(-5n).buffer) },
      u64: { dtype: "U64", shape: [1], data: new Uint8Array(BigUint64Array.of(5n).buffer) },
      f32: { dtype: "F32", shape: [1, 2], data: Float32Array.of(3, 4) },
      i32: { dtype: "I32", shape: [1], data: new Uint8Array(Int32Array.of(-7).buffer) },
      u32: { dtype: "U32", shape: [1], data: new Uint8Array(Uint32Array.of(7).buffer) },
      i16: { dtype: "I16", shape: [1], data: new Uint8Array(Int16Array.of(-9).buffer) },
      u16: { dtype: "U16", shape: [1], data: new Uint8Array(Uint16Array.of(9).buffer) },
      f16: { dtype: "F16", shape: [1], data: Float32Array.of(1) },
      bf16: { dtype: "BF16", shape: [1], data: Float32Array.of(1) },
      i8: { dtype: "I8", shape: [1], data: Uint8Array.of(255) },
      bool: { dtype: "BOOL", shape: [1], data: Uint8Array.of(1) },
      u8: { dtype: "U8", shape: [16], data: bytes },
      none: { dtype: "F32", shape: [0, 3], data: new Uint8Array(0) },
    });
    const { tensors } = parseSafetensors(file);
    const values = Object.fromEntries([...tensors].map(([name, tensor]) => [name, [...(tensor.values as Iterable<number | bigint>)]]));
    expect(values).toEqual({
      f64: [1.5, -2], i64: [-5n], u64: [5n], f32: [3, 4], i32: [-7], u32: [7], i16: [-9], u16: [9],
      f16: [0x3c00], bf16: [0x3f80], i8: [-1], bool: [1], u8: [...bytes], none: [],
    });
    for (const name of ["f64", "f32", "i16", "u8"]) expect(tensors.get(name)!.values.buffer, name).toBe(file.buffer);
  });

  test("copies a tensor that is not aligned for its dtype", () => {
    const file = writeSafetensors({ odd: { dtype: "U8", shape: [1], data: Uint8Array.of(1) }, f32: { dtype: "F32", shape: [1], data: Float32Array.of(0.5) } });
    const { values } = parseSafetensors(file).tensors.get("f32")!;
    expect([...(values as Float32Array)]).toEqual([0.5]);
    expect(values.buffer).not.toBe(file.buffer);
  });

  test("parses a file that lies inside a larger buffer", () => {
    const shifted = new Uint8Array(control.length + 3);
    shifted.set(control, 3);
    expect(parseSafetensors(shifted.subarray(3)).tensors.size).toBe(2);
  });

  test("takes __proto__, constructor and quotes as names like any other", () => {
    const names = ["__proto__", "constructor", 'say "a":', "\\", "0"];
    const header = names.map((name, i) => `${JSON.stringify(name)}:${f32("[1]", 4 * i, 4 * i + 4)}`).join(",");
    const { tensors, metadata } = parseSafetensors(fileOf(`{"__metadata__":{"__proto__":"x"},${header}}`, 20));
    expect([...tensors.keys()]).toEqual(names);
    expect(metadata.get("__proto__")).toBe("x");
  });

  test("takes an empty file and a header padded with spaces", () => {
    expect(parseSafetensors(fileOf("{}      ", 0)).tensors.size).toBe(0);
  });

  test("rejects nesting and names of any size with a short message", () => {
    const deep = errorOf(() => parseSafetensors(fileOf(`{"a":{"dtype":"F32","shape":${"[".repeat(5000)}${"]".repeat(5000)},"data_offsets":[0,4]}}`, 4)));
    expect(deep.message).toBe('Tensor "a" has shape [[…]]; expected an array of non-negative integers.');
    const long = errorOf(() => parseSafetensors(fileOf(`{"${"x".repeat(50_000)}":1}`, 0)));
    expect(long.message.length).toBeLessThan(250);
  });
});

describe("parseSafetensorsHeader", () => {
  test("needs only the header, and gives the tensors in the order of their bytes", () => {
    const file = fileOf(`{"late":${f32("[1]", 8, 12)},"empty":${f32("[0]", 8, 8)},"early":${f32("[2]", 0, 8)}}`, 0);
    const header = parseSafetensorsHeader(file);
    expect([...header.tensors.keys()]).toEqual(["early", "empty", "late"]);
    expect(header).toMatchObject({ dataStartBytes: file.length, dataBytes: 12 });
    expect(readHeaderLength(file.subarray(0, 8))).toBe(file.length - 8);
  });

  test("rejects a header of which a part is missing", () => {
    parseSafetensorsHeader(control.subarray(0, control.length - 12)); // control case
    const error = errorOf(() => parseSafetensorsHeader(control.subarray(0, 20)));
    expect(error.message).toBe(`The header needs ${control.length - 20} bytes after the first 8, and 12 came.`);
  });
});

describe("toFloat32", () => {
  test("restores every one of the 65,536 halves as the definition has it", () => {
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const values = toFloat32(new Uint8Array(bits.buffer), "F16");
    for (const b of bits) {
      const exponent = (b >> 10) & 31;
      const significand = exponent === 0 ? (b & 1023) / 1024 : 1 + (b & 1023) / 1024;
      const expected = exponent === 31 ? (b & 1023 ? NaN : Infinity) : significand * 2 ** (Math.max(exponent, 1) - 15);
      if (!Object.is(values[b], b & 0x8000 ? -expected : expected)) expect.fail(`half ${b.toString(16)} is ${values[b]}`);
    }
  });

  test("restores BF16 exactly: subnormals, signed zero, Infinity, NaN", () => {
    const bits = Uint16Array.of(0x3f80, 0xc049, 0x0001, 0x8000, 0x7f80, 0xff80, 0x7fc0);
    expect([...toFloat32(new Uint8Array(bits.buffer), "BF16")]).toEqual([1, -3.140625, 2 ** -133, -0, Infinity, -Infinity, NaN]);
  });

  test("rounds F64 and keeps F32 in place", () => {
    expect([...toFloat32(new Uint8Array(Float64Array.of(0.1, 1e300).buffer), "F64")]).toEqual([Math.fround(0.1), Infinity]);
    const values = Float32Array.of(1, 2);
    expect(toFloat32(new Uint8Array(values.buffer), "F32").buffer).toBe(values.buffer);
  });

  test("reads bytes at any offset", () => {
    const halves = encodeFloats(Float32Array.of(1, -0.5), "F16");
    const shifted = Uint8Array.of(0, ...halves).subarray(1);
    expect([...toFloat32(shifted, "F16")]).toEqual([1, -0.5]);
  });

  test("rejects integers and F8", () => {
    toFloat32(new Uint8Array(4), "F32"); // control case
    expect(errorOf(() => toFloat32(new Uint8Array(4), "I32")).message).toBe("Cannot convert I32 to f32; expected F64, F32, F16 or BF16.");
    expect(errorOf(() => toFloat32(new Uint8Array(4), "F8_E4M3")).code).toBe("checkpoint");
  });

  test("rejects a length that is no multiple of the element's", () => {
    typedView(new Uint8Array(8), "F32"); // control case
    expect(() => typedView(new Uint8Array(7), "F32")).toThrow(new RangeError("bytes has length 7; expected a multiple of 4 for F32."));
  });
});

describe("writeHeader", () => {
  test("places tensors one behind the other in the order given, after a header filled to a multiple of 8", () => {
    const entries = [{ name: "b", dtype: "F32", shape: [3] }, { name: "1", dtype: "U8", shape: [] }] as const;
    const bytes = writeHeader(entries, { format: "pt" });
    const json = '{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"1":{"dtype":"U8","shape":[],"data_offsets":[12,13]}}';
    expect(new TextDecoder().decode(bytes.subarray(8))).toBe(json.padEnd(Math.ceil(json.length / 8) * 8));
    expect(new DataView(bytes.buffer).getBigUint64(0, true)).toBe(BigInt(bytes.length - 8));
    expect([...parseSafetensorsHeader(bytes).tensors.keys()]).toEqual(["b", "1"]);
  });
});

describe("compareEntries", () => {
  test("puts larger elements first, and equal ones by name", () => {
    const entries = (["b F16", "a U8", "c I64", "a F16", "d F32"] as const).map((text) => ({ name: text[0]!, dtype: text.slice(2) as Dtype, shape: [1] }));
    expect(entries.sort(compareEntries).map(({ name, dtype }) => `${name} ${dtype}`)).toEqual(["c I64", "d F32", "a F16", "b F16", "a U8"]);
  });
});
