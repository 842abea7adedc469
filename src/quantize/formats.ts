import { show } from "../errors.ts";
import type { TensorFormat } from "../types.ts";

/** A format whose codes are multiplied by a scale when read. */
export type ScaledFormat = Exclude<TensorFormat, { type: "f32" | "f16" }>;

/** Bits of one stored code. */
export const CODE_BITS: Readonly<Record<TensorFormat["type"], number>> = { f32: 32, f16: 16, int8: 8, int4: 4, nf4: 4, fp4: 4 };

export const GROUP_LENGTHS = [32, 64, 128] as const;
export const BLOCK_LENGTHS = [32, 64, 128, 256] as const;

/** Blocks whose absmax share one second-level absmax in double quantization; bitsandbytes' constant. */
export const NESTED_BLOCK = 256;

/**
 * NF4, f32 [16]: quantiles of the normal distribution, 8 positive and 7 negative steps around an exact 0, normalized to ±1.
 * Generator: bitsandbytes `create_normal_map(offset=0.9677083, use_extra_value=True)`; QLoRA, arXiv:2305.14314, appendix E.
 */
export const NF4_CODES = Float32Array.of(
  -1,
  -0.6961928009986877,
  -0.5250730514526367,
  -0.39491748809814453,
  -0.28444138169288635,
  -0.18477343022823334,
  -0.09105003625154495,
  0,
  0.07958029955625534,
  0.16093020141124725,
  0.24611230194568634,
  0.33791524171829224,
  0.44070982933044434,
  0.5626170039176941,
  0.7229568362236023,
  1,
);

/**
 * FP4, f32 [16]: sign, 2 exponent bits, 1 mantissa bit, divided by the largest value; index 8 is −0.
 * Generator: bitsandbytes `get_4bit_type("fp4")`, its values before the division as below.
 */
export const FP4_CODES = Float32Array.from([0, 0.0625, 8, 12, 4, 6, 2, 3, -0, -0.0625, -8, -12, -4, -6, -2, -3], (value) => value / 12);

/**
 * The signed dynamic 8-bit map, f32 [256], ascending: per decade 10^(i − 6) the middles of 2^i equal parts of [0.1, 1], both signs, and 0 and 1.
 * Generator: bitsandbytes `create_dynamic_map(signed=True, max_exponent_bits=7, total_bits=8)`; arXiv:1511.04561, arXiv:2110.02861.
 * Computed in f64 and rounded once, torch's f32 arithmetic may differ by one unit in the last place.
 */
export const DYNAMIC_MAP_SIGNED = dynamicMap(7);

function dynamicMap(decades: number): Float32Array {
  const values = [0, 1];
  for (let i = 0; i < decades; i++) {
    const parts = 2 ** i;
    for (let j = 0; j < parts; j++) {
      const middle = (0.1 + (0.9 * (j + 0.5)) / parts) * 10 ** (i - decades + 1);
      values.push(middle, -middle);
    }
  }
  return Float32Array.from(values).sort();
}

/** A matrix as `lineCount` runs of `lineLength` consecutive values, each cut into groups that share a scale; the last group of a line may be shorter. */
export interface GroupLayout {
  lineCount: number;
  lineLength: number;
  groupLength: number;
  groupsPerLine: number;
}

/** A line is a row, except that one scale for the tensor makes one line of the whole. */
export function groupLayout(format: ScaledFormat, [rows, columns]: readonly [rows: number, columns: number]): GroupLayout {
  const layout = (lineCount: number, lineLength: number, groupLength: number): GroupLayout => {
    return { lineCount, lineLength, groupLength, groupsPerLine: Math.ceil(lineLength / groupLength) };
  };
  if ("block" in format) return layout(rows, columns, format.block);
  if (format.granularity === "tensor") return layout(1, rows * columns, rows * columns);
  if (format.granularity === "channel") return layout(rows, columns, columns);
  return layout(rows, columns, format.granularity.group);
}

/** Index of the scale that serves the value at `index`. */
export function groupOf(index: number, { lineLength, groupLength, groupsPerLine }: GroupLayout): number {
  return Math.floor(index / lineLength) * groupsPerLine + Math.floor((index % lineLength) / groupLength);
}

/** Whether two formats of one matrix are the same numbers: one group per row is a channel, and one channel a tensor. */
export function isSameFormat(a: TensorFormat, b: TensorFormat, shape: readonly [rows: number, columns: number]): boolean {
  if (a.type === "f32" || a.type === "f16" || b.type === "f32" || b.type === "f16") return a.type === b.type;
  const key = (format: ScaledFormat): string => {
    const { lineCount, groupsPerLine } = groupLayout(format, shape);
    return [format.type, "mode" in format ? format.mode : Boolean(format.doubleQuantization), lineCount, groupsPerLine].join();
  };
  return key(a) === key(b);
}

/** Scales of a tensor; 0 for f32 and f16. */
export function scaleCount(format: TensorFormat, shape: readonly [rows: number, columns: number]): number {
  if (format.type === "f32" || format.type === "f16") return 0;
  const { lineCount, groupsPerLine } = groupLayout(format, shape);
  return lineCount * groupsPerLine;
}

/**
 * Bytes of a packed tensor: codes (4-bit ones two to a byte), f32 scales, zero points;
 * with double quantization instead of the scales a byte per block, an f32 per 256 blocks and the f32 offset.
 * @param zeroPoints they take one byte each where all of them fit, else four; absent: assumed to fit
 */
export function storedBytes(format: TensorFormat, shape: readonly [rows: number, columns: number], zeroPoints?: Int32Array): number {
  const codeBytes = Math.ceil((shape[0] * shape[1] * CODE_BITS[format.type]) / 8);
  const scales = scaleCount(format, shape);
  if ("doubleQuantization" in format && format.doubleQuantization) return codeBytes + scales + 4 * Math.ceil(scales / NESTED_BLOCK) + 4;
  if (!("mode" in format) || format.mode === "absmax") return codeBytes + 4 * scales;
  const zeroPointBytes = !zeroPoints || zeroPoints.every((zeroPoint) => zeroPoint >= -128 && zeroPoint <= 127) ? 1 : 4;
  return codeBytes + (4 + zeroPointBytes) * scales;
}

/** Short and unambiguous: "int4 zero-point, group 32"; "NF4, block 64, double quantization". */
export function describeFormat(format: TensorFormat): string {
  switch (format.type) {
    case "f32":
    case "f16":
      return format.type;
    case "int8":
    case "int4": {
      const mode = format.mode === "absmax" ? "absmax" : "zero-point";
      const granularity = typeof format.granularity === "object" ? `group ${format.granularity.group}` : `per ${format.granularity}`;
      return `${format.type} ${mode}, ${granularity}`;
    }
    case "nf4":
    case "fp4":
      return `${format.type.toUpperCase()}, block ${format.block}${format.doubleQuantization ? ", double quantization" : ""}`;
  }
}

/**
 * Checks a format that came from a caller.
 * @param option how the caller calls it, for the message: "quantization.linear"
 * @throws TypeError for an unknown word or a wrong type, RangeError for a length that is not offered
 */
export function validateTensorFormat(format: unknown, option: string): asserts format is TensorFormat {
  if (!isRecord(format)) throw new TypeError(`${option} is ${show(format)}; expected a format such as { type: "f16" }.`);
  oneOf(format.type, Object.keys(CODE_BITS), `${option}.type`);
  switch (format.type) {
    case "f32":
    case "f16":
      return rejectUnknownKeys(format, ["type"], option);
    case "int8":
    case "int4": {
      rejectUnknownKeys(format, ["type", "mode", "granularity"], option);
      oneOf(format.mode, ["absmax", "zeropoint"], `${option}.mode`);
      const { granularity } = format;
      if (!isRecord(granularity)) return oneOf(granularity, ["tensor", "channel"], `${option}.granularity`, " or { group }");
      rejectUnknownKeys(granularity, ["group"], `${option}.granularity`);
      return oneLengthOf(granularity.group, GROUP_LENGTHS, `${option}.granularity.group`);
    }
    case "nf4":
    case "fp4": {
      rejectUnknownKeys(format, ["type", "block", "doubleQuantization"], option);
      oneLengthOf(format.block, BLOCK_LENGTHS, `${option}.block`);
      const { doubleQuantization } = format;
      if (doubleQuantization === undefined || typeof doubleQuantization === "boolean") return;
      throw new TypeError(`${option}.doubleQuantization is ${show(doubleQuantization)}; expected true or false.`);
    }
  }
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function oneOf(value: unknown, words: readonly string[], option: string, more = ""): void {
  if (typeof value === "string" && words.includes(value)) return;
  throw new TypeError(`${option} is ${show(value)}; expected ${words.map(show).join(", ")}${more}.`);
}

export function rejectUnknownKeys(object: Readonly<Record<string, unknown>>, known: readonly string[], option: string): void {
  const unknown = Object.keys(object).find((key) => !known.includes(key));
  if (unknown !== undefined) throw new TypeError(`${option} has the unknown field ${show(unknown)}; expected ${known.join(", ")}.`);
}

function oneLengthOf(value: unknown, lengths: readonly number[], option: string): void {
  if (typeof value !== "number") throw new TypeError(`${option} is ${show(value)}; expected ${lengths.join(", ")}.`);
  if (!lengths.includes(value)) throw new RangeError(`${option} is ${value}; expected ${lengths.join(", ")}.`);
}
