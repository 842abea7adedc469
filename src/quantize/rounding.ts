/** Adding it leaves no bits after the binary point of an f64, so the sum itself rounds half to even. */
const ROUNDER = 1.5 * 2 ** 52;

/** Nearest integer, half to even, for |x| < 2^51. */
export function roundHalfEven(x: number): number {
  return x + ROUNDER - ROUNDER;
}
