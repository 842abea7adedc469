import { show } from "../errors.ts";

/** How far restored weights are from the original ones, all sums in f64. */
export interface QuantizationError {
  /** mean (w − w')² */
  mse: number;
  /** max |w − w'| */
  maxAbs: number;
  /** 10 · log10(Σw² / Σ(w − w')²), decibels; Infinity where nothing was lost. */
  sqnrDb: number;
  /** Σ w·w' / √(Σw² · Σw'²); 1 where both are all zero, 0 where one is. */
  cosine: number;
}

/**
 * Compares restored weights with the original ones.
 * @param original f32 [n], n ≥ 1
 * @param restored f32 [n]
 * @throws TypeError for what is no Float32Array; RangeError where the lengths differ or are 0
 */
export function quantizationError(original: Float32Array, restored: Float32Array): QuantizationError {
  for (const [name, values] of Object.entries({ original, restored })) if (!(values instanceof Float32Array)) throw new TypeError(`${name} is ${show(values)}; expected a Float32Array.`);
  if (original.length !== restored.length) throw new RangeError(`restored has ${restored.length} values; expected ${original.length} as original has.`);
  if (original.length === 0) throw new RangeError("original has 0 values; expected at least one.");
  const tally = new ErrorTally();
  tally.add(original, restored);
  return tally.result();
}

/** quantizationError() of values that come in several pieces. */
export class ErrorTally {
  private count = 0;
  private errorSquares = 0;
  private maxAbs = 0;
  private squares = 0;
  private restoredSquares = 0;
  private products = 0;

  /** Both of one length. */
  add(original: Float32Array, restored: Float32Array): void {
    let { errorSquares, maxAbs, squares, restoredSquares, products } = this;
    for (let i = 0; i < original.length; i++) {
      const w = original[i]!;
      const r = restored[i]!;
      const error = w - r;
      errorSquares += error * error;
      maxAbs = Math.max(maxAbs, Math.abs(error)); // not a comparison: NaN must show
      squares += w * w;
      restoredSquares += r * r;
      products += w * r;
    }
    Object.assign(this, { errorSquares, maxAbs, squares, restoredSquares, products });
    this.count += original.length;
  }

  result(): QuantizationError {
    const { count, errorSquares, maxAbs, squares, restoredSquares, products } = this;
    const sqnrDb = errorSquares === 0 ? Infinity : 10 * Math.log10(squares / errorSquares);
    const norm = Math.sqrt(squares * restoredSquares);
    const cosine = norm === 0 ? (squares === restoredSquares ? 1 : 0) : products / norm;
    return { mse: errorSquares / count, maxAbs, sqnrDb, cosine };
  }
}
