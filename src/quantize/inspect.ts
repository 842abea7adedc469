import { show } from "../errors.ts";
import type { QuantizedTensor, TensorFormat } from "../types.ts";
import { quantizationError, type QuantizationError } from "./error.ts";
import { CODE_BITS, groupLayout, type ScaledFormat, scaleCount } from "./formats.ts";
import { valueRange, weightHistogram } from "./histogram.ts";
import { dequantizeTensor, forEachGroup, quantizeTensor } from "./nearest.ts";

/** Options of inspectQuantization(). */
export interface InspectionOptions {
  /** Bins of the histograms, 1…65,536. @default 100 */
  bins?: number;
  /** A row or column is an outlier beyond so many times the median of its kind; above 1. @default 3 */
  outlierFactor?: number;
}

/** What one format does to one matrix. */
export interface QuantizationInspection {
  format: TensorFormat;
  shape: readonly [rows: number, columns: number];
  /** As stored: codes, scales, zero points. */
  bitsPerWeight: number;
  error: QuantizationError;
  /** edges: f64 [bins + 1], which span the values before and after; before, after: u32 [bins]. */
  histogram: { edges: Float64Array; before: Uint32Array; after: Uint32Array };
  /** null for f32 and f16, which have no codes. */
  codes: CodeOccupancy | null;
  /** Of the worst group, to draw over a histogram; null for f32 and f16. */
  grid: QuantizationGrid | null;
  rows: LineStatistics;
  columns: LineStatistics;
}

/** How evenly a tensor uses its codes. */
export interface CodeOccupancy {
  /** i16 [16 or 256]: every code that can be stored: −8…7, −128…127, or the indices 0…15 of NF4 and FP4. */
  values: Int16Array;
  /** u32, as values: weights with that code. */
  counts: Uint32Array;
  /** −Σ p · log2 p over the codes: what an ideal entropy coder would need per weight, scales apart. */
  entropyBits: number;
  /** What a code takes: 4 or 8. */
  storedBits: number;
}

/** The levels of the group (what shares one scale: tensor, row, group or block) with the largest mean squared error, the first of equals. */
export interface QuantizationGrid {
  /** Its values are start … end − 1 of the matrix, row-major. */
  start: number;
  end: number;
  mse: number;
  scale: number;
  /** 0 where the format has none. */
  zeroPoint: number;
  /** f32, as CodeOccupancy.values: the weight that each code restores. */
  levels: Float32Array;
  /** u32, as levels: weights of the group on each. */
  counts: Uint32Array;
}

/** One value per row, or per column. */
export interface LineStatistics {
  /** f32 */
  absmax: Float32Array;
  /** f32: √(mean w²) */
  rms: Float32Array;
  /** f32: mean (w − w')² */
  mse: Float32Array;
  /** Ascending indices of those whose absmax or rms is beyond outlierFactor · its median. A row is an output channel, a column an input channel. */
  outliers: number[];
}

/**
 * Everything to see of a format on one matrix: distribution before and after, error, codes, levels and outlier channels. Pure; weights round to nearest.
 * @param values f32 [rows, columns], row-major; only read
 * @throws as quantizeTensor and weightHistogram; TypeError or RangeError naming the option
 */
export function inspectQuantization(values: Float32Array, shape: readonly [rows: number, columns: number], format: TensorFormat, options: InspectionOptions = {}): QuantizationInspection {
  return inspectQuantized(values, quantizeTensor(values, shape, format), options);
}

/** The same of a matrix that was quantized in whatever way. values: f32, those before */
export function inspectQuantized(values: Float32Array, tensor: QuantizedTensor, { bins, outlierFactor = 3 }: InspectionOptions): QuantizationInspection {
  if (typeof outlierFactor !== "number") throw new TypeError(`outlierFactor is ${show(outlierFactor)}; expected a number above 1.`);
  if (!(outlierFactor > 1)) throw new RangeError(`outlierFactor is ${outlierFactor}; expected a number above 1.`);
  const { format, shape } = tensor;
  const restored = dequantizeTensor(tensor);
  const [low, high] = valueRange(values);
  const [lowAfter, highAfter] = valueRange(restored);
  const range: [number, number] = [Math.min(low, lowAfter), Math.max(high, highAfter)];
  const { edges, counts: before } = weightHistogram(values, { bins, range });
  return {
    format,
    shape,
    bitsPerWeight: (8 * tensor.storedBytes) / values.length,
    error: quantizationError(values, restored),
    histogram: { edges, before, after: weightHistogram(restored, { bins, range }).counts },
    ...inspectCodes(tensor, values, restored),
    ...lineStatistics(values, restored, shape, outlierFactor),
  };
}

function inspectCodes(tensor: QuantizedTensor, values: Float32Array, restored: Float32Array): Pick<QuantizationInspection, "codes" | "grid"> {
  const { format, shape, scales, zeroPoints } = tensor;
  if (format.type === "f32" || format.type === "f16") return { codes: null, grid: null };
  const storedBits = CODE_BITS[format.type];
  const count = 2 ** storedBits;
  const lowest = "mode" in format ? -count / 2 : 0;
  const countCodes = (start: number, end: number): Uint32Array => {
    const counts = new Uint32Array(count);
    for (let i = start; i < end; i++) counts[tensor.codes[i]! - lowest]!++;
    return counts;
  };
  const counts = countCodes(0, values.length);
  const codeValues = Int16Array.from(counts, (_, i) => i + lowest);
  const entropyBits = counts.reduce((sum, n) => (n === 0 ? sum : sum + (n / values.length) * Math.log2(values.length / n)), 0);

  const worst = { start: 0, end: 0, mse: -1, group: 0 };
  forEachGroup(groupLayout(format, shape), (start, end, group) => {
    const mse = meanSquare(values, restored, start, end);
    if (mse > worst.mse) Object.assign(worst, { start, end, mse, group });
  });
  const { group, ...place } = worst;
  const scale = scales[group]!;
  const zeroPoint = zeroPoints?.[group] ?? 0;
  const levels = restoredLevels(format, codeValues, scale, zeroPoint);
  return { codes: { values: codeValues, counts, entropyBits, storedBits }, grid: { ...place, scale, zeroPoint, levels, counts: countCodes(place.start, place.end) } };
}

/** A column of all codes under one scale, restored. */
function restoredLevels(format: ScaledFormat, codes: Int16Array, scale: number, zeroPoint: number): Float32Array {
  const shape = [codes.length, 1] as const;
  const scales = new Float32Array(scaleCount(format, shape)).fill(scale);
  const zeroPoints = new Int32Array(scales.length).fill(zeroPoint);
  return dequantizeTensor({ format, shape, codes: "mode" in format ? Int8Array.from(codes) : Uint8Array.from(codes), scales, zeroPoints, storedBytes: 0 });
}

function meanSquare(values: Float32Array, restored: Float32Array, start: number, end: number): number {
  let sum = 0;
  for (let i = start; i < end; i++) sum += (values[i]! - restored[i]!) ** 2;
  return sum / (end - start);
}

function lineStatistics(values: Float32Array, restored: Float32Array, [rows, columns]: readonly [number, number], outlierFactor: number): Pick<QuantizationInspection, "rows" | "columns"> {
  const byRow = new LineSums(rows, columns);
  const byColumn = new LineSums(columns, rows);
  for (let row = 0, i = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, i++) {
      const error = values[i]! - restored[i]!;
      byRow.add(row, values[i]!, error);
      byColumn.add(column, values[i]!, error);
    }
  }
  return { rows: byRow.statistics(outlierFactor), columns: byColumn.statistics(outlierFactor) };
}

class LineSums {
  private readonly absmax: Float32Array; // f32 [lines]
  private readonly squares: Float64Array; // f64 [lines]
  private readonly errorSquares: Float64Array; // f64 [lines]

  constructor(
    lines: number,
    private readonly length: number,
  ) {
    this.absmax = new Float32Array(lines);
    this.squares = new Float64Array(lines);
    this.errorSquares = new Float64Array(lines);
  }

  add(line: number, value: number, error: number): void {
    this.absmax[line] = Math.max(this.absmax[line]!, Math.abs(value));
    this.squares[line]! += value * value;
    this.errorSquares[line]! += error * error;
  }

  statistics(outlierFactor: number): LineStatistics {
    const { absmax, length } = this;
    const rms = Float32Array.from(this.squares, (sum) => Math.sqrt(sum / length));
    const mse = Float32Array.from(this.errorSquares, (sum) => sum / length);
    const absmaxLimit = outlierFactor * median(absmax);
    const rmsLimit = outlierFactor * median(rms);
    const outliers = [...absmax.keys()].filter((line) => absmax[line]! > absmaxLimit || rms[line]! > rmsLimit);
    return { absmax, rms, mse, outliers };
  }
}

/** The middle value; of an even count the mean of the two in the middle. */
function median(values: Float32Array): number {
  const sorted = values.toSorted();
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
