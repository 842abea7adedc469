import { EngineError, show } from "../errors.ts";

/** Options of weightHistogram(). */
export interface HistogramOptions {
  /** Bins of equal width, 1…65,536. @default 100 */
  bins?: number;
  /** Values outside are not counted. @default [min, max] of the values; where all are equal, half their magnitude to both sides (0: ±0.5) */
  range?: [number, number];
}

const MAX_BINS = 65_536;

/**
 * Counts weights in bins of equal width: bin i holds edges[i] ≤ w < edges[i + 1], the last one its upper edge too.
 * @param values f32 [n], n ≥ 1
 * @returns edges: f64 [bins + 1], counts: u32 [bins]
 * @throws EngineError `quantize` for NaN and Infinity; TypeError or RangeError for no values, wrong bins or a wrong range
 */
export function weightHistogram(values: Float32Array, { bins = 100, range }: HistogramOptions = {}): { edges: Float64Array; counts: Uint32Array } {
  if (!(values instanceof Float32Array)) throw new TypeError(`values is ${show(values)}; expected a Float32Array.`);
  if (typeof bins !== "number") throw new TypeError(`bins is ${show(bins)}; expected an integer from 1 to ${MAX_BINS}.`);
  if (!Number.isInteger(bins) || bins < 1 || bins > MAX_BINS) throw new RangeError(`bins is ${show(bins)}; expected an integer from 1 to ${MAX_BINS}.`);
  if (values.length === 0) throw new RangeError("values has 0 elements; expected at least one.");
  if (range !== undefined && !(Array.isArray(range) && typeof range[0] === "number" && typeof range[1] === "number")) throw new TypeError(`range is ${show(range)}; expected two finite numbers, the smaller first.`);
  const [low, high] = range ?? valueRange(values);
  if (!(low < high && Number.isFinite(high - low))) throw new RangeError(`range is ${show([low, high])}; expected two finite numbers, the smaller first.`);

  const edges = Float64Array.from({ length: bins + 1 }, (_, i) => (i === bins ? high : low + ((high - low) * i) / bins));
  const counts = new Uint32Array(bins);
  const binsPerUnit = bins / (high - low);
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (!Number.isFinite(value)) throw badWeight(value, i);
    if (value < low || value > high) continue;
    let bin = Math.min(bins - 1, Math.floor((value - low) * binsPerUnit));
    if (value < edges[bin]!) bin--; // the product was rounded across an edge
    else if (value >= edges[bin + 1]! && bin + 1 < bins) bin++;
    counts[bin]!++;
  }
  return { edges, counts };
}

/** [min, max] of the values, widened where all are equal. @throws EngineError `quantize` for NaN and Infinity */
export function valueRange(values: Float32Array): [low: number, high: number] {
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (!Number.isFinite(value)) throw badWeight(value, i);
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low < high) return [low, high];
  const margin = Math.abs(low) / 2 || 0.5;
  return [low - margin, high + margin];
}

function badWeight(value: number, index: number): EngineError {
  return new EngineError("quantize", `Weight ${index} is ${value}; expected a finite weight.`, { index, value });
}
