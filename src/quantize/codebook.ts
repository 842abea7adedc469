/** A codebook prepared for nearest-code search. */
export interface NearestCode {
  /** f32 [2^k − 1], ascending, padded with Infinity: up to thresholds[i], place i is nearer than place i + 1. */
  thresholds: Float32Array;
  /** u8 [2^k]: place in ascending order of value -> index in the codebook. */
  order: Uint8Array;
}

/**
 * Prepares the search for argmin |x − code| as bitsandbytes computes it: differences rounded to f32, the lowest index wins a tie.
 * @param codes f32, at most 256 values in any order; of equal values only the lowest index is ever chosen
 */
export function nearestCode(codes: Float32Array): NearestCode {
  const places = [...codes.keys()].sort((i, j) => codes[i]! - codes[j]! || i - j).filter((index, place, all) => place === 0 || codes[index] !== codes[all[place - 1]!]);
  const size = 2 ** Math.ceil(Math.log2(places.length));
  const thresholds = new Float32Array(size - 1).fill(Infinity);
  for (let place = 0; place + 1 < places.length; place++) thresholds[place] = lastNearer(codes, places[place]!, places[place + 1]!);
  const order = new Uint8Array(size);
  order.set(places);
  return { thresholds, order };
}

/** The largest f32 for which index `low` wins against the next larger value's index `high`. */
function lastNearer(codes: Float32Array, low: number, high: number): number {
  const a = codes[low]!;
  const b = codes[high]!;
  const lowWins = (x: number): boolean => {
    const toLow = Math.fround(x - a);
    const toHigh = Math.fround(b - x);
    return low < high ? toLow <= toHigh : toLow < toHigh;
  };
  let x = Math.fround((a + b) / 2); // the answer is a few steps away: only the rounding of the differences moves it
  while (lowWins(x)) x = nextFloat(x, 1);
  while (!lowWins(x)) x = nextFloat(x, -1);
  return x;
}

/** The neighbour of a finite f32, one unit in the last place up (1) or down (−1). */
function nextFloat(x: number, direction: 1 | -1): number {
  if (x === 0) return direction * 2 ** -149;
  const float = Float32Array.of(x);
  const bits = new Int32Array(float.buffer);
  bits[0]! += x > 0 ? direction : -direction;
  return float[0]!;
}

/** Index of the code nearest to x in a codebook of 9 to 16 values. Comparisons are added, not branched on: 5 ns a value against 24. */
export function findNearest16({ thresholds, order }: NearestCode, x: number): number {
  let place = +(x > thresholds[7]!) << 3;
  place += +(x > thresholds[place + 3]!) << 2;
  place += +(x > thresholds[place + 1]!) << 1;
  place += +(x > thresholds[place]!);
  return order[place]!;
}

/** Index of the code nearest to x in a codebook of any size. */
export function findNearest({ thresholds, order }: NearestCode, x: number): number {
  let place = 0;
  for (let step = order.length >> 1; step > 0; step >>= 1) place += +(x > thresholds[place + step - 1]!) * step;
  return order[place]!;
}
