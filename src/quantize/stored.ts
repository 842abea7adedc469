import { transpose } from "../checkpoint/gpt2Weights.ts";
import type { CheckpointTensor, ReadTensor, StoredEntries, StoredEntry } from "../checkpoint/types.ts";
import { EngineError, show } from "../errors.ts";
import { type Dtype, typedView } from "../safetensors/index.ts";
import type { QuantizedTensor, TensorFormat } from "../types.ts";
import { BLOCK_LENGTHS, describeFormat, DYNAMIC_MAP_SIGNED, FP4_CODES, GROUP_LENGTHS, groupLayout, isRecord, NESTED_BLOCK, NF4_CODES, scaleCount, type ScaledFormat } from "./formats.ts";
import { assembleTensor, dequantizeTensor } from "./nearest.ts";

// How a safetensors file keeps a matrix. f32 and f16 as Hugging Face has them; NF4 and FP4 as bitsandbytes serializes its QuantState
// (as_dict(packed=True) of bitsandbytes/functional.py, in the names that transformers gives them); int8 as weight, scale and zero point.

type Shape = readonly [rows: number, columns: number];
type Granularity = Extract<TensorFormat, { granularity: unknown }>["granularity"];
type Codebook = Extract<ScaledFormat, { block: unknown }>;

const SCALE = "_scale";
const ZERO_POINT = "_zero_point";
const STATE = ".quant_state.bitsandbytes__";
/** Beyond it an f32 does not hold code − zeroPoint exactly. */
const LARGEST_ZERO_POINT = 2 ** 24 - 128;
/** What an f32 holds of a step of ±127. */
const LARGEST_F32 = (2 - 2 ** -23) * 2 ** 127;

// ---------------------------------------------------------------- writing

/** @throws EngineError `unsupported` for what no layout that others read can hold */
export function requireStorable(name: string, format: TensorFormat, [rows, columns]: Shape): void {
  if (format.type === "int4") throw new EngineError("unsupported", `Tensor "${name}" is ${describeFormat(format)}, for which there is no layout that other programs read; quantize to int8, nf4 or fp4 to export.`, { tensor: name, format });
  if (!("block" in format) || columns % format.block === 0) return;
  const message = `Tensor "${name}" is [${rows}, ${columns}] in blocks of ${format.block}, and bitsandbytes' blocks run on from row to row; to export, ${columns} must be a multiple of the block.`;
  throw new EngineError("unsupported", message, { tensor: name, columns, block: format.block });
}

/** The entries of a matrix, by suffix. Linear matrices in f32 and f16 turn back to Conv1D's [in, out]; what is quantized stays [out, in]. */
export function storeTensor({ name, kind }: Pick<CheckpointTensor, "name" | "kind">, tensor: QuantizedTensor): Map<string, StoredEntry> {
  const { format, shape, codes, scales, zeroPoints } = tensor;
  requireStorable(name, format, shape);
  const entries = new Map<string, StoredEntry>();
  const put = (suffix: string, dtype: Dtype, entryShape: readonly number[], values: ArrayBufferView): void => {
    entries.set(suffix, { dtype, shape: entryShape, bytes: new Uint8Array(values.buffer as ArrayBuffer, values.byteOffset, values.byteLength) });
  };
  switch (format.type) {
    case "f32":
    case "f16": {
      const [rows, columns] = shape;
      const isLinear = kind === "linear";
      put("", format.type === "f32" ? "F32" : "F16", isLinear ? [columns, rows] : shape, isLinear ? transpose(codes as Float32Array | Uint16Array, rows, columns) : codes);
      break;
    }
    case "int8":
    case "int4": {
      const scaleShape = format.granularity === "tensor" ? [1] : [shape[0], groupLayout(format, shape).groupsPerLine];
      put("", "I8", shape, codes);
      put(SCALE, "F32", scaleShape, scales);
      if (!zeroPoints) break;
      const isNarrow = zeroPoints.every((zeroPoint) => zeroPoint >= -128 && zeroPoint <= 127);
      put(ZERO_POINT, isNarrow ? "I8" : "I32", scaleShape, isNarrow ? Int8Array.from(zeroPoints) : zeroPoints);
      break;
    }
    case "nf4":
    case "fp4":
      storeCodebook(tensor, format, put);
  }
  return entries;
}

function storeCodebook({ shape, codes, scales, doubleQuantization: nested }: QuantizedTensor, format: Codebook, put: (suffix: string, dtype: Dtype, shape: readonly number[], values: ArrayBufferView) => void): void {
  const { type, block } = format;
  const packed = new Uint8Array(codes.length / 2);
  for (let i = 0; i < packed.length; i++) packed[i] = (codes[2 * i]! << 4) | codes[2 * i + 1]!; // the first of two in the upper half
  put("", "U8", [packed.length, 1], packed);
  put(".quant_map", "F32", [16], tables[type].slice());
  if (nested) {
    const { map = DYNAMIC_MAP_SIGNED } = nested;
    put(".absmax", "U8", [nested.codes.length], nested.codes);
    put(".nested_absmax", "F32", [nested.absmax.length], nested.absmax);
    put(".nested_quant_map", "F32", [map.length], map.slice());
  } else {
    put(".absmax", "F32", [scales.length], scales);
  }
  const state = { quant_type: type, blocksize: block, dtype: "float32", shape, ...(nested && { nested_blocksize: NESTED_BLOCK, nested_dtype: "float32", nested_offset: nested.offset }) };
  const json = new TextEncoder().encode(pythonJson(state));
  put(STATE + type, "U8", [json.length], json);
}

const tables = { nf4: NF4_CODES, fp4: FP4_CODES } as const;

/** As json.dumps writes it, with a space after colons and commas. */
function pythonJson(fields: Readonly<Record<string, string | number | readonly number[]>>): string {
  const value = (field: string | number | readonly number[]): string => (typeof field === "object" ? `[${field.join(", ")}]` : JSON.stringify(field));
  return `{${Object.entries(fields).map(([key, field]) => `${JSON.stringify(key)}: ${value(field)}`).join(", ")}}`;
}

// ---------------------------------------------------------------- reading

/** The format of a matrix as the header tells it; null where it is not quantized or malformed, which reading it then explains. */
export function storedFormat([rows, columns]: Shape, entries: ReadonlyMap<string, Pick<StoredEntry, "dtype" | "shape">>): TensorFormat | null {
  const dtype = entries.get("")?.dtype;
  const scale = entries.get(SCALE);
  if (dtype === "I8" && scale) {
    const granularity = granularityOf([rows, columns], scale.shape);
    return granularity && { type: "int8", mode: entries.has(ZERO_POINT) ? "zeropoint" : "absmax", granularity };
  }
  const type = (["nf4", "fp4"] as const).find((each) => entries.has(STATE + each));
  const blockCount = entries.get(".absmax")?.shape.at(0);
  const block = BLOCK_LENGTHS.find((length) => blockCount !== undefined && length * blockCount === rows * columns);
  return dtype === "U8" && type && block ? codebookFormat(type, block, entries.has(".nested_absmax")) : null;
}

/** A quantized matrix of a file, bit for bit; see RestoreStored. */
export function restoreStored(tensor: CheckpointTensor, entries: StoredEntries): ReadTensor {
  const { name, shape } = tensor;
  const reader = new EntryReader(name, entries);
  const { dtype } = reader.get("");
  if (dtype !== "I8" && dtype !== "U8") {
    const companion = name + [...entries.keys()].find((suffix) => suffix !== "");
    throw new EngineError("checkpoint", `Tensor "${name}" has dtype ${dtype} and "${companion}" beside it; expected I8, or U8 with two 4-bit codes in a byte.`, { tensor: name, dtype });
  }
  const stored = dtype === "I8" ? restoreInt8(reader, shape) : restoreCodebook(reader, shape);
  let values: Float32Array<ArrayBuffer> | undefined;
  return {
    tensor,
    stored,
    get values() {
      return (values ??= dequantizeTensor(stored) as Float32Array<ArrayBuffer>);
    },
  };
}

/** The entries of one matrix, checked as they are taken. */
class EntryReader {
  readonly name: string;
  readonly entries: StoredEntries;

  constructor(name: string, entries: StoredEntries) {
    this.name = name;
    this.entries = entries;
  }

  get(suffix: string): StoredEntry {
    const entry = this.entries.get(suffix);
    if (!entry) throw this.malformed("", `lacks "${this.name}${suffix}"`, `it beside ${[...this.entries.keys()].slice(0, 8).map((key) => `"${this.name}${key}"`).join(", ")}`);
    return entry;
  }

  /** The values of an entry that has one of the shapes. */
  take<D extends "F32" | "I8" | "I32" | "U8">(suffix: string, dtypes: readonly D[], shapes: readonly (readonly number[])[]): Taken[D] {
    const { dtype, shape, bytes } = this.get(suffix);
    const known = dtypes.some((each) => each === dtype) && shapes.some((each) => each.join() === shape.join());
    if (!known) throw this.malformed(suffix, `is ${dtype} ${show(shape)}`, `${dtypes.join(" or ")} ${shapes.map(show).join(" or ")}`);
    return typedView(bytes, dtype) as Taken[D];
  }

  /** Scales or maps, of which none is NaN or Infinity. */
  takeFloats(suffix: string, shapes: readonly (readonly number[])[], least = -LARGEST_F32): Float32Array {
    const values = this.take(suffix, ["F32"], shapes);
    this.requireEach(suffix, values, (value) => value >= least && value <= LARGEST_F32, least === 0 ? "a finite number, not below 0" : "a finite number");
    return values;
  }

  requireEach(suffix: string, values: ArrayLike<number>, isRight: (value: number, i: number) => boolean, expected: string): void {
    for (let i = 0; i < values.length; i++) if (!isRight(values[i]!, i)) throw this.malformed(suffix, `holds ${values[i]} at [${i}]`, expected, { index: i, value: values[i] });
  }

  malformed(suffix: string, found: string, expected: string, details: object = {}): EngineError {
    return new EngineError("checkpoint", `Tensor "${this.name}${suffix}" ${found}; expected ${expected}.`, { tensor: this.name + suffix, ...details });
  }

  unsupported(suffix: string, found: string, expected: string): EngineError {
    return new EngineError("unsupported", `Tensor "${this.name}${suffix}" ${found}; expected ${expected}.`, { tensor: this.name + suffix });
  }
}

interface Taken {
  F32: Float32Array;
  I8: Int8Array;
  I32: Int32Array;
  U8: Uint8Array;
}

function granularityOf([rows, columns]: Shape, scaleShape: readonly number[]): Granularity | null {
  const [length, groups = 1] = scaleShape;
  if (scaleShape.length === 0 || (scaleShape.length === 1 && length === 1)) return "tensor";
  if (scaleShape.length > 2 || length !== rows) return null;
  if (groups === 1) return "channel";
  const group = GROUP_LENGTHS.find((each) => Math.ceil(columns / each) === groups);
  return group ? { group } : null;
}

function restoreInt8(reader: EntryReader, [rows, columns]: Shape): QuantizedTensor {
  const codes = reader.take("", ["I8"], [[rows, columns]]);
  const { shape: scaleShape } = reader.get(SCALE);
  const granularity = granularityOf([rows, columns], scaleShape);
  if (!granularity) throw reader.malformed(SCALE, `has shape ${show(scaleShape)}`, `[1], [${rows}, 1], or [${rows}, groups] for groups of ${GROUP_LENGTHS.join(", ")} in ${columns} columns`);
  const scales = reader.takeFloats(SCALE, [scaleShape], 0);
  const zeroPoints = reader.entries.has(ZERO_POINT) ? Int32Array.from(reader.take<"I8" | "I32">(ZERO_POINT, ["I8", "I32"], [scaleShape])) : undefined;
  if (!zeroPoints) reader.requireEach("", codes, (code) => code >= -127, "codes from -127 to 127 where there are no zero points");
  if (zeroPoints) reader.requireEach(ZERO_POINT, zeroPoints, (zeroPoint) => Math.abs(zeroPoint) <= LARGEST_ZERO_POINT, `at most ±${LARGEST_ZERO_POINT}`);
  const reach = (i: number): number => (zeroPoints ? Math.max(128 + zeroPoints[i]!, 127 - zeroPoints[i]!) : 127);
  reader.requireEach(SCALE, scales, (scale, i) => scale * reach(i) <= LARGEST_F32, "a scale whose largest weight an f32 can hold");
  return assembleTensor({ type: "int8", mode: zeroPoints ? "zeropoint" : "absmax", granularity }, [rows, columns], { codes, scales, zeroPoints });
}

function codebookFormat(type: Codebook["type"], block: Codebook["block"], nested: boolean): Codebook {
  return { type, block, ...(nested && { doubleQuantization: true }) };
}

function restoreCodebook(reader: EntryReader, shape: Shape): QuantizedTensor {
  const count = shape[0] * shape[1]; // even: readState accepts whole blocks alone
  const { type, block, nestedBlock, offset } = readState(reader, shape);
  const packed = reader.take("", ["U8"], [[count / 2, 1], [1, count / 2], [count / 2]]);
  const table = reader.takeFloats(".quant_map", [[16]]);
  const other = table.findIndex((value, i) => value !== tables[type][i]);
  if (other >= 0) throw reader.unsupported(".quant_map", `holds ${table[other]} at [${other}]`, `${tables[type][other]}, as ${type.toUpperCase()} has it`);

  const nested = reader.entries.has(".nested_absmax") || reader.entries.has(".nested_quant_map") || nestedBlock !== undefined;
  const format = codebookFormat(type, block, nested);
  const blocks = scaleCount(format, shape);
  const codes = new Uint8Array(count);
  for (let i = 0; i < packed.length; i++) {
    codes[2 * i] = packed[i]! >> 4; // the first of two in the upper half
    codes[2 * i + 1] = packed[i]! & 15;
  }
  if (!nested) return assembleTensor(format, shape, { codes, scales: reader.takeFloats(".absmax", [[blocks]], 0) });
  if (nestedBlock !== NESTED_BLOCK) throw reader.malformed(STATE + type, `has nested_blocksize ${show(nestedBlock)}`, String(NESTED_BLOCK));
  if (typeof offset !== "number" || !(Math.abs(offset) <= LARGEST_F32)) throw reader.malformed(STATE + type, `has nested_offset ${show(offset)}`, "a finite number");
  const map = reader.takeFloats(".nested_quant_map", [[256]]);
  const isOwn = map.some((value, i) => value !== DYNAMIC_MAP_SIGNED[i]);
  const doubleQuantization = {
    codes: reader.take(".absmax", ["U8"], [[blocks]]),
    absmax: reader.takeFloats(".nested_absmax", [[Math.ceil(blocks / NESTED_BLOCK)]], 0),
    offset: Math.fround(offset),
    ...(isOwn && { map }),
  };
  const restored = assembleTensor(format, shape, { codes, doubleQuantization });
  reader.requireEach(".absmax", restored.scales, Number.isFinite, "finite scales after double quantization");
  return restored;
}

/** bitsandbytes' quant_state: JSON in an entry whose name ends with the type. */
function readState(reader: EntryReader, [rows, columns]: Shape): { type: Codebook["type"]; block: Codebook["block"]; nestedBlock: unknown; offset: unknown } {
  const suffixes = [...reader.entries.keys()].filter((suffix) => suffix.startsWith(STATE));
  const [suffix = `${STATE}nf4`, second] = suffixes;
  const { dtype, shape, bytes } = reader.get(suffix);
  if (second !== undefined) throw reader.malformed(second, `is beside "${reader.name}${suffix}"`, "one of them");
  const type = (["nf4", "fp4"] as const).find((each) => suffix === STATE + each);
  if (!type) throw reader.malformed(suffix, "names an unknown type", "nf4 or fp4");
  if (dtype !== "U8" || shape.length !== 1) throw reader.malformed(suffix, `is ${dtype} ${show(shape)}`, "U8 [bytes of JSON]");
  const state = parseState(bytes);
  if (!isRecord(state)) throw reader.malformed(suffix, `holds ${JSON.stringify(new TextDecoder().decode(bytes.subarray(0, 40)))}`, "an object in JSON");
  const fail = (field: string, expected: string): EngineError => reader.malformed(suffix, `has ${field} ${show(state[field])}`, expected);
  if (state.quant_type !== type) throw fail("quant_type", JSON.stringify(type));
  if (!Array.isArray(state.shape) || state.shape.length !== 2 || state.shape[0] !== rows || state.shape[1] !== columns) throw fail("shape", `[${rows}, ${columns}], outputs first`);
  if (typeof state.blocksize !== "number" || !Number.isInteger(state.blocksize) || state.blocksize < 1) throw fail("blocksize", BLOCK_LENGTHS.join(", "));
  const block = BLOCK_LENGTHS.find((length) => length === state.blocksize);
  if (!block) throw reader.unsupported(suffix, `has blocksize ${state.blocksize}`, BLOCK_LENGTHS.join(", "));
  if (columns % block !== 0) throw reader.unsupported(suffix, `has blocksize ${block} for rows of ${columns}, so that blocks run on from row to row`, "rows that are a multiple of it");
  return { type, block, nestedBlock: state.nested_blocksize, offset: state.nested_offset };
}

function parseState(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    return null;
  }
}
