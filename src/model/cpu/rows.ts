import type { Rows } from "./kernels.ts";

/**
 * y[t, o] = Σ_k x[t, k] · w[o, k] for k < K.
 * Each sum runs in f64 in the order of k, so no result depends on how rows were grouped into calls.
 */
export function multiplyRows(x: Rows, w: Rows, K: number, y: Rows): void {
  if (x.count === 1) multiplyOneRow(x.values, x.start, w, K, y.values, y.start);
  else multiplyTiles(x, w, K, y);
}

/** Four sums at a time hide the latency of the additions. An index beyond the last row is clamped to it: computed twice, stored twice, no tail to write. */
function multiplyOneRow(x: Float32Array, xStart: number, w: Rows, K: number, y: Float32Array, yStart: number): void {
  const { values, start, stride } = w;
  const last = w.count - 1;
  const evenK = K & ~1;
  for (let o = 0; o <= last; o += 4) {
    const o1 = Math.min(o + 1, last);
    const o2 = Math.min(o + 2, last);
    const o3 = Math.min(o + 3, last);
    let i0 = start + o * stride;
    let i1 = start + o1 * stride;
    let i2 = start + o2 * stride;
    let i3 = start + o3 * stride;
    let sum0 = 0;
    let sum1 = 0;
    let sum2 = 0;
    let sum3 = 0;
    for (let k = 0; k < evenK; k += 2) {
      const a = x[xStart + k]!;
      const b = x[xStart + k + 1]!;
      sum0 += values[i0]! * a;
      sum1 += values[i1]! * a;
      sum2 += values[i2]! * a;
      sum3 += values[i3]! * a;
      sum0 += values[i0 + 1]! * b;
      sum1 += values[i1 + 1]! * b;
      sum2 += values[i2 + 1]! * b;
      sum3 += values[i3 + 1]! * b;
      i0 += 2;
      i1 += 2;
      i2 += 2;
      i3 += 2;
    }
    if (evenK < K) {
      const a = x[xStart + evenK]!;
      sum0 += values[i0]! * a;
      sum1 += values[i1]! * a;
      sum2 += values[i2]! * a;
      sum3 += values[i3]! * a;
    }
    y[yStart + o] = sum0;
    y[yStart + o1] = sum1;
    y[yStart + o2] = sum2;
    y[yStart + o3] = sum3;
  }
}

/** Tiles of 4 × 3 sums: 7 loads for 12 products, and all of it fits in 16 registers (measured: 3.0 G products/s against 2.4 for 4 × 2 and 2.6 for 4 × 4). */
function multiplyTiles(x: Rows, w: Rows, K: number, y: Rows): void {
  const xv = x.values;
  const wv = w.values;
  const yv = y.values;
  const lastT = x.count - 1;
  const lastO = w.count - 1;
  for (let t = 0; t <= lastT; t += 4) {
    const t1 = Math.min(t + 1, lastT);
    const t2 = Math.min(t + 2, lastT);
    const t3 = Math.min(t + 3, lastT);
    const x0 = x.start + t * x.stride;
    const x1 = x.start + t1 * x.stride;
    const x2 = x.start + t2 * x.stride;
    const x3 = x.start + t3 * x.stride;
    const y0 = y.start + t * y.stride;
    const y1 = y.start + t1 * y.stride;
    const y2 = y.start + t2 * y.stride;
    const y3 = y.start + t3 * y.stride;
    for (let o = 0; o <= lastO; o += 3) {
      const o1 = Math.min(o + 1, lastO);
      const o2 = Math.min(o + 2, lastO);
      const w0 = w.start + o * w.stride;
      const w1 = w.start + o1 * w.stride;
      const w2 = w.start + o2 * w.stride;
      let s00 = 0, s01 = 0, s02 = 0;
      let s10 = 0, s11 = 0, s12 = 0;
      let s20 = 0, s21 = 0, s22 = 0;
      let s30 = 0, s31 = 0, s32 = 0;
      for (let k = 0; k < K; k++) {
        const a = wv[w0 + k]!;
        const b = wv[w1 + k]!;
        const c = wv[w2 + k]!;
        let v = xv[x0 + k]!;
        s00 += v * a;
        s01 += v * b;
        s02 += v * c;
        v = xv[x1 + k]!;
        s10 += v * a;
        s11 += v * b;
        s12 += v * c;
        v = xv[x2 + k]!;
        s20 += v * a;
        s21 += v * b;
        s22 += v * c;
        v = xv[x3 + k]!;
        s30 += v * a;
        s31 += v * b;
        s32 += v * c;
      }
      yv[y0 + o] = s00;
      yv[y0 + o1] = s01;
      yv[y0 + o2] = s02;
      yv[y1 + o] = s10;
      yv[y1 + o1] = s11;
      yv[y1 + o2] = s12;
      yv[y2 + o] = s20;
      yv[y2 + o1] = s21;
      yv[y2 + o2] = s22;
      yv[y3 + o] = s30;
      yv[y3 + o1] = s31;
      yv[y3 + o2] = s32;
    }
  }
}
