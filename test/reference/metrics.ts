/** Σ (actual − expected)² / Σ expected²; 0 where both are all zeros. */
export function nmse(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  requireSameLength(actual, expected);
  let error = 0;
  let power = 0;
  for (let i = 0; i < expected.length; i++) {
    error += (actual[i]! - expected[i]!) ** 2;
    power += expected[i]! ** 2;
  }
  return error === 0 ? 0 : error / power;
}

/** max |actual − expected|; NaN if any difference is. */
export function maxAbsError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  requireSameLength(actual, expected);
  let max = 0;
  for (let i = 0; i < expected.length; i++) max = Math.max(max, Math.abs(actual[i]! - expected[i]!));
  return max;
}

function requireSameLength(actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  if (actual.length !== expected.length) throw new RangeError(`Got ${actual.length} values; expected ${expected.length}.`);
}
