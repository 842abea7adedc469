import { EngineError } from "../errors.ts";
import type { InputStatistics } from "../quantize/inputStatistics.ts";
import { Pacer } from "./cpu/pacer.ts";

/** What a backend summed over the rows x, f32 [K], that one matrix took. */
export interface InputSums {
  rows: number;
  absmax: Float32Array; // f32 [K]: max |x_k|, NaN where there was one
  sumAbs: Float32Array | Float64Array; // [K]: Σ |x_k|
  histogram: Uint32Array; // u32 [MAGNITUDE_BINS]
  gram: Float32Array | null; // f32 [K, K]: Σ x_j · x_k for j ≤ k; taken over
}

/** What is known of the named matrices, each once; `known`: of all linear matrices of a model and the head. @throws RangeError for another name */
export function lookUp<T>(known: ReadonlyMap<string, T>, names: readonly string[]): Map<string, T> {
  const found = new Map<string, T>();
  for (const name of names) {
    const each = known.get(name);
    if (each === undefined) throw new RangeError(`names has "${name}", which is no linear matrix of this model; names look like "${known.keys().next().value}".`);
    found.set(name, each);
  }
  return found;
}

/** Sums as means, the gram with its lower half. @throws EngineError `shader` for NaN or Infinity; signal.reason */
export async function statisticsOf(name: string, { rows, absmax, sumAbs, histogram, gram }: InputSums, signal?: AbortSignal): Promise<InputStatistics> {
  const K = absmax.length;
  const column = absmax.findIndex((value, k) => !Number.isFinite(value) || (gram !== null && !Number.isFinite(gram[k * K + k])));
  if (column !== -1) throw new EngineError("shader", `The input of "${name}" is not finite in column ${column}: max |x| is ${absmax[column]}.`, { tensor: name, column });
  const pacer = new Pacer();
  for (let j = 0; gram && j < K; j++) {
    for (let k = j; k < K; k++) gram[k * K + j] = gram[j * K + k]! /= rows;
    if (pacer.isDue()) await pacer.rest(signal);
  }
  return { rows, absmax, meanAbs: Float32Array.from(sumAbs, (sum) => sum / rows), histogram, gram };
}
