import { EngineError } from "../errors.ts";
import type { QuantizedTensor, TensorFormat } from "../types.ts";
import { findNearest, findNearest16, nearestCode } from "./codebook.ts";
import { DYNAMIC_MAP_SIGNED, FP4_CODES, type GroupLayout, groupLayout, NESTED_BLOCK, NF4_CODES, scaleCount, storedBytes, validateTensorFormat } from "./formats.ts";
import { fromHalfBits, toHalfBits } from "./half.ts";
import { roundHalfEven } from "./rounding.ts";

type Shape = readonly [rows: number, columns: number];
type IntegerFormat = Extract<TensorFormat, { mode: unknown }>;
type CodebookFormat = Extract<TensorFormat, { block: unknown }>;

/** Smallest normal f32: GPUs may flush what is smaller to zero. */
const MIN_NORMAL = 2 ** -126;
/** Keeps zero points, and codes minus zero points, within the integers that an f32 holds exactly. */
const MIN_SCALE_RATIO = 2 ** -23;
const ROUNDS_TO_INFINITY = "a weight whose rounded form an f32 can hold";

const nf4 = nearestCode(NF4_CODES);
const fp4 = nearestCode(FP4_CODES);
const dynamicMap = nearestCode(DYNAMIC_MAP_SIGNED);

/**
 * Rounds every value to the nearest code of `format`: |w − w'| ≤ half a step of its group.
 * int8 absmax: scale = max|w| / 127, code = round(w / scale), w' = code · scale. Rounding is half to even; scales are f32.
 * int8 zero-point: scale = (max − min) / 255, zeroPoint = round(−min / scale) − 128, code = round(w / scale) + zeroPoint, w' = (code − zeroPoint) · scale.
 * The scale is kept at least max|w| · 2^-23, so that zero points are exact in f32; a group of equal values restores them exactly.
 * NF4, FP4: code = the nearest of 16 to w / absmax, w' = value of code · absmax, as bitsandbytes computes it.
 * Absmax groups, NF4 and FP4 blocks too small for a normal f32 scale become zeros.
 * @param values f32 [rows, columns], row-major; only read
 * @throws EngineError `quantize` for NaN, Infinity, and values whose restored form would overflow f16 or f32; TypeError or RangeError for a wrong shape, length or format
 */
export function quantizeTensor(values: Float32Array, shape: Shape, format: TensorFormat): QuantizedTensor {
  validateTensorFormat(format, "format");
  validateShape(shape);
  const [rows, columns] = shape;
  if (values.length !== rows * columns) throw new RangeError(`values has ${values.length} elements; expected ${rows * columns} for shape [${rows}, ${columns}].`);
  const bad = firstNonFinite(values);
  if (bad >= 0) throw badWeight(values, bad, shape, format, "a finite weight");

  return assembleTensor(format, shape, quantizeValues(values, shape, format));
}

/** What a tensor consists of; with double quantization the scales follow from it. */
export type TensorParts = Pick<QuantizedTensor, "codes" | "zeroPoints" | "doubleQuantization"> & { scales?: Float32Array };

/** A tensor of its parts, which are kept as they are. */
export function assembleTensor(format: TensorFormat, [rows, columns]: Shape, { codes, scales, zeroPoints, doubleQuantization }: TensorParts): QuantizedTensor {
  return {
    format,
    shape: [rows, columns],
    codes,
    scales: doubleQuantization ? restoreScales(doubleQuantization) : (scales ?? new Float32Array(0)),
    ...(zeroPoints && { zeroPoints }),
    ...(doubleQuantization && { doubleQuantization }),
    storedBytes: storedBytes(format, [rows, columns], zeroPoints),
  };
}

/**
 * The weights as every kernel sees them, f32 [rows, columns], row-major: products and sums are rounded to f32.
 * @throws RangeError where `codes`, `scales` or `zeroPoints` do not fit shape and format; TypeError or RangeError for a wrong format
 */
export function dequantizeTensor(tensor: QuantizedTensor): Float32Array {
  const { codes, scales, zeroPoints, format, shape } = tensor;
  validateTensorFormat(format, "tensor.format");
  validateShape(shape);
  const expect = (name: string, length: number, expected: number): void => {
    if (length !== expected) throw new RangeError(`tensor.${name} has ${length} elements; expected ${expected} for ${format.type} [${shape[0]}, ${shape[1]}].`);
  };
  expect("codes", codes.length, shape[0] * shape[1]);
  if (format.type === "f32") return new Float32Array(codes);
  if (format.type === "f16") return fromHalfBits(codes as Uint16Array);
  expect("scales", scales.length, scaleCount(format, shape));
  if (zeroPoints) expect("zeroPoints", zeroPoints.length, scales.length);

  const values = new Float32Array(codes.length);
  const table = format.type === "nf4" ? NF4_CODES : format.type === "fp4" ? FP4_CODES : null;
  forEachGroup(groupLayout(format, shape), (start, end, group) => {
    const scale = scales[group]!;
    const zeroPoint = zeroPoints ? zeroPoints[group]! : 0;
    if (table) for (let i = start; i < end; i++) values[i] = table[codes[i]!]! * scale;
    else for (let i = start; i < end; i++) values[i] = Math.fround(codes[i]! - zeroPoint) * scale;
  });
  return values;
}

function quantizeValues(values: Float32Array, shape: Shape, format: TensorFormat): TensorParts {
  switch (format.type) {
    case "f32":
      return { codes: values.slice() };
    case "f16": {
      const { bits, overflowIndex } = toHalfBits(values);
      if (overflowIndex >= 0) throw badWeight(values, overflowIndex, shape, format, "at most ±65504 after rounding to f16");
      return { codes: bits };
    }
    case "int8":
    case "int4":
      return format.mode === "absmax" ? quantizeAbsmax(values, shape, format) : quantizeZeroPoint(values, shape, format);
    case "nf4":
    case "fp4":
      return quantizeCodebook(values, shape, format);
  }
}

function quantizeAbsmax(values: Float32Array, shape: Shape, format: IntegerFormat): TensorParts {
  const codes = new Int8Array(values.length);
  const scales = new Float32Array(scaleCount(format, shape));
  const maxCode = format.type === "int8" ? 127 : 7;
  forEachGroup(groupLayout(format, shape), (start, end, group) => {
    const scale = Math.fround(absMax(values, start, end) / maxCode); // the very f32 that kernels multiply by
    if (scale < MIN_NORMAL) return;
    if (!isF32(maxCode * scale)) throw badWeight(values, largestIndex(values, start, end), shape, format, ROUNDS_TO_INFINITY);
    scales[group] = scale;
    for (let i = start; i < end; i++) codes[i] = roundHalfEven(values[i]! / scale); // within ±maxCode: the scale is off by 2^-24 at most
  });
  return { codes, scales };
}

function quantizeZeroPoint(values: Float32Array, shape: Shape, format: IntegerFormat): TensorParts {
  const codes = new Int8Array(values.length);
  const scales = new Float32Array(scaleCount(format, shape));
  const zeroPoints = new Int32Array(scales.length);
  const lowest = format.type === "int8" ? -128 : -8;
  const highest = -lowest - 1;
  forEachGroup(groupLayout(format, shape), (start, end, group) => {
    let min = values[start]!;
    let max = min;
    for (let i = start + 1; i < end; i++) {
      const value = values[i]!;
      if (value < min) min = value;
      if (value > max) max = value;
    }
    if (min === max) {
      scales[group] = Math.abs(min);
      codes.fill(Math.sign(min), start, end);
      return;
    }
    const scale = Math.fround(Math.max((max - min) / (highest - lowest), MIN_NORMAL, Math.max(-min, max) * MIN_SCALE_RATIO));
    const zeroPoint = roundHalfEven(-min / scale) + lowest;
    for (let i = start; i < end; i++) {
      const code = roundHalfEven(values[i]! / scale) + zeroPoint;
      codes[i] = code < lowest ? lowest : code > highest ? highest : code;
    }
    scales[group] = scale;
    zeroPoints[group] = zeroPoint;
    if (!isF32((lowest - zeroPoint) * scale) || !isF32((highest - zeroPoint) * scale)) throw badWeight(values, largestIndex(values, start, end), shape, format, ROUNDS_TO_INFINITY);
  });
  return { codes, scales, zeroPoints };
}

function quantizeCodebook(values: Float32Array, shape: Shape, format: CodebookFormat): TensorParts {
  const codes = new Uint8Array(values.length);
  const scales = new Float32Array(scaleCount(format, shape));
  const codebook = format.type === "nf4" ? nf4 : fp4;
  const zeroCode = findNearest16(codebook, 0);
  forEachGroup(groupLayout(format, shape), (start, end, block) => {
    const scale = absMax(values, start, end);
    if (scale < MIN_NORMAL) {
      codes.fill(zeroCode, start, end);
      return;
    }
    scales[block] = scale;
    const inverse = Math.fround(1 / scale);
    for (let i = start; i < end; i++) codes[i] = findNearest16(codebook, Math.fround(values[i]! * inverse)); // beyond ±1 the outermost code is the nearest
  });
  if (!format.doubleQuantization) return { codes, scales };
  return { codes, doubleQuantization: quantizeScales(scales) };
}

/** bitsandbytes' nested quantization: absmax − mean(absmax), in flat blocks of 256, through the signed dynamic map. */
function quantizeScales(scales: Float32Array): NonNullable<QuantizedTensor["doubleQuantization"]> {
  let sum = 0;
  for (const scale of scales) sum += scale;
  const offset = Math.fround(sum / scales.length);
  const centred = scales.map((scale) => scale - offset);
  const codes = new Uint8Array(scales.length).fill(findNearest(dynamicMap, 0));
  const absmax = new Float32Array(Math.ceil(scales.length / NESTED_BLOCK));
  for (let block = 0; block < absmax.length; block++) {
    const start = block * NESTED_BLOCK;
    const end = Math.min(start + NESTED_BLOCK, scales.length);
    const largest = absMax(centred, start, end);
    if (largest < MIN_NORMAL) continue;
    absmax[block] = largest;
    const inverse = Math.fround(1 / largest);
    for (let i = start; i < end; i++) codes[i] = findNearest(dynamicMap, Math.fround(centred[i]! * inverse));
  }
  return { codes, absmax, offset };
}

function restoreScales({ codes, absmax, offset, map = DYNAMIC_MAP_SIGNED }: NonNullable<QuantizedTensor["doubleQuantization"]>): Float32Array {
  return Float32Array.from(codes, (code, i) => Math.fround(map[code]! * absmax[Math.floor(i / NESTED_BLOCK)]!) + offset);
}

/** Calls visit for each group in the order of its scale, with the range of its values. */
export function forEachGroup({ lineCount, lineLength, groupLength }: GroupLayout, visit: (start: number, end: number, group: number) => void): void {
  let group = 0;
  for (let line = 0; line < lineCount; line++) {
    const lineEnd = (line + 1) * lineLength;
    for (let start = line * lineLength; start < lineEnd; start += groupLength) visit(start, Math.min(start + groupLength, lineEnd), group++);
  }
}

function absMax(values: Float32Array, start: number, end: number): number {
  let largest = 0;
  for (let i = start; i < end; i++) {
    const magnitude = Math.abs(values[i]!);
    if (magnitude > largest) largest = magnitude;
  }
  return largest;
}

/** Index of the first value of the largest magnitude. */
function largestIndex(values: Float32Array, start: number, end: number): number {
  const largest = absMax(values, start, end);
  return start + values.subarray(start, end).findIndex((value) => Math.abs(value) === largest);
}

/** Whether x, rounded to f32, stays finite. */
function isF32(x: number): boolean {
  return Number.isFinite(Math.fround(x));
}

function firstNonFinite(values: Float32Array): number {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return i;
  return -1;
}

function badWeight(values: Float32Array, index: number, shape: Shape, format: TensorFormat, expected: string): EngineError {
  const row = Math.floor(index / shape[1]);
  const column = index % shape[1];
  const value = values[index]!;
  const group = format.type === "f32" || format.type === "f16" ? undefined : groupOf(index, groupLayout(format, shape));
  const place = `row ${row}, column ${column}${group === undefined ? "" : `, group ${group}`}`;
  return new EngineError("quantize", `Weight at ${place} is ${value}; expected ${expected}.`, { row, column, group, value });
}

/** Index of the scale that serves the value at `index`. */
function groupOf(index: number, { lineLength, groupLength, groupsPerLine }: GroupLayout): number {
  return Math.floor(index / lineLength) * groupsPerLine + Math.floor((index % lineLength) / groupLength);
}

function validateShape([rows, columns]: Shape): void {
  if (!(Number.isInteger(rows) && rows > 0 && Number.isInteger(columns) && columns > 0)) throw new RangeError(`shape is [${rows}, ${columns}]; expected two positive integers.`);
}
