import { isDeepStrictEqual } from "node:util";
import { describe, expect, test } from "vitest";
import type { CheckpointTensor, StoredEntry } from "../../src/checkpoint/types.ts";
import { exportSafetensors, loadModel, type Model, type QuantizedTensor, type TensorFormat } from "../../src/index.ts";
import type { LoadedModel } from "../../src/load/model.ts";
import { describeFormat, DYNAMIC_MAP_SIGNED, FP4_CODES, isSameFormat, NF4_CODES } from "../../src/quantize/formats.ts";
import { dequantizeTensor, quantizeTensor } from "../../src/quantize/nearest.ts";
import { restoreStored, storedFormat, storeTensor } from "../../src/quantize/stored.ts";
import { parseSafetensors } from "../../src/safetensors/index.ts";
import { gaussian, seededCheckpoint } from "../fixtures/seededCheckpoint.ts";
import { writeSafetensors, type WrittenTensor } from "../fixtures/safetensorsWriter.ts";
import { referenceLogits } from "../reference/gpt2.ts";
import { maxAbsError } from "../reference/metrics.ts";
import { referenceCheckpoint, tensorKind } from "../reference/weights.ts";
import { tolerances } from "../tolerances.ts";

const linear = (shape: readonly [number, number]): CheckpointTensor => ({ name: "w.weight", kind: "linear", shape });
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
const bytesOf = (values: ArrayBufferView): Uint8Array<ArrayBuffer> => new Uint8Array(values.buffer as ArrayBuffer, values.byteOffset, values.byteLength);

describe("storeTensor", () => {
  test("packs a block of NF4 as bitsandbytes does: the even value's code in the upper half of the byte, absmax, map and JSON beside", () => {
    const halves = [...NF4_CODES].map((code) => 2 * code);
    const between = [-1.8, -1.3, -1.1, -0.7, -0.5, -0.3, -0.1, -0.01, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.3, 1.9]; // the nearest codes are worked out below
    const values = Float32Array.from([...halves, ...halves.toReversed(), ...between, ...new Array<number>(16).fill(0)]);
    const entries = storeTensor(linear([1, 64]), quantizeTensor(values, [1, 64], { type: "nf4", block: 64 }));
    expect([...entries.keys()].sort()).toEqual(["", ".absmax", ".quant_map", ".quant_state.bitsandbytes__nf4"]);
    expect(entries.get("")).toMatchObject({ dtype: "U8", shape: [32, 1] });
    // −0.9 is nearest to −1 (0), −0.65 to −0.696 (1), … 0.05 and 0.1 to 0.080 (8), 0.2 to 0.161 (9), 0.3 to 0.338 (b), 0.4 and 0.5 to 0.441 (c), 0.65 to 0.723 (e).
    expect(hex(entries.get("")!.bytes)).toBe("0123456789abcdef" + "fedcba9876543210" + "01234567889bccef" + "7777777777777777");
    expect(entries.get(".absmax")).toEqual({ dtype: "F32", shape: [1], bytes: bytesOf(Float32Array.of(2)) });
    expect(entries.get(".quant_map")).toEqual({ dtype: "F32", shape: [16], bytes: bytesOf(NF4_CODES) });
    const state = entries.get(".quant_state.bitsandbytes__nf4")!;
    expect(text(state.bytes)).toBe('{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [1, 64]}');
    expect(state).toMatchObject({ dtype: "U8", shape: [state.bytes.length] });
  });

  test("packs a block of FP4 with its own map and type", () => {
    const codes = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 0]; // 8 is −0, for which 0 is chosen
    const values = Float32Array.from({ length: 32 }, (_, i) => 3 * FP4_CODES[codes[i % 16]!]!);
    const entries = storeTensor(linear([1, 32]), quantizeTensor(values, [1, 32], { type: "fp4", block: 32 }));
    expect(hex(entries.get("")!.bytes)).toBe("012345679abcdef0".repeat(2));
    expect(entries.get(".absmax")!.bytes).toEqual(bytesOf(Float32Array.of(3)));
    expect(entries.get(".quant_map")!.bytes).toEqual(bytesOf(FP4_CODES));
    expect(text(entries.get(".quant_state.bitsandbytes__fp4")!.bytes)).toBe('{"quant_type": "fp4", "blocksize": 32, "dtype": "float32", "shape": [1, 32]}');
  });

  test("adds bitsandbytes' nested state where scales are quantized too", () => {
    const values = Float32Array.from({ length: 128 }, (_, i) => (i % 2 ? 0.75 : -0.75)); // four blocks of one absmax: the offset is all of it
    const entries = storeTensor(linear([2, 64]), quantizeTensor(values, [2, 64], { type: "nf4", block: 32, doubleQuantization: true }));
    expect(entries.get(".absmax")).toEqual({ dtype: "U8", shape: [4], bytes: Uint8Array.of(127, 127, 127, 127) }); // the map's 0
    expect(entries.get(".nested_absmax")).toEqual({ dtype: "F32", shape: [1], bytes: bytesOf(Float32Array.of(0)) });
    expect(entries.get(".nested_quant_map")).toEqual({ dtype: "F32", shape: [256], bytes: bytesOf(DYNAMIC_MAP_SIGNED) });
    expect(text(entries.get(".quant_state.bitsandbytes__nf4")!.bytes)).toBe('{"quant_type": "nf4", "blocksize": 32, "dtype": "float32", "shape": [2, 64], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.75}');
  });

  test("writes int8 as codes [outputs, inputs], scales and zero points, which are I32 where they do not fit a byte", () => {
    const values = Float32Array.of(-1, 0, 1, 127, -3, 3.5);
    const shapesOf = (format: TensorFormat, mean = 0): Record<string, string> =>
      Object.fromEntries([...storeTensor(linear([2, 3]), quantizeTensor(values.map((value) => value + mean), [2, 3], format))].map(([suffix, { dtype, shape }]) => [suffix, `${dtype} [${shape.join(", ")}]`]));
    expect(shapesOf({ type: "int8", mode: "absmax", granularity: "tensor" })).toEqual({ "": "I8 [2, 3]", _scale: "F32 [1]" });
    expect(shapesOf({ type: "int8", mode: "absmax", granularity: "channel" })).toEqual({ "": "I8 [2, 3]", _scale: "F32 [2, 1]" });
    expect(shapesOf({ type: "int8", mode: "zeropoint", granularity: { group: 32 } })).toEqual({ "": "I8 [2, 3]", _scale: "F32 [2, 1]", _zero_point: "I8 [2, 1]" });
    expect(shapesOf({ type: "int8", mode: "zeropoint", granularity: "channel" }, 5000)).toEqual({ "": "I8 [2, 3]", _scale: "F32 [2, 1]", _zero_point: "I32 [2, 1]" });
    const absmax = storeTensor(linear([2, 3]), quantizeTensor(values, [2, 3], { type: "int8", mode: "absmax", granularity: "channel" }));
    expect([...new Int8Array(absmax.get("")!.bytes.buffer)]).toEqual([-127, 0, 127, 127, -3, 4]); // 3.5 to even
  });

  test("turns linear matrices of floats to Conv1D's [inputs, outputs], and leaves embeddings as they are", () => {
    const quantized = quantizeTensor(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3], { type: "f32" });
    expect(storeTensor(linear([2, 3]), quantized).get("")).toEqual({ dtype: "F32", shape: [3, 2], bytes: bytesOf(Float32Array.of(1, 4, 2, 5, 3, 6)) });
    expect(storeTensor({ name: "wte.weight", kind: "embedding" }, quantized).get("")).toEqual({ dtype: "F32", shape: [2, 3], bytes: bytesOf(Float32Array.of(1, 2, 3, 4, 5, 6)) });
    const half = storeTensor(linear([2, 3]), quantizeTensor(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3], { type: "f16" })).get("")!;
    expect([half.dtype, [...new Uint16Array(half.bytes.buffer)]]).toEqual(["F16", [0x3c00, 0x4400, 0x4000, 0x4500, 0x4200, 0x4600]]);
  });
});

const formats: TensorFormat[] = [
  ...(["absmax", "zeropoint"] as const).flatMap((mode) => (["tensor", "channel", { group: 32 }, { group: 64 }, { group: 128 }] as const).map((granularity) => ({ type: "int8" as const, mode, granularity }))),
  ...(["nf4", "fp4"] as const).flatMap((type) => ([32, 64, 128, 256] as const).flatMap((block) => [{ type, block }, { type, block, doubleQuantization: true }])),
];

describe("restoreStored", () => {
  test.each(formats.map((format) => [describeFormat(format), format] as const))("gives back %s, bit for bit, and storedFormat its format from the header", (_, format) => {
    for (const shape of "block" in format ? ([[1, 256], [5, 512]] as const) : ([[1, 1], [3, 33], [5, 100], [2, 257]] as const)) {
      for (const mean of [0, 40]) {
        const tensor = quantizeTensor(gaussian(shape[0] * shape[1], 1, mean, 3), shape, format);
        const entries = storeTensor(linear(shape), tensor);
        const { stored, values } = restoreStored(linear(shape), entries);
        expect(isSameFormat(stored!.format, format, shape)).toBe(true);
        expect(isDeepStrictEqual({ ...stored!, format }, tensor)).toBe(true);
        expect(isDeepStrictEqual(values, dequantizeTensor(tensor))).toBe(true);
        expect(storedFormat(shape, entries)).toEqual(stored!.format);
      }
    }
  });

  /** Entries of one matrix, of which a test breaks one. */
  type Entries = Record<string, StoredEntry>;
  const stored = (format: TensorFormat, shape: readonly [number, number]): Entries => Object.fromEntries(storeTensor(linear(shape), quantizeTensor(gaussian(shape[0] * shape[1], 1, 0, 9), shape, format)));
  const nf4 = (): Entries => stored({ type: "nf4", block: 32 }, [3, 64]);
  const nested = (): Entries => stored({ type: "nf4", block: 32, doubleQuantization: true }, [3, 64]);
  const absmax = (): Entries => stored({ type: "int8", mode: "absmax", granularity: { group: 32 } }, [3, 64]);
  const zeroPoint = (): Entries => stored({ type: "int8", mode: "zeropoint", granularity: "channel" }, [3, 64]);
  const state = ".quant_state.bitsandbytes__nf4";
  const json = (value: unknown): StoredEntry => {
    const bytes = new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));
    return { dtype: "U8", shape: [bytes.length], bytes };
  };
  const good = { quant_type: "nf4", blocksize: 32, dtype: "float16", shape: [3, 64] };
  const goodNested = { ...good, nested_blocksize: 256, nested_dtype: "float32", nested_offset: 0.5 };
  const floats = (...values: number[]): StoredEntry => ({ dtype: "F32", shape: [values.length], bytes: bytesOf(Float32Array.from(values)) });
  const withValue = (entry: StoredEntry, index: number, value: number): StoredEntry => {
    const values = new Float32Array(entry.bytes.slice().buffer);
    values[index] = value;
    return { ...entry, bytes: bytesOf(values) };
  };

  test.each<[rule: string, make: () => Entries, change: (entries: Entries) => void, message: string, code?: string]>([
    ["no quant_state", nf4, (e) => delete e[state], `Tensor "w.weight" lacks "w.weight${state}"; expected it beside "w.weight", "w.weight.quant_map", "w.weight.absmax".`],
    ["no absmax", nf4, (e) => delete e[".absmax"], `Tensor "w.weight" lacks "w.weight.absmax"; expected it beside "w.weight", "w.weight.quant_map", "w.weight${state}".`],
    ["no quant_map", nf4, (e) => delete e[".quant_map"], `Tensor "w.weight" lacks "w.weight.quant_map"; expected it beside "w.weight", "w.weight.absmax", "w.weight${state}".`],
    ["an absmax too few", nf4, (e) => (e[".absmax"] = floats(1, 1, 1, 1, 1)), 'Tensor "w.weight.absmax" is F32 [5]; expected F32 [6].'],
    ["absmax in halves", nf4, (e) => (e[".absmax"] = { dtype: "F16", shape: [6], bytes: new Uint8Array(12) }), 'Tensor "w.weight.absmax" is F16 [6]; expected F32 [6].'],
    ["a negative absmax", nf4, (e) => (e[".absmax"] = floats(1, 1, -2, 1, 1, 1)), 'Tensor "w.weight.absmax" holds -2 at [2]; expected a finite number, not below 0.'],
    ["an absmax that is no number", nf4, (e) => (e[".absmax"] = floats(1, 1, 1, 1, 1, NaN)), 'Tensor "w.weight.absmax" holds NaN at [5]; expected a finite number, not below 0.'],
    ["a quant_map of another length", nf4, (e) => (e[".quant_map"] = floats(0, 1)), 'Tensor "w.weight.quant_map" is F32 [2]; expected F32 [16].'],
    ["a quant_map of another type", nf4, (e) => (e[".quant_map"] = withValue(e[".quant_map"]!, 3, -0.5)), 'Tensor "w.weight.quant_map" holds -0.5 at [3]; expected -0.39491748809814453, as NF4 has it.', "unsupported"],
    ["an unknown type", nf4, (e) => ((e[".quant_state.bitsandbytes__nf8"] = e[state]!), delete e[state]), 'Tensor "w.weight.quant_state.bitsandbytes__nf8" names an unknown type; expected nf4 or fp4.'],
    ["two types", nf4, (e) => (e[".quant_state.bitsandbytes__fp4"] = e[state]!), `Tensor "w.weight.quant_state.bitsandbytes__fp4" is beside "w.weight${state}"; expected one of them.`],
    ["another type in the JSON", nf4, (e) => (e[state] = json({ ...good, quant_type: "fp4" })), `Tensor "w.weight${state}" has quant_type "fp4"; expected "nf4".`],
    ["text that is no JSON", nf4, (e) => (e[state] = json("{quant_type: nf4}")), `Tensor "w.weight${state}" holds "{quant_type: nf4}"; expected an object in JSON.`],
    ["JSON that is no object", nf4, (e) => (e[state] = json("[64]")), `Tensor "w.weight${state}" holds "[64]"; expected an object in JSON.`],
    ["JSON in another dtype", nf4, (e) => (e[state] = { ...json(good), dtype: "I8" }), `Tensor "w.weight${state}" is I8 [${json(good).bytes.length}]; expected U8 [bytes of JSON].`],
    ["no blocksize", nf4, (e) => (e[state] = json({ ...good, blocksize: undefined })), `Tensor "w.weight${state}" has blocksize undefined; expected 32, 64, 128, 256.`],
    ["a blocksize of text", nf4, (e) => (e[state] = json({ ...good, blocksize: "32" })), `Tensor "w.weight${state}" has blocksize "32"; expected 32, 64, 128, 256.`],
    ["a blocksize that is not offered", nf4, (e) => (e[state] = json({ ...good, blocksize: 4096 })), `Tensor "w.weight${state}" has blocksize 4096; expected 32, 64, 128, 256.`, "unsupported"],
    ["blocks that run on from row to row", nf4, (e) => (e[state] = json({ ...good, blocksize: 128 })), `Tensor "w.weight${state}" has blocksize 128 for rows of 64, so that blocks run on from row to row; expected rows that are a multiple of it.`, "unsupported"],
    ["a shape the wrong way round", nf4, (e) => (e[state] = json({ ...good, shape: [64, 3] })), `Tensor "w.weight${state}" has shape [64, 3]; expected [3, 64], outputs first.`],
    ["a shape that is none", nf4, (e) => (e[state] = json({ ...good, shape: [3, 64, 1e300] })), `Tensor "w.weight${state}" has shape [3, 64, 1e+300]; expected [3, 64], outputs first.`],
    ["a shape nested deeper than JSON.stringify() goes", nf4, (e) => (e[state] = json(JSON.stringify(good).replace("[3,64]", "[".repeat(20_000) + "]".repeat(20_000)))), `Tensor "w.weight${state}" has shape [[…]]; expected [3, 64], outputs first.`],
    ["a blocksize of a million characters", nf4, (e) => (e[state] = json({ ...good, blocksize: "3".repeat(1e6) })), `Tensor "w.weight${state}" has blocksize "${"3".repeat(80)}…"; expected 32, 64, 128, 256.`],
    ["codes too few", nf4, (e) => (e[""] = { dtype: "U8", shape: [95, 1], bytes: new Uint8Array(95) }), 'Tensor "w.weight" is U8 [95, 1]; expected U8 [96, 1] or [1, 96] or [96].'],
    ["codes stored as floats", nf4, (e) => (e[""] = { dtype: "BF16", shape: [48, 1], bytes: new Uint8Array(96) }), 'Tensor "w.weight" has dtype BF16 and "w.weight.quant_map" beside it; expected I8, or U8 with two 4-bit codes in a byte.'],
    ["no nested absmax", nested, (e) => delete e[".nested_absmax"], `Tensor "w.weight" lacks "w.weight.nested_absmax"; expected it beside "w.weight", "w.weight.quant_map", "w.weight.absmax", "w.weight.nested_quant_map", "w.weight${state}".`],
    ["no nested map", nested, (e) => delete e[".nested_quant_map"], `Tensor "w.weight" lacks "w.weight.nested_quant_map"; expected it beside "w.weight", "w.weight.quant_map", "w.weight.absmax", "w.weight.nested_absmax", "w.weight${state}".`],
    ["a nested map of another length", nested, (e) => (e[".nested_quant_map"] = floats(0, 1)), 'Tensor "w.weight.nested_quant_map" is F32 [2]; expected F32 [256].'],
    ["a nested map that holds Infinity", nested, (e) => (e[".nested_quant_map"] = withValue(e[".nested_quant_map"]!, 7, Infinity)), 'Tensor "w.weight.nested_quant_map" holds Infinity at [7]; expected a finite number.'],
    ["nested absmax too many", nested, (e) => (e[".nested_absmax"] = floats(1, 1)), 'Tensor "w.weight.nested_absmax" is F32 [2]; expected F32 [1].'],
    ["absmax that should be codes", nested, (e) => (e[".absmax"] = floats(1, 1, 1, 1, 1, 1)), 'Tensor "w.weight.absmax" is F32 [6]; expected U8 [6].'],
    ["another nested block", nested, (e) => (e[state] = json({ ...goodNested, nested_blocksize: 64 })), `Tensor "w.weight${state}" has nested_blocksize 64; expected 256.`],
    ["no nested block", nested, (e) => (e[state] = json(good)), `Tensor "w.weight${state}" has nested_blocksize undefined; expected 256.`],
    ["an offset of text", nested, (e) => (e[state] = json({ ...goodNested, nested_offset: "0.5" })), `Tensor "w.weight${state}" has nested_offset "0.5"; expected a finite number.`],
    ["an offset beyond f32", nested, (e) => (e[state] = json({ ...goodNested, nested_offset: 1e300 })), `Tensor "w.weight${state}" has nested_offset 1e+300; expected a finite number.`],
    ["scales that overflow", nested, (e) => ((e[state] = json({ ...goodNested, nested_offset: 3e38 })), (e[".nested_absmax"] = floats(3e38))), 'Tensor "w.weight.absmax" holds Infinity at [5]; expected finite scales after double quantization.'],
    ["no scale", absmax, (e) => delete e._scale, 'Tensor "w.weight" lacks "w.weight_scale"; expected it beside "w.weight".'],
    ["a scale of another shape", absmax, (e) => (e._scale = { ...e._scale!, shape: [2, 3] }), 'Tensor "w.weight_scale" has shape [2, 3]; expected [1], [3, 1], or [3, groups] for groups of 32, 64, 128 in 64 columns.'],
    ["a scale of groups that are not offered", absmax, (e) => (e._scale = { dtype: "F32", shape: [3, 4], bytes: new Uint8Array(48) }), 'Tensor "w.weight_scale" has shape [3, 4]; expected [1], [3, 1], or [3, groups] for groups of 32, 64, 128 in 64 columns.'],
    ["a scale in halves", absmax, (e) => (e._scale = { dtype: "F16", shape: [3, 2], bytes: new Uint8Array(12) }), 'Tensor "w.weight_scale" is F16 [3, 2]; expected F32 [3, 2].'],
    ["a scale that is no number", absmax, (e) => (e._scale = withValue(e._scale!, 2, NaN)), 'Tensor "w.weight_scale" holds NaN at [2]; expected a finite number, not below 0.'],
    ["an infinite nested absmax", nested, (e) => (e[".nested_absmax"] = floats(Infinity)), 'Tensor "w.weight.nested_absmax" holds Infinity at [0]; expected a finite number, not below 0.'],
    ["a negative scale", absmax, (e) => (e._scale = withValue(e._scale!, 4, -1)), 'Tensor "w.weight_scale" holds -1 at [4]; expected a finite number, not below 0.'],
    ["a scale too large for its codes", absmax, (e) => (e._scale = withValue(e._scale!, 4, 2 ** 122)), `Tensor "w.weight_scale" holds ${2 ** 122} at [4]; expected a scale whose largest weight an f32 can hold.`],
    ["the code -128 without a zero point", absmax, (e) => (e[""] = { ...e[""]!, bytes: e[""]!.bytes.with(10, 128) }), 'Tensor "w.weight" holds -128 at [10]; expected codes from -127 to 127 where there are no zero points.'],
    ["codes the wrong way round", absmax, (e) => (e[""] = { ...e[""]!, shape: [64, 3] }), 'Tensor "w.weight" is I8 [64, 3]; expected I8 [3, 64].'],
    ["zero points of another shape", zeroPoint, (e) => (e._zero_point = { ...e._zero_point!, shape: [1, 3] }), 'Tensor "w.weight_zero_point" is I8 [1, 3]; expected I8 or I32 [3, 1].'],
    ["zero points in U8", zeroPoint, (e) => (e._zero_point = { ...e._zero_point!, dtype: "U8" }), 'Tensor "w.weight_zero_point" is U8 [3, 1]; expected I8 or I32 [3, 1].'],
    ["a zero point that an f32 does not hold", zeroPoint, (e) => (e._zero_point = { dtype: "I32", shape: [3, 1], bytes: bytesOf(Int32Array.of(0, 2 ** 24, 0)) }), 'Tensor "w.weight_zero_point" holds 16777216 at [1]; expected at most ±16777088.'],
  ])("rejects %s, naming tensor and numbers", (_rule, make, change, message, code = "checkpoint") => {
    const entries = make();
    const [rows] = entries[state] ? [3] : entries[""]!.shape;
    const tensor = linear([rows!, 64]);
    restoreStored(tensor, new Map(Object.entries(entries))); // control case
    change(entries);
    expect(() => restoreStored(tensor, new Map(Object.entries(entries)))).toThrow(expect.objectContaining({ code, message, details: expect.objectContaining({ tensor: expect.stringContaining("w.weight") as string }) as object }));
  });

  test("rejects an odd number of 4-bit values, whose rows no block divides", () => {
    const even = stored({ type: "nf4", block: 32 }, [1, 32]);
    restoreStored(linear([1, 32]), new Map(Object.entries(even))); // control case
    const odd = new Map(Object.entries({ ...even, [state]: json({ ...good, shape: [1, 33] }) }));
    expect(() => restoreStored(linear([1, 33]), odd)).toThrow(expect.objectContaining({ code: "unsupported", message: expect.stringContaining("blocksize 32 for rows of 33") as string }));
  });
});

describe("a checkpoint that bitsandbytes made", () => {
  const shape = { nLayer: 1, nHead: 2, nEmbd: 64, nInner: 128, nPositions: 4, vocabSize: 7 };
  const floatsOf = parseSafetensors(seededCheckpoint({ ...shape, dtype: "F16", prefix: true })["model.safetensors"]).tensors;
  const config = JSON.parse(text(seededCheckpoint(shape)["config.json"])) as object;
  const quantization_config = { quant_method: "bitsandbytes", load_in_4bit: true, load_in_8bit: false, bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: true, bnb_4bit_compute_dtype: "float16" };
  const tokens = [6, 0, 3];

  /** create_dynamic_map(signed=True) as torch computes it: linspace, means and products rounded to f32. */
  const torchMap = ((): Float32Array => {
    const values = [0, 1];
    for (let i = 0; i < 7; i++) {
      const edges = Float32Array.from({ length: 2 ** i + 1 }, (_, j) => 0.1 + (0.9 * j) / 2 ** i);
      for (let j = 0; j < 2 ** i; j++) {
        const value = Math.fround(Math.fround(Math.fround(edges[j]! + edges[j + 1]!) / 2) * Math.fround(10 ** (i - 6)));
        values.push(value, -value);
      }
    }
    return Float32Array.from(values).sort();
  })();

  /** One Linear4bit's state dict: nibbles, absmax and what belongs to it, as documented; and the weights that it stands for. */
  function linear4bit(outputs: number, inputs: number, seed: number, nested: boolean): { tensors: Record<string, WrittenTensor>; weights: Float32Array } {
    const blocks = (outputs * inputs) / 64;
    const codes = Uint8Array.from({ length: outputs * inputs }, (_, i) => (i * i * 7 + i * seed) & 15);
    const absmaxCodes = Uint8Array.from({ length: blocks }, (_, b) => (b * 37 + seed * 11) & 255);
    const nestedAbsmax = Float32Array.from({ length: Math.ceil(blocks / 256) }, () => 0.03);
    const absmax = Float32Array.from(absmaxCodes, (code) => (nested ? Math.fround(torchMap[code]! * nestedAbsmax[0]!) + Math.fround(0.11) : 0.05 + code / 1024));
    const packed = Uint8Array.from({ length: codes.length / 2 }, (_, i) => codes[2 * i]! * 16 + codes[2 * i + 1]!);
    const json = `{"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [${outputs}, ${inputs}]${nested ? ', "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.10999999940395355' : ""}}`;
    return {
      tensors: {
        ".absmax": nested ? { dtype: "U8", shape: [blocks], data: absmaxCodes } : { dtype: "F32", shape: [blocks], data: absmax },
        ".quant_map": { dtype: "F32", shape: [16], data: NF4_CODES },
        ...(nested && { ".nested_absmax": { dtype: "F32", shape: [1], data: nestedAbsmax }, ".nested_quant_map": { dtype: "F32", shape: [256], data: torchMap } }),
        ".quant_state.bitsandbytes__nf4": { dtype: "U8", shape: [json.length], data: new TextEncoder().encode(json) },
        "": { dtype: "U8", shape: [packed.length, 1], data: packed },
      },
      weights: Float32Array.from(codes, (code, i) => NF4_CODES[code]! * absmax[Math.floor(i / 64)]!),
    };
  }

  /** The file in the order in which the format's own library writes: larger dtypes first, then names; and the float weights that it stands for, [outputs, inputs]. */
  function makeFile(nested: boolean, change: (tensors: Record<string, WrittenTensor>) => void = () => undefined): { file: Uint8Array; weights: Map<string, Float32Array> } {
    const tensors: Record<string, WrittenTensor> = {};
    const weights = new Map<string, Float32Array>();
    for (const [name, { dtype, shape, bytes }] of floatsOf) {
      if (tensorKind(name.replace(/^transformer\./, "")) !== "linear") tensors[name] = { dtype: dtype as "F16", shape, data: bytes };
      else {
        const layer = linear4bit(shape[1]!, shape[0]!, name.length, nested);
        for (const [suffix, tensor] of Object.entries(layer.tensors)) tensors[name + suffix] = tensor;
        weights.set(name.replace(/^transformer\./, ""), layer.weights);
      }
    }
    change(tensors);
    const order = { F32: 0, F16: 1, BF16: 1, U8: 2 } as Record<string, number>;
    const sorted = Object.entries(tensors).sort(([a, x], [b, y]) => order[x.dtype]! - order[y.dtype]! || (a < b ? -1 : 1));
    return { file: writeSafetensors(Object.fromEntries(sorted), { format: "pt" }), weights };
  }
  const load = (file: Uint8Array, options: object = {}): Promise<Model> => loadModel({ "config.json": new TextEncoder().encode(JSON.stringify({ ...config, quantization_config })), "model.safetensors": file }, { backend: "cpu", kvCache: "f32", ...options });

  test.each([true, false])("loads to its own codes and scales, with double quantization: %s", async (nested) => {
    const { file, weights } = makeFile(nested);
    using model = await load(file);
    expect(model.quantization.recipe).toEqual({ name: "as stored", linear: { type: "nf4", block: 64, ...(nested && { doubleQuantization: true }) }, embedding: { type: "f16" } });
    for (const [name, expected] of weights) {
      const tensor = (await (model as LoadedModel).readTensor(name)) as QuantizedTensor;
      expect(isDeepStrictEqual(dequantizeTensor(tensor), expected), name).toBe(true);
      if (nested) expect(tensor.doubleQuantization!.map).toEqual(torchMap); // not quite ours, so kept
    }
    for (const { mse } of model.quantization.tensors) expect(mse).toBe(0);
  });

  test("computes the oracle's logits on the weights that it stands for", async () => {
    const { file, weights } = makeFile(true);
    using model = await load(file);
    const { config: parsed, weights: floats } = referenceCheckpoint(seededCheckpoint({ ...shape, dtype: "F16" }));
    const reference = new Map([...floats].map(([name, tensor]) => [name, { shape: tensor.shape, values: weights.get(name) ?? tensor.values }]));
    expect(maxAbsError(await model.logits(tokens), referenceLogits(parsed, reference, tokens, { rows: [2] }))).toBeLessThan(tolerances.logit);
  });

  test("is written back with the very bytes of its quantized matrices", async () => {
    const { file } = makeFile(true);
    using model = await load(file);
    const exported = parseSafetensors(await new Response(exportSafetensors(model) as ReadableStream<Uint8Array<ArrayBuffer>>).arrayBuffer()).tensors;
    const original = parseSafetensors(file).tensors;
    for (const [name, { bytes }] of original) {
      const found = exported.get(name.replace(/^transformer\./, ""))!;
      if (name.includes("quant_state")) expect(text(found.bytes)).toBe(text(bytes).replace("float16", "float32"));
      else if (/c_\w+\.weight/.test(name)) expect(hex(found.bytes)).toBe(hex(bytes));
    }
  });

  test("keeps BF16 in f32, and a matrix that was left out of quantization in an override", async () => {
    const { file } = makeFile(false, (tensors) => {
      const name = "transformer.h.0.mlp.c_proj.weight";
      for (const key of Object.keys(tensors)) if (key.startsWith(name)) delete tensors[key];
      tensors[name] = { dtype: "F16", shape: floatsOf.get(name)!.shape, data: floatsOf.get(name)!.bytes };
      tensors["transformer.wte.weight"] = { dtype: "BF16", shape: [7, 64], data: gaussian(7 * 64, 0.1, 0, 3) };
    });
    using model = await load(file);
    expect(model.quantization.recipe).toMatchObject({ linear: { type: "nf4", block: 64 }, embedding: { type: "f32" }, overrides: { "h.0.mlp.c_proj.weight": { type: "f16" } } });
  });

  test("may have its parts in several files, with and without an index", async () => {
    const { file } = makeFile(true);
    const { tensors } = parseSafetensors(file);
    const parts = [[...tensors].filter((_, i) => i % 2 === 0), [...tensors].filter((_, i) => i % 2 === 1)].map((entries) => writeSafetensors(Object.fromEntries(entries.map(([name, { dtype, shape, bytes }]) => [name, { dtype: dtype as "U8", shape, data: bytes }]))));
    const shards = { "config.json": new TextEncoder().encode(JSON.stringify(config)), "model-1.safetensors": parts[0]!, "model-2.safetensors": parts[1]! };
    const weight_map = Object.fromEntries([...tensors.keys()].map((name, i) => [name, `model-${(i % 2) + 1}.safetensors`]));
    const index = (map: object): Uint8Array<ArrayBuffer> => new TextEncoder().encode(JSON.stringify({ weight_map: map }));
    using whole = await load(file);
    for (const files of [shards, { ...shards, "model.safetensors.index.json": index(weight_map) }]) {
      using model = await loadModel(files, { backend: "cpu", kvCache: "f32" });
      expect(model.quantization.recipe).toEqual(whole.quantization.recipe);
      expect(await model.logits(tokens)).toEqual(await whole.logits(tokens));
    }
    const missing = { ...weight_map, "transformer.wte.weight_scale": "model-1.safetensors" };
    await expect(loadModel({ ...shards, "model.safetensors.index.json": index(missing) }, { backend: "cpu" })).rejects.toMatchObject({ code: "checkpoint", message: 'The set of 2 files lacks "wte.weight_scale", which the index names.' });
  });

  test("names the tensor of a companion that is malformed, and its control loads", async () => {
    using _control = await load(makeFile(false).file);
    const { file } = makeFile(false, (tensors) => delete tensors["transformer.h.0.mlp.c_fc.weight.absmax"]);
    await expect(load(file)).rejects.toMatchObject({ code: "checkpoint", message: expect.stringMatching(/^Tensor "h\.0\.mlp\.c_fc\.weight" lacks "h\.0\.mlp\.c_fc\.weight\.absmax"/) as string });
  });
});
