/** A matrix within a larger array: element (i, j) is values[start + i · stride + j]. */
export interface Block {
  values: Float64Array;
  start: number;
  stride: number;
}

/** Columns of a and b that are multiplied before the next rows: some dozens of rows of them stay in the cache. */
const INNER = 256;
/** Rows of one panel of the factorization. */
const PANEL = 64;
/** Rows between two pauses: a millisecond of work. */
const STRIP = 16;

/** c −= a · bᵀ, f64; c [m, n], a [m, k], b [n, k]; c overlaps neither a nor b. */
export function subtractProducts(c: Block, a: Block, b: Block, m: number, n: number, k: number): void {
  for (let k0 = 0; k0 < k; k0 += INNER) {
    const inner = Math.min(INNER, k - k0);
    let i = 0;
    for (; i + 2 <= m; i += 2) {
      let j = 0;
      for (; j + 4 <= n; j += 4) subtractTile(c.values, c.start + i * c.stride + j, c.stride, a.values, a.start + i * a.stride + k0, a.stride, b.values, b.start + j * b.stride + k0, b.stride, inner);
      for (; j < n; j++) for (let row = i; row < i + 2; row++) subtractOne(c, a, b, row, j, k0, inner);
    }
    for (; i < m; i++) for (let j = 0; j < n; j++) subtractOne(c, a, b, i, j, k0, inner);
  }
}

function subtractOne(c: Block, a: Block, b: Block, i: number, j: number, k0: number, inner: number): void {
  c.values[c.start + i * c.stride + j]! -= dot(a.values, a.start + i * a.stride + k0, b.values, b.start + j * b.stride + k0, inner);
}

/** Two rows of a with four of b: eight sums in registers, six reads for eight products. */
function subtractTile(c: Float64Array, c0: number, cStride: number, a: Float64Array, a0: number, aStride: number, b: Float64Array, b0: number, bStride: number, inner: number): void {
  const a1 = a0 + aStride;
  const b1 = b0 + bStride;
  const b2 = b1 + bStride;
  const b3 = b2 + bStride;
  let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0; // prettier-ignore
  for (let k = 0; k < inner; k++) {
    const x0 = a[a0 + k]!;
    const x1 = a[a1 + k]!;
    const y0 = b[b0 + k]!;
    const y1 = b[b1 + k]!;
    const y2 = b[b2 + k]!;
    const y3 = b[b3 + k]!;
    s00 += x0 * y0;
    s01 += x0 * y1;
    s02 += x0 * y2;
    s03 += x0 * y3;
    s10 += x1 * y0;
    s11 += x1 * y1;
    s12 += x1 * y2;
    s13 += x1 * y3;
  }
  const c1 = c0 + cStride;
  c[c0]! -= s00;
  c[c0 + 1]! -= s01;
  c[c0 + 2]! -= s02;
  c[c0 + 3]! -= s03;
  c[c1]! -= s10;
  c[c1 + 1]! -= s11;
  c[c1 + 2]! -= s12;
  c[c1 + 3]! -= s13;
}

/** Σ a[aStart + k] · b[bStart + k] for k < length, in four interleaved sums: one alone would wait for each addition. */
export function dot(a: Float64Array, aStart: number, b: Float64Array, bStart: number, length: number): number {
  let sum0 = 0;
  let sum1 = 0;
  let sum2 = 0;
  let sum3 = 0;
  let k = 0;
  for (; k + 4 <= length; k += 4) {
    sum0 += a[aStart + k]! * b[bStart + k]!;
    sum1 += a[aStart + k + 1]! * b[bStart + k + 1]!;
    sum2 += a[aStart + k + 2]! * b[bStart + k + 2]!;
    sum3 += a[aStart + k + 3]! * b[bStart + k + 3]!;
  }
  for (; k < length; k++) sum0 += a[aStart + k]! * b[bStart + k]!;
  return sum0 + sum1 + (sum2 + sum3);
}

/**
 * H = R · Rᵀ, R upper triangular: Cholesky's factorization from the last row upwards.
 * @param h f64 [K, K], symmetric, of which only the upper triangle is read; its upper triangle becomes R
 * @returns false where H is not positive definite; h is lost then
 */
export async function factorUpper(h: Float64Array, K: number, pause: () => Promise<void>): Promise<boolean> {
  const block = (row: number, column: number): Block => ({ values: h, start: row * K + column, stride: K });
  for (let j1 = K; j1 > 0; j1 -= PANEL) {
    const j0 = Math.max(0, j1 - PANEL);
    for (let i1 = j1; i1 > 0; i1 -= STRIP) {
      const i0 = Math.max(0, i1 - STRIP);
      subtractProducts(block(i0, j0), block(i0, j1), block(j0, j1), i1 - i0, j1 - j0, K - j1);
      for (let i = i1 - 1; i >= i0; i--) {
        for (let j = j1 - 1; j >= Math.max(j0, i + 1); j--) {
          h[i * K + j] = (h[i * K + j]! - dot(h, i * K + j + 1, h, j * K + j + 1, j1 - j - 1)) / h[j * K + j]!;
        }
        if (i < j0) continue;
        const pivot = h[i * K + i]! - dot(h, i * K + i + 1, h, i * K + i + 1, j1 - i - 1);
        if (!(pivot > 0 && pivot < Infinity)) return false;
        h[i * K + i] = Math.sqrt(pivot);
      }
      await pause();
    }
  }
  return true;
}
