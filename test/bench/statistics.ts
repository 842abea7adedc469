/** The middle of the sorted values; of an even number, the mean of the two in the middle. NaN of none. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const upper = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[upper]! : (sorted[upper - 1]! + sorted[upper]!) / 2;
}

/**
 * a[i] / b[i], round by round: values of one round were measured one after the other, so what disturbed one mostly disturbed the other.
 * Rounds that only one of them has are left out.
 */
export function quotients(a: readonly number[], b: readonly number[]): number[] {
  return Array.from({ length: Math.min(a.length, b.length) }, (_, i) => a[i]! / b[i]!);
}
