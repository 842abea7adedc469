// The inner loops of the CPU backend in WebAssembly SIMD, written in AssemblyScript and compiled by vite.config.ts.
//
// Parameters are byte addresses (x, w, y, …), byte strides between rows, and counts. Rows of x are padded with zeros to 32 values, so the loops
// have no tails along K: what they read of w behind a row's end is finite and multiplied by zero. Scales are f32 and zero points int8, one per
// group of a row, `scaleStep` and `zeroPointStep` bytes from row to row (0: one for the matrix); zeroPoints is 0 where there are none.
// Sums run in four f32 lanes that are added at the end in one order, so no result depends on how rows were grouped into calls.

// ---------------------------------------------------------------- pieces

// @ts-ignore: decorator
@inline function sumLanes(v: v128): f32 {
  return f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1) + (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3));
}

// @ts-ignore: decorator
@inline function sumIntegerLanes(v: v128): i32 {
  return i32x4.extract_lane(v, 0) + i32x4.extract_lane(v, 1) + i32x4.extract_lane(v, 2) + i32x4.extract_lane(v, 3);
}

// @ts-ignore: decorator
@inline function addProduct(sum: v128, a: v128, b: v128): v128 {
  return f32x4.add(sum, f32x4.mul(a, b));
}

/** sum + the products of eight int16, pairs already added. */
// @ts-ignore: decorator
@inline function addDot(sum: v128, a: v128, b: v128): v128 {
  return i32x4.add(sum, i32x4.dot_i16x8_s(a, b));
}

// @ts-ignore: decorator
@inline function zeroPointAt(zeroPoints: usize, at: usize): i32 {
  return zeroPoints == 0 ? 0 : load<i8>(zeroPoints + at);
}

/** Eight int8 codes minus their zero point, as int16. */
// @ts-ignore: decorator
@inline function loadCodes(address: usize, zeroPoint: v128): v128 {
  return i16x8.sub(v128.load8x8_s(address), zeroPoint);
}

// @ts-ignore: decorator
@inline function lowFloats(codes: v128): v128 {
  return f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(codes));
}

// @ts-ignore: decorator
@inline function highFloats(codes: v128): v128 {
  return f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(codes));
}

/** Four f16, one per i32 lane, as f32: the bits moved into place are the value divided by 2^112, subnormals included. */
// @ts-ignore: decorator
@inline function floatsOfHalves(bits: v128): v128 {
  const magnitude = i32x4.shl(v128.and(bits, i32x4.splat(0x7fff)), 13);
  const sign = i32x4.shl(v128.and(bits, i32x4.splat(0x8000)), 16);
  return v128.or(f32x4.mul(magnitude, f32x4.splat(reinterpret<f32>(0x77800000))), sign);
}

/**
 * exp(x) within 2 ulp for −87 ≤ x ≤ 88 and clamped to that: 2^n · e^r with n = round(x / ln 2) and a polynomial on |r| ≤ ln 2 / 2.
 * Coefficients: Cephes expf, S. Moshier.
 */
// @ts-ignore: decorator
@inline function exp(x: v128): v128 {
  const clamped = f32x4.min(f32x4.max(x, f32x4.splat(-87)), f32x4.splat(88));
  const n = f32x4.nearest(f32x4.mul(clamped, f32x4.splat(1.44269504)));
  // ln 2 in two parts, the first with so few bits that its product with n is exact
  const r = f32x4.sub(f32x4.sub(clamped, f32x4.mul(n, f32x4.splat(0.693359375))), f32x4.mul(n, f32x4.splat(-2.12194440e-4)));
  let p = f32x4.splat(1.9875691500e-4);
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.3981999507e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(8.3334519073e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(4.1665795894e-2));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.6666665459e-1));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(5.0000001201e-1));
  p = f32x4.add(f32x4.add(f32x4.mul(p, f32x4.mul(r, r)), r), f32x4.splat(1));
  const power = i32x4.shl(i32x4.add(i32x4.trunc_sat_f32x4_s(n), i32x4.splat(127)), 23); // 2^n by its exponent bits
  return f32x4.mul(p, power);
}

// ---------------------------------------------------------------- f32 · f32

/** y[t, o] = Σ_k x[t, k] · w[o, k]; K a multiple of 4. Tiles of 4 × 2 sums, which with their operands fit in 15 registers. */
export function multiplyFloats(x: usize, xStride: usize, T: usize, w: usize, wStride: usize, O: usize, K: usize, y: usize, yStride: usize): void {
  const rowBytes = K * 4;
  let t: usize = 0;
  for (; t + 4 <= T; t += 4) {
    const x0 = x + t * xStride;
    const x1 = x0 + xStride;
    const x2 = x1 + xStride;
    const x3 = x2 + xStride;
    let at = y + t * yStride;
    let o: usize = 0;
    for (; o + 2 <= O; o += 2, at += 8) {
      const w0 = w + o * wStride;
      const w1 = w0 + wStride;
      let s00 = f32x4.splat(0), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00, s30 = s00, s31 = s00;
      for (let k: usize = 0; k < rowBytes; k += 16) {
        const a = v128.load(w0 + k);
        const b = v128.load(w1 + k);
        let v = v128.load(x0 + k);
        s00 = addProduct(s00, v, a);
        s01 = addProduct(s01, v, b);
        v = v128.load(x1 + k);
        s10 = addProduct(s10, v, a);
        s11 = addProduct(s11, v, b);
        v = v128.load(x2 + k);
        s20 = addProduct(s20, v, a);
        s21 = addProduct(s21, v, b);
        v = v128.load(x3 + k);
        s30 = addProduct(s30, v, a);
        s31 = addProduct(s31, v, b);
      }
      storeTwo(at, s00, s01);
      storeTwo(at + yStride, s10, s11);
      storeTwo(at + 2 * yStride, s20, s21);
      storeTwo(at + 3 * yStride, s30, s31);
    }
    if (o < O) for (let i: usize = 0; i < 4; i++) multiplyOneRow(x0 + i * xStride, w + o * wStride, wStride, 1, rowBytes, at + i * yStride);
  }
  for (; t < T; t++) multiplyOneRow(x + t * xStride, w, wStride, O, rowBytes, y + t * yStride);
}

// @ts-ignore: decorator
@inline function storeTwo(y: usize, a: v128, b: v128): void {
  store<f32>(y, sumLanes(a));
  store<f32>(y, sumLanes(b), 4);
}

function multiplyOneRow(x: usize, w: usize, wStride: usize, O: usize, rowBytes: usize, y: usize): void {
  let o: usize = 0;
  for (; o + 4 <= O; o += 4, w += 4 * wStride, y += 16) {
    const w1 = w + wStride;
    const w2 = w1 + wStride;
    const w3 = w2 + wStride;
    let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0;
    for (let k: usize = 0; k < rowBytes; k += 16) {
      const v = v128.load(x + k);
      s0 = addProduct(s0, v, v128.load(w + k));
      s1 = addProduct(s1, v, v128.load(w1 + k));
      s2 = addProduct(s2, v, v128.load(w2 + k));
      s3 = addProduct(s3, v, v128.load(w3 + k));
    }
    storeTwo(y, s0, s1);
    storeTwo(y + 8, s2, s3);
  }
  for (; o < O; o++, w += wStride, y += 4) {
    let sum = f32x4.splat(0);
    for (let k: usize = 0; k < rowBytes; k += 16) sum = addProduct(sum, v128.load(x + k), v128.load(w + k));
    store<f32>(y, sumLanes(sum));
  }
}

// ---------------------------------------------------------------- int8

/** y[o] = Σ_groups scale · Σ_k (w[o, k] − zeroPoint) · x[k]; x: f32, w: int8. */
export function multiplyInt8(x: usize, w: usize, wStride: usize, O: usize, K: usize, groupLength: usize, scales: usize, scaleStep: usize, zeroPoints: usize, zeroPointStep: usize, y: usize): void {
  for (let o: usize = 0; o < O; o++) {
    let total = f32x4.splat(0);
    for (let k: usize = 0, g: usize = 0; k < K; g++) {
      const zeroPoint = i16x8.splat(<i16>zeroPointAt(zeroPoints, g));
      let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0;
      for (const end = min(k + groupLength, K); k < end; k += 16) {
        const at = x + 4 * k;
        const low = loadCodes(w + k, zeroPoint);
        const high = loadCodes(w + k + 8, zeroPoint);
        s0 = addProduct(s0, lowFloats(low), v128.load(at));
        s1 = addProduct(s1, highFloats(low), v128.load(at, 16));
        s2 = addProduct(s2, lowFloats(high), v128.load(at, 32));
        s3 = addProduct(s3, highFloats(high), v128.load(at, 48));
      }
      total = addProduct(total, f32x4.add(f32x4.add(s0, s1), f32x4.add(s2, s3)), f32x4.splat(load<f32>(scales + 4 * g)));
    }
    store<f32>(y + 4 * o, sumLanes(total));
    w += wStride;
    scales += scaleStep;
    zeroPoints += zeroPointStep;
  }
}

/** restored[o, k] = (w[o, k] − zeroPoint) · scale, f32. */
export function restoreInt8(w: usize, wStride: usize, O: usize, K: usize, groupLength: usize, scales: usize, scaleStep: usize, zeroPoints: usize, zeroPointStep: usize, restored: usize, restoredStride: usize): void {
  for (let o: usize = 0; o < O; o++) {
    for (let k: usize = 0, g: usize = 0; k < K; g++) {
      const zeroPoint = i16x8.splat(<i16>zeroPointAt(zeroPoints, g));
      const scale = f32x4.splat(load<f32>(scales + 4 * g));
      for (const end = min(k + groupLength, K); k < end; k += 8) {
        const codes = loadCodes(w + k, zeroPoint);
        v128.store(restored + 4 * k, f32x4.mul(lowFloats(codes), scale));
        v128.store(restored + 4 * k, f32x4.mul(highFloats(codes), scale), 16);
      }
    }
    w += wStride;
    scales += scaleStep;
    zeroPoints += zeroPointStep;
    restored += restoredStride;
  }
}

// ---------------------------------------------------------------- int8 · int8: exact integer sums (the arithmetic is in ../input.ts)

/** The row's largest magnitude, f32 [K]; K a multiple of 8. */
export function largestMagnitude(x: usize, K: usize): f32 {
  let largest = f32x4.splat(0);
  for (let k: usize = 0; k < K; k += 4) largest = f32x4.max(largest, f32x4.abs(v128.load(x + 4 * k)));
  return max(max(f32x4.extract_lane(largest, 0), f32x4.extract_lane(largest, 1)), max(f32x4.extract_lane(largest, 2), f32x4.extract_lane(largest, 3)));
}

/** x[k] becomes clamp(round(x[k] · inverse), −127, 127), half to even, and codes[k] the same as int16; K a multiple of 8. */
export function quantize(x: usize, K: usize, inverse: f32, codes: usize): void {
  for (let k: usize = 0; k < K; k += 8) {
    const low = roundToCode(v128.load(x + 4 * k), inverse);
    const high = roundToCode(v128.load(x + 4 * k, 16), inverse);
    v128.store(x + 4 * k, low);
    v128.store(x + 4 * k, high, 16);
    v128.store(codes + 2 * k, i16x8.narrow_i32x4_s(i32x4.trunc_sat_f32x4_s(low), i32x4.trunc_sat_f32x4_s(high)));
  }
}

// @ts-ignore: decorator
@inline function roundToCode(x: v128, inverse: f32): v128 {
  const rounded = f32x4.nearest(f32x4.mul(x, f32x4.splat(inverse)));
  return f32x4.min(f32x4.max(rounded, f32x4.splat(-127)), f32x4.splat(127));
}

/** y[o] = Σ_groups (Σ_k (w[o, k] − zeroPoint) · x[k]) · xScale · scale; x: int16, w: int8. */
export function multiplyInt8Codes(x: usize, xScale: f32, w: usize, wStride: usize, O: usize, K: usize, groupLength: usize, scales: usize, scaleStep: usize, zeroPoints: usize, zeroPointStep: usize, y: usize): void {
  for (let o: usize = 0; o < O; o++) {
    let total: f32 = 0;
    for (let k: usize = 0, g: usize = 0; k < K; g++) {
      const zeroPoint = i16x8.splat(<i16>zeroPointAt(zeroPoints, g));
      let s0 = i32x4.splat(0), s1 = s0;
      for (const end = min(k + groupLength, K); k < end; k += 16) {
        s0 = addDot(s0, loadCodes(w + k, zeroPoint), v128.load(x + 2 * k));
        s1 = addDot(s1, loadCodes(w + k + 8, zeroPoint), v128.load(x + 2 * k, 16));
      }
      total += <f32>sumIntegerLanes(i32x4.add(s0, s1)) * xScale * load<f32>(scales + 4 * g);
    }
    store<f32>(y + 4 * o, total);
    w += wStride;
    scales += scaleStep;
    zeroPoints += zeroPointStep;
  }
}

/** widened[o, k] = w[o, k] − zeroPoint, int16. */
export function widenInt8(w: usize, wStride: usize, O: usize, K: usize, groupLength: usize, zeroPoints: usize, zeroPointStep: usize, widened: usize, widenedStride: usize): void {
  for (let o: usize = 0; o < O; o++) {
    for (let k: usize = 0, g: usize = 0; k < K; g++) {
      const zeroPoint = i16x8.splat(<i16>zeroPointAt(zeroPoints, g));
      for (const end = min(k + groupLength, K); k < end; k += 8) v128.store(widened + 2 * k, loadCodes(w + k, zeroPoint));
    }
    w += wStride;
    zeroPoints += zeroPointStep;
    widened += widenedStride;
  }
}

/** y[t, o] = Σ_groups (Σ_k w[o, k] · x[t, k]) · xScales[t] · scale; x, w: int16. */
export function multiplyCodes(x: usize, xStride: usize, xScales: usize, T: usize, w: usize, wStride: usize, O: usize, K: usize, groupLength: usize, scales: usize, scaleStep: usize, y: usize, yStride: usize): void {
  multiplyCodeTiles<i16>(x, xStride, xScales, T, w, wStride, O, K, groupLength, scales, scaleStep, y, yStride);
}

/** The same for w in int8 without zero points, as it is stored. */
export function multiplyStoredCodes(x: usize, xStride: usize, xScales: usize, T: usize, w: usize, wStride: usize, O: usize, K: usize, groupLength: usize, scales: usize, scaleStep: usize, y: usize, yStride: usize): void {
  multiplyCodeTiles<i8>(x, xStride, xScales, T, w, wStride, O, K, groupLength, scales, scaleStep, y, yStride);
}

/** Eight codes from column k of a row of int8 or int16, as int16. */
// @ts-ignore: decorator
@inline function eightCodes<W>(row: usize, k: usize): v128 {
  return sizeof<W>() == 1 ? v128.load8x8_s(row + k) : v128.load(row + 2 * k);
}

/** Tiles of 4 × 2 sums. W: i8 or i16. */
function multiplyCodeTiles<W>(x: usize, xStride: usize, xScales: usize, T: usize, w: usize, wStride: usize, O: usize, K: usize, groupLength: usize, scales: usize, scaleStep: usize, y: usize, yStride: usize): void {
  let t: usize = 0;
  for (; t + 4 <= T; t += 4) {
    const x0 = x + t * xStride;
    const x1 = x0 + xStride;
    const x2 = x1 + xStride;
    const x3 = x2 + xStride;
    const scale0 = load<f32>(xScales + 4 * t);
    const scale1 = load<f32>(xScales + 4 * t, 4);
    const scale2 = load<f32>(xScales + 4 * t, 8);
    const scale3 = load<f32>(xScales + 4 * t, 12);
    let o: usize = 0;
    for (; o + 2 <= O; o += 2) {
      const w0 = w + o * wStride;
      const w1 = w0 + wStride;
      let y00: f32 = 0, y01: f32 = 0, y10: f32 = 0, y11: f32 = 0, y20: f32 = 0, y21: f32 = 0, y30: f32 = 0, y31: f32 = 0;
      for (let k: usize = 0, g: usize = 0; k < K; g++) {
        let s00 = i32x4.splat(0), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00, s30 = s00, s31 = s00;
        for (const end = min(k + groupLength, K); k < end; k += 8) {
          const a = eightCodes<W>(w0, k);
          const b = eightCodes<W>(w1, k);
          let v = v128.load(x0 + 2 * k);
          s00 = addDot(s00, v, a);
          s01 = addDot(s01, v, b);
          v = v128.load(x1 + 2 * k);
          s10 = addDot(s10, v, a);
          s11 = addDot(s11, v, b);
          v = v128.load(x2 + 2 * k);
          s20 = addDot(s20, v, a);
          s21 = addDot(s21, v, b);
          v = v128.load(x3 + 2 * k);
          s30 = addDot(s30, v, a);
          s31 = addDot(s31, v, b);
        }
        const a = load<f32>(scales + o * scaleStep + 4 * g);
        const b = load<f32>(scales + (o + 1) * scaleStep + 4 * g);
        y00 += <f32>sumIntegerLanes(s00) * scale0 * a;
        y01 += <f32>sumIntegerLanes(s01) * scale0 * b;
        y10 += <f32>sumIntegerLanes(s10) * scale1 * a;
        y11 += <f32>sumIntegerLanes(s11) * scale1 * b;
        y20 += <f32>sumIntegerLanes(s20) * scale2 * a;
        y21 += <f32>sumIntegerLanes(s21) * scale2 * b;
        y30 += <f32>sumIntegerLanes(s30) * scale3 * a;
        y31 += <f32>sumIntegerLanes(s31) * scale3 * b;
      }
      const at = y + t * yStride + 4 * o;
      store<f32>(at, y00);
      store<f32>(at, y01, 4);
      store<f32>(at + yStride, y10);
      store<f32>(at + yStride, y11, 4);
      store<f32>(at + 2 * yStride, y20);
      store<f32>(at + 2 * yStride, y21, 4);
      store<f32>(at + 3 * yStride, y30);
      store<f32>(at + 3 * yStride, y31, 4);
    }
    if (o < O) for (let i: usize = t; i < t + 4; i++) multiplyCodesOnce<W>(x + i * xStride, load<f32>(xScales + 4 * i), w + o * wStride, K, groupLength, scales + o * scaleStep, y + i * yStride + 4 * o);
  }
  for (; t < T; t++) {
    for (let o: usize = 0; o < O; o++) multiplyCodesOnce<W>(x + t * xStride, load<f32>(xScales + 4 * t), w + o * wStride, K, groupLength, scales + o * scaleStep, y + t * yStride + 4 * o);
  }
}

function multiplyCodesOnce<W>(x: usize, xScale: f32, w: usize, K: usize, groupLength: usize, scales: usize, y: usize): void {
  let total: f32 = 0;
  for (let k: usize = 0, g: usize = 0; k < K; g++) {
    let sum = i32x4.splat(0);
    for (const end = min(k + groupLength, K); k < end; k += 8) sum = addDot(sum, v128.load(x + 2 * k), eightCodes<W>(w, k));
    total += <f32>sumIntegerLanes(sum) * xScale * load<f32>(scales + 4 * g);
  }
  store<f32>(y, total);
}

// ---------------------------------------------------------------- 4 bits

/** The lower and the upper halves of sixteen bytes in turn: codes k … k + 15. */
// @ts-ignore: decorator
@inline function firstNibbles(bytes: v128): v128 {
  return i8x16.shuffle(v128.and(bytes, i8x16.splat(15)), i8x16.shr_u(bytes, 4), 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}

/** Codes k + 16 … k + 31. */
// @ts-ignore: decorator
@inline function lastNibbles(bytes: v128): v128 {
  return i8x16.shuffle(v128.and(bytes, i8x16.splat(15)), i8x16.shr_u(bytes, 4), 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// @ts-ignore: decorator
@inline function zipLowBytes(a: v128, b: v128): v128 {
  return i8x16.shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}

// @ts-ignore: decorator
@inline function zipHighBytes(a: v128, b: v128): v128 {
  return i8x16.shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// @ts-ignore: decorator
@inline function zipLowPairs(a: v128, b: v128): v128 {
  return i8x16.shuffle(a, b, 0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23);
}

// @ts-ignore: decorator
@inline function zipHighPairs(a: v128, b: v128): v128 {
  return i8x16.shuffle(a, b, 8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31);
}

/**
 * y[o] = Σ_groups scale · Σ_k (table[w[o, k]] − zeroPoint) · x[k]; x: f32; w: 4-bit, the lower half of a byte first.
 * table: the 16 values as four planes of bytes, least significant first, so that four byte look-ups give sixteen f32.
 */
export function multiplyNibbles(x: usize, w: usize, wStride: usize, O: usize, K: usize, table: usize, groupLength: usize, scales: usize, scaleStep: usize, zeroPoints: usize, zeroPointStep: usize, y: usize): void {
  const plane0 = v128.load(table);
  const plane1 = v128.load(table, 16);
  const plane2 = v128.load(table, 32);
  const plane3 = v128.load(table, 48);
  for (let o: usize = 0; o < O; o++) {
    let total = f32x4.splat(0);
    for (let k: usize = 0, g: usize = 0; k < K; g++) {
      const zeroPoint = f32x4.splat(<f32>zeroPointAt(zeroPoints, g));
      let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0;
      for (const end = min(k + groupLength, K); k < end; k += 32) {
        const bytes = v128.load(w + (k >> 1));
        let codes = firstNibbles(bytes);
        for (let half: usize = 0; half < 2; half++) {
          const at = x + 4 * k + 64 * half;
          const b0 = i8x16.swizzle(plane0, codes);
          const b1 = i8x16.swizzle(plane1, codes);
          const b2 = i8x16.swizzle(plane2, codes);
          const b3 = i8x16.swizzle(plane3, codes);
          const lowerLow = zipLowBytes(b0, b1);
          const lowerHigh = zipLowBytes(b2, b3);
          const upperLow = zipHighBytes(b0, b1);
          const upperHigh = zipHighBytes(b2, b3);
          s0 = addProduct(s0, f32x4.sub(zipLowPairs(lowerLow, lowerHigh), zeroPoint), v128.load(at));
          s1 = addProduct(s1, f32x4.sub(zipHighPairs(lowerLow, lowerHigh), zeroPoint), v128.load(at, 16));
          s2 = addProduct(s2, f32x4.sub(zipLowPairs(upperLow, upperHigh), zeroPoint), v128.load(at, 32));
          s3 = addProduct(s3, f32x4.sub(zipHighPairs(upperLow, upperHigh), zeroPoint), v128.load(at, 48));
          codes = lastNibbles(bytes);
        }
      }
      total = addProduct(total, f32x4.add(f32x4.add(s0, s1), f32x4.add(s2, s3)), f32x4.splat(load<f32>(scales + 4 * g)));
    }
    store<f32>(y + 4 * o, sumLanes(total));
    w += wStride;
    scales += scaleStep;
    zeroPoints += zeroPointStep;
  }
}

/** restored[o, k] = (table[w[o, k]] − zeroPoint) · scale, f32. */
export function restoreNibbles(w: usize, wStride: usize, O: usize, K: usize, table: usize, groupLength: usize, scales: usize, scaleStep: usize, zeroPoints: usize, zeroPointStep: usize, restored: usize, restoredStride: usize): void {
  const plane0 = v128.load(table);
  const plane1 = v128.load(table, 16);
  const plane2 = v128.load(table, 32);
  const plane3 = v128.load(table, 48);
  for (let o: usize = 0; o < O; o++) {
    for (let k: usize = 0, g: usize = 0; k < K; g++) {
      const zeroPoint = f32x4.splat(<f32>zeroPointAt(zeroPoints, g));
      const scale = f32x4.splat(load<f32>(scales + 4 * g));
      for (const end = min(k + groupLength, K); k < end; k += 32) {
        const bytes = v128.load(w + (k >> 1));
        let codes = firstNibbles(bytes);
        for (let half: usize = 0; half < 2; half++) {
          const at = restored + 4 * k + 64 * half;
          const b0 = i8x16.swizzle(plane0, codes);
          const b1 = i8x16.swizzle(plane1, codes);
          const b2 = i8x16.swizzle(plane2, codes);
          const b3 = i8x16.swizzle(plane3, codes);
          const lowerLow = zipLowBytes(b0, b1);
          const lowerHigh = zipLowBytes(b2, b3);
          const upperLow = zipHighBytes(b0, b1);
          const upperHigh = zipHighBytes(b2, b3);
          v128.store(at, f32x4.mul(f32x4.sub(zipLowPairs(lowerLow, lowerHigh), zeroPoint), scale));
          v128.store(at, f32x4.mul(f32x4.sub(zipHighPairs(lowerLow, lowerHigh), zeroPoint), scale), 16);
          v128.store(at, f32x4.mul(f32x4.sub(zipLowPairs(upperLow, upperHigh), zeroPoint), scale), 32);
          v128.store(at, f32x4.mul(f32x4.sub(zipHighPairs(upperLow, upperHigh), zeroPoint), scale), 48);
          codes = lastNibbles(bytes);
        }
      }
    }
    w += wStride;
    scales += scaleStep;
    zeroPoints += zeroPointStep;
    restored += restoredStride;
  }
}

/** scales[i] = map[codes[i]] · absmax[i / 256] + offset for first ≤ i < first + count: bitsandbytes' double quantization. */
export function restoreScales(codes: usize, absmax: usize, offset: f32, map: usize, first: usize, count: usize, scales: usize): void {
  for (let i = first; i < first + count; i++, scales += 4) store<f32>(scales, load<f32>(map + 4 * load<u8>(codes + i)) * load<f32>(absmax + ((i >> 8) << 2)) + offset);
}

// ---------------------------------------------------------------- f16

/** y[o] = Σ_k w[o, k] · x[k]; x: f32, w: f16. */
export function multiplyHalves(x: usize, w: usize, wStride: usize, O: usize, K: usize, y: usize): void {
  for (let o: usize = 0; o < O; o++, w += wStride, y += 4) {
    let s0 = f32x4.splat(0), s1 = s0;
    for (let k: usize = 0; k < K; k += 8) {
      const bits = v128.load(w + 2 * k);
      s0 = addProduct(s0, floatsOfHalves(i32x4.extend_low_i16x8_u(bits)), v128.load(x + 4 * k));
      s1 = addProduct(s1, floatsOfHalves(i32x4.extend_high_i16x8_u(bits)), v128.load(x + 4 * k, 16));
    }
    store<f32>(y, sumLanes(f32x4.add(s0, s1)));
  }
}

/** restored[o, k] = w[o, k], f16 as f32. Writes whole groups of four. */
export function restoreHalves(w: usize, wStride: usize, O: usize, K: usize, restored: usize, restoredStride: usize): void {
  for (let o: usize = 0; o < O; o++, w += wStride, restored += restoredStride) {
    for (let k: usize = 0; k < K; k += 4) v128.store(restored + 4 * k, floatsOfHalves(v128.load16x4_u(w + 2 * k)));
  }
}

/** halves[i] = x[i] as f16, rounded to nearest even and saturated at ±65504, for i < count; writes whole groups of eight. */
export function roundHalves(x: usize, count: usize, halves: usize): void {
  for (let i: usize = 0; i < count; i += 8) v128.store(halves + 2 * i, i16x8.narrow_i32x4_u(halvesOfFloats(v128.load(x + 4 * i)), halvesOfFloats(v128.load(x + 4 * i, 16))));
}

/** Four f32 as f16 bits, one per i32 lane. */
// @ts-ignore: decorator
@inline function halvesOfFloats(x: v128): v128 {
  const magnitude = f32x4.min(f32x4.abs(x), f32x4.splat(65504));
  const odd = v128.and(i32x4.shr_u(magnitude, 13), i32x4.splat(1)); // the last bit that stays: ties go to even
  const normal = i32x4.shr_u(i32x4.add(i32x4.sub(magnitude, i32x4.splat(0x38000000 - 0xfff)), odd), 13);
  const subnormal = i32x4.sub(f32x4.add(magnitude, f32x4.splat(0.5)), f32x4.splat(0.5)); // the step of f32 above 0.5 is 2^-24, f16's smallest
  const bits = v128.bitselect(subnormal, normal, f32x4.lt(magnitude, f32x4.splat(6.103515625e-5)));
  return v128.or(bits, v128.and(i32x4.shr_u(x, 16), i32x4.splat(0x8000)));
}

// ---------------------------------------------------------------- everything between the matrices

/** x[i] = x · (1 − 1 / (1 + exp(2u))), u = √(2/π) · (x + 0.044715 x³) clamped to ±9; count a multiple of 4. */
export function geluTanh(x: usize, count: usize): void {
  const one = f32x4.splat(1);
  for (const end = x + 4 * count; x < end; x += 16) {
    const v = v128.load(x);
    const u = f32x4.mul(f32x4.splat(0.7978845608), f32x4.add(v, f32x4.mul(f32x4.splat(0.044715), f32x4.mul(v, f32x4.mul(v, v)))));
    const power = exp(f32x4.mul(f32x4.splat(2), f32x4.min(f32x4.max(u, f32x4.splat(-9)), f32x4.splat(9))));
    v128.store(x, f32x4.mul(v, f32x4.sub(one, f32x4.div(one, f32x4.add(one, power)))));
  }
}

/** y[t, i] += bias[i] for i < count; y: f32 rows without gaps. */
export function addBias(y: usize, T: usize, bias: usize, count: usize): void {
  for (let t: usize = 0; t < T; t++, y += 4 * count) {
    let i: usize = 0;
    for (; i + 4 <= count; i += 4) v128.store(y + 4 * i, f32x4.add(v128.load(y + 4 * i), v128.load(bias + 4 * i)));
    for (; i < count; i++) store<f32>(y + 4 * i, load<f32>(y + 4 * i) + load<f32>(bias + 4 * i));
  }
}

/** y = (x − mean) / √(variance + epsilon) · weight + bias over each of T rows of C values, a multiple of 4, in two passes; y may be x. */
export function layerNorm(x: usize, T: usize, C: usize, weight: usize, bias: usize, epsilon: f32, y: usize): void {
  const rowBytes: usize = 4 * C;
  for (let t: usize = 0; t < T; t++, x += rowBytes, y += rowBytes) {
    let sums = f32x4.splat(0);
    for (let i: usize = 0; i < rowBytes; i += 16) sums = f32x4.add(sums, v128.load(x + i));
    const mean = f32x4.splat(sumLanes(sums) / <f32>C);
    let squares = f32x4.splat(0);
    for (let i: usize = 0; i < rowBytes; i += 16) {
      const centred = f32x4.sub(v128.load(x + i), mean);
      squares = addProduct(squares, centred, centred);
    }
    const inverse = f32x4.splat(1 / sqrt<f32>(sumLanes(squares) / <f32>C + epsilon));
    for (let i: usize = 0; i < rowBytes; i += 16) {
      const normed = f32x4.mul(f32x4.sub(v128.load(x + i), mean), inverse);
      v128.store(y + i, addProduct(v128.load(bias + i), normed, v128.load(weight + i)));
    }
  }
}

/** x = softmax(scale · x) over count values. */
export function softmax(x: usize, count: usize, scale: f32): void {
  const vectors = x + 4 * (count & ~3);
  const end = x + 4 * count;
  let largest = f32x4.splat(load<f32>(x));
  let i = x;
  for (; i < vectors; i += 16) largest = f32x4.max(largest, v128.load(i));
  for (; i < end; i += 4) largest = f32x4.max(largest, v128.load32_splat(i));
  const top = max(max(f32x4.extract_lane(largest, 0), f32x4.extract_lane(largest, 1)), max(f32x4.extract_lane(largest, 2), f32x4.extract_lane(largest, 3)));
  const shift = f32x4.splat(top);
  const factor = f32x4.splat(scale);
  let sums = f32x4.splat(0);
  for (i = x; i < vectors; i += 16) {
    const weight = exp(f32x4.mul(factor, f32x4.sub(v128.load(i), shift)));
    v128.store(i, weight);
    sums = f32x4.add(sums, weight);
  }
  let sum = sumLanes(sums);
  for (; i < end; i += 4) {
    const weight = f32x4.extract_lane(exp(f32x4.mul(factor, f32x4.sub(v128.load32_splat(i), shift))), 0);
    store<f32>(i, weight);
    sum += weight;
  }
  const inverse = f32x4.splat(1 / sum);
  for (i = x; i < vectors; i += 16) v128.store(i, f32x4.mul(v128.load(i), inverse));
  for (; i < end; i += 4) store<f32>(i, load<f32>(i) * (1 / sum));
}

/** Σ exp(x[i] − max) over count values; where `other` is not 0, also Σ exp(x[i] − max) · (x[i] − other[i]), written to `excess`. */
export function sumExp(x: usize, count: usize, max: f32, other: usize, excess: usize): f32 {
  const shift = f32x4.splat(max);
  let sums = f32x4.splat(0), excesses = sums;
  let i: usize = 0;
  for (; i + 4 <= count; i += 4) {
    const v = v128.load(x + 4 * i);
    const weight = exp(f32x4.sub(v, shift));
    sums = f32x4.add(sums, weight);
    if (other != 0) excesses = addProduct(excesses, weight, f32x4.sub(v, v128.load(other + 4 * i)));
  }
  let sum = sumLanes(sums);
  let excessSum = sumLanes(excesses);
  for (; i < count; i++) {
    const v = v128.load32_splat(x + 4 * i);
    const weight = exp(f32x4.sub(v, shift));
    sum += f32x4.extract_lane(weight, 0);
    if (other != 0) excessSum += f32x4.extract_lane(f32x4.mul(weight, f32x4.sub(v, v128.load32_splat(other + 4 * i))), 0);
  }
  if (other != 0) store<f32>(excess, excessSum);
  return sum;
}
