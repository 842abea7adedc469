import { EngineError, show } from "../errors.ts";
import type { QuantizedTensor, TensorFormat } from "../types.ts";
import { findNearest, nearestCode } from "./codebook.ts";
import { DYNAMIC_MAP_SIGNED, type GroupLayout, groupLayout, groupOf, NESTED_BLOCK, type ScaledFormat, scaleCount, storedBytes, validateTensorFormat } from "./formats.ts";
import { firstNonFinite } from "./finite.ts";
import { absMax, type Grid, gridOf, MIN_NORMAL } from "./grid.ts";
import { fromHalfBits, toHalfBits } from "./half.ts";

type Shape = readonly [rows: number, columns: number];

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
export function quantizeTensor(values: Float32Array, shape: QuantizedTensor["shape"], format: TensorFormat): QuantizedTensor {
  validateWeights(values, shape, format);
  return assembleTensor(format, shape, quantizeValues(values, shape, format, 0));
}

/** Fills a tensor by blocks of its rows, in any order, with the very codes that quantizeTensor gives for the whole. */
export class RowQuantizer {
  private readonly parts: TensorParts;

  /** @param format one that isRowwise() */
  constructor(
    private readonly shape: Shape,
    private readonly format: TensorFormat,
  ) {
    const length = shape[0] * shape[1];
    this.parts = format.type === "f32" ? { codes: new Float32Array(length) } : format.type === "f16" ? { codes: new Uint16Array(length) } : emptyGroups(format, shape);
  }

  /** The rows as quantized. @throws as quantizeTensor */
  add(values: Float32Array, firstRow: number): QuantizedTensor {
    const { parts, format, shape: [, columns] } = this;
    const rows = values.length / columns;
    validateWeights(values, [rows, columns], format);
    const { codes, scales = new Float32Array(0), zeroPoints } = quantizeValues(values, [rows, columns], format, firstRow);
    const firstGroup = firstRow * (scales.length / rows);
    parts.codes.set(codes, firstRow * columns);
    parts.scales?.set(scales, firstGroup);
    if (zeroPoints) parts.zeroPoints!.set(zeroPoints, firstGroup);
    return assembleTensor(format, [rows, columns], { codes, scales, zeroPoints });
  }

  /** Once every row was added. */
  finish(): QuantizedTensor {
    return assembleTensor(this.format, this.shape, this.parts);
  }
}

/** Whether rows are quantized one by one: not where a scale serves the tensor, nor under double quantization, which needs all scales at once. */
export function isRowwise(format: TensorFormat): boolean {
  return !("granularity" in format && format.granularity === "tensor") && !("doubleQuantization" in format && format.doubleQuantization);
}

/** A range of a tensor's rows as a tensor, which shares its arrays; scales are those after double quantization. */
export function rowsOf({ format, shape, codes, scales, zeroPoints }: QuantizedTensor, from: number, to: number): QuantizedTensor {
  const [rows, columns] = shape;
  const groups = scales.length < rows ? 0 : scales.length / rows; // 0: one for the tensor, or none
  const ofRows = <A extends Float32Array | Int32Array>(array: A): A => (groups === 0 ? array : (array.subarray(from * groups, to * groups) as A));
  return assembleTensor(format, [to - from, columns], { codes: codes.subarray(from * columns, to * columns), scales: ofRows(scales), zeroPoints: zeroPoints && ofRows(zeroPoints) });
}

/** Throws what quantizeTensor throws for values that no format takes, and for a wrong shape, length or format. */
export function validateWeights(values: Float32Array, shape: Shape, format: TensorFormat): void {
  validateTensorFormat(format, "format");
  validateShape(shape);
  const [rows, columns] = shape;
  if (!(values instanceof Float32Array)) throw new TypeError(`values is ${show(values)}; expected a Float32Array.`);
  if (values.length !== rows * columns) throw new RangeError(`values has ${values.length} elements; expected ${rows * columns} for shape [${rows}, ${columns}].`);
  const bad = firstNonFinite(values);
  if (bad >= 0) throw badWeight(values, bad, shape, format, "a finite weight");
}

/** What a tensor consists of; with double quantization the scales follow from it. */
export type TensorParts = Pick<QuantizedTensor, "codes" | "zeroPoints" | "doubleQuantization" | "f16Columns"> & { scales?: Float32Array };

/** The parts of a tensor with scales. */
type Groups = TensorParts & { scales: Float32Array };

/** A tensor of its parts, which are kept as they are. */
export function assembleTensor(format: TensorFormat, [rows, columns]: Shape, { codes, scales, zeroPoints, doubleQuantization, f16Columns }: TensorParts): QuantizedTensor {
  return {
    format,
    shape: [rows, columns],
    codes,
    scales: doubleQuantization ? restoreScales(doubleQuantization) : (scales ?? new Float32Array(0)),
    ...(zeroPoints && { zeroPoints }),
    ...(doubleQuantization && { doubleQuantization }),
    ...(f16Columns && { f16Columns }),
    storedBytes: storedBytes(format, [rows, columns], zeroPoints) + (f16Columns ? f16Columns.columns.byteLength + f16Columns.weights.byteLength : 0),
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
  const grid = gridOf(format);
  forEachGroup(groupLayout(format, shape), (start, end, group) => {
    grid.set(scales[group]!, zeroPoints ? zeroPoints[group]! : 0);
    grid.restore(codes, values, start, end);
  });
  return values;
}

/** firstRow: of the tensor that the values are rows of, for messages. */
function quantizeValues(values: Float32Array, shape: Shape, format: TensorFormat, firstRow: number): TensorParts {
  switch (format.type) {
    case "f32":
      return { codes: values.slice() };
    case "f16": {
      const { bits, overflowIndex } = toHalfBits(values);
      if (overflowIndex >= 0) throw badWeight(values, overflowIndex, shape, format, "at most ±65504 after rounding to f16", firstRow);
      return { codes: bits };
    }
    default:
      return quantizeGroups(values, shape, format, firstRow);
  }
}

function quantizeGroups(values: Float32Array, shape: Shape, format: ScaledFormat, firstRow: number): Groups {
  const stored = emptyGroups(format, shape);
  const grid = gridOf(format);
  forEachGroup(groupLayout(format, shape), (start, end, group) => {
    fitGroup(grid, values, start, end, shape, format, firstRow);
    grid.encode(values, stored.codes, start, end);
    stored.scales[group] = grid.scale;
    if (stored.zeroPoints) stored.zeroPoints[group] = grid.zeroPoint;
  });
  return withNestedScales(stored, format);
}

/** Codes, scales and zero points of a tensor, to be filled. */
export function emptyGroups(format: ScaledFormat, shape: Shape): Groups & { codes: Int8Array | Uint8Array } {
  const length = shape[0] * shape[1];
  const scales = new Float32Array(scaleCount(format, shape));
  if ("block" in format) return { codes: new Uint8Array(length), scales };
  const codes = new Int8Array(length);
  return format.mode === "absmax" ? { codes, scales } : { codes, scales, zeroPoints: new Int32Array(scales.length) };
}

/** Where the format asks for it, rounds the scales to what double quantization restores. */
export function withNestedScales(stored: Groups, format: ScaledFormat): Groups {
  if (!("doubleQuantization" in format && format.doubleQuantization)) return stored;
  const doubleQuantization = quantizeScales(stored.scales);
  return { ...stored, scales: restoreScales(doubleQuantization), doubleQuantization };
}

/** Fits the grid to values[start … end). @throws EngineError `quantize` where a code would restore no finite f32 */
export function fitGroup(grid: Grid, values: Float32Array, start: number, end: number, shape: Shape, format: ScaledFormat, firstRow = 0): void {
  if (!grid.fit(values, start, end)) throw badWeight(values, largestIndex(values, start, end), shape, format, "a weight whose rounded form an f32 can hold", firstRow);
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

/** Index of the first value of the largest magnitude. */
function largestIndex(values: Float32Array, start: number, end: number): number {
  const largest = absMax(values, start, end);
  return start + values.subarray(start, end).findIndex((value) => Math.abs(value) === largest);
}

/** firstRow: of a tensor, where values are a range of its rows. */
export function badWeight(values: Float32Array, index: number, shape: Shape, format: TensorFormat, expected: string, firstRow = 0): EngineError {
  const indexInTensor = firstRow * shape[1] + index;
  const row = Math.floor(indexInTensor / shape[1]);
  const column = index % shape[1];
  const value = values[index]!;
  const group = format.type === "f32" || format.type === "f16" ? undefined : groupOf(indexInTensor, groupLayout(format, shape));
  const place = `row ${row}, column ${column}${group === undefined ? "" : `, group ${group}`}`;
  return new EngineError("quantize", `Weight at ${place} is ${value}; expected ${expected}.`, { row, column, group, value });
}

function validateShape(shape: Shape): void {
  if (!Array.isArray(shape)) throw new TypeError(`shape is ${show(shape)}; expected [rows, columns].`);
  if (shape.length !== 2 || !shape.every((length) => Number.isInteger(length) && length > 0)) throw new RangeError(`shape is ${show(shape)}; expected two positive integers.`);
}
