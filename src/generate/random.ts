/**
 * Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a random function of (key, counter)
 * with no state to carry, built from u32 operations that WGSL has too, so a kernel can draw the same bits in any order.
 * counter: 4 words; key: 2 words; out: u32 [4].
 */
export function philox4x32(counter: readonly [number, number, number, number], key: readonly [number, number], out: Uint32Array): void {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(0xd2511f53, c0);
    const low0 = Math.imul(0xd2511f53, c0);
    const high1 = multiplyHigh(0xcd9e8d57, c2);
    const low1 = Math.imul(0xcd9e8d57, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + 0x9e3779b9) | 0; // golden ratio
    k1 = (k1 + 0xbb67ae85) | 0; // √3 − 1
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** Upper 32 bits of the 64-bit product of two u32, by 16-bit halves: a double cannot hold the product. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const carry = aLow * bHigh + (middle & 0xffff);
  return aHigh * bHigh + (middle >>> 16) + (carry >>> 16);
}

/**
 * The random numbers of one seed (any safe integer, taken as 64-bit two's complement), addressed by counter and lane:
 * key = (seed low, seed high), counter words = (lane >> 2, counter low, counter high, 0), word lane & 3 of the result.
 */
export class CounterRandom {
  readonly #key: readonly [number, number];
  readonly #words = new Uint32Array(4); // of the block last computed: four neighbouring lanes share one
  #counter = NaN;
  #block = NaN;

  constructor(seed: number) {
    this.#key = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0];
  }

  /** (word + ½) / 2³²: strictly between 0 and 1. counter: 0…2⁵³ − 1; lane: u32. */
  uniform(counter: number, lane: number): number {
    const block = lane >>> 2;
    if (counter !== this.#counter || block !== this.#block) {
      philox4x32([block, counter >>> 0, Math.floor(counter / 2 ** 32), 0], this.#key, this.#words);
      this.#counter = counter;
      this.#block = block;
    }
    return (this.#words[lane & 3]! + 0.5) * 2 ** -32;
  }
}

export function uniform(seed: number, counter: number, lane: number): number {
  return new CounterRandom(seed).uniform(counter, lane);
}

/**
 * Standard Gumbel noise from a uniform in (0, 1): −ln(−ln(1 − u)). Large noise comes from small u, where floats are densest,
 * so the tail that decides between tokens keeps its resolution in f32 too.
 */
export function gumbel(u: number): number {
  return -Math.log(-Math.log1p(-u));
}

/** The largest value of gumbel() over all uniforms that CounterRandom gives. */
export const GUMBEL_MAX = gumbel(2 ** -33);
