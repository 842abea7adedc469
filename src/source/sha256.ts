const primes = Array.from({ length: 312 }, (_, n) => n).filter((n) => n > 1 && !Array.from({ length: n }, (_, d) => d).some((d) => d > 1 && n % d === 0));
/** The first 32 bits behind the point. */
const fraction = (x: number): number => ((x % 1) * 2 ** 32) | 0;
const initialState = Int32Array.from(primes.slice(0, 8), (prime) => fraction(Math.sqrt(prime)));
const roundConstants = Int32Array.from(primes, (prime) => fraction(Math.cbrt(prime))); // i32 [64]
const schedule = new Int32Array(64);
/** Hashed between two rounds of the event loop: some 20 ms. */
const PIECE_BYTES = 4 * 2 ** 20;

/** SHA-256 of whole bytes, 64 lowercase hexadecimal digits: by crypto.subtle, or where the page is no secure context, and so without it, by Sha256. */
export async function sha256(bytes: ArrayBufferView<ArrayBuffer>): Promise<string> {
  const { subtle } = globalThis.crypto as Partial<Crypto>;
  if (subtle) return Array.from(new Uint8Array(await subtle.digest("SHA-256", bytes)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const hash = new Sha256();
  const view = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at < view.length; at += PIECE_BYTES) {
    if (at > 0) await new Promise((resolve) => setTimeout(resolve));
    hash.update(view.subarray(at, at + PIECE_BYTES));
  }
  return hash.digest();
}

/** SHA-256 (FIPS 180-4) of bytes that come in pieces; crypto.subtle wants them all at once. */
export class Sha256 {
  private readonly state = initialState.slice(); // i32 [8]
  private readonly block = new Uint8Array(64);
  private hashedBytes = 0;

  update(piece: Uint8Array): void {
    const filledBytes = this.hashedBytes % 64;
    this.hashedBytes += piece.length;
    let at = 0;
    if (filledBytes > 0) {
      this.block.set(piece.subarray(0, 64 - filledBytes), filledBytes);
      at = 64 - filledBytes;
      if (piece.length < at) return;
      compress(this.state, this.block, 0, 64);
    }
    const end = piece.length - ((piece.length - at) % 64);
    compress(this.state, piece, at, end);
    this.block.set(piece.subarray(end));
  }

  /** Of all bytes so far, 64 lowercase hexadecimal digits; more bytes may follow. */
  digest(): string {
    const filledBytes = this.hashedBytes % 64;
    const tail = new Uint8Array(filledBytes < 56 ? 64 : 128); // the rest, a one bit, zeros, the length in bits
    tail.set(this.block.subarray(0, filledBytes));
    tail[filledBytes] = 0x80;
    new DataView(tail.buffer).setBigUint64(tail.length - 8, 8n * BigInt(this.hashedBytes));
    const state = this.state.slice();
    compress(state, tail, 0, tail.length);
    return Array.from(state, (word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
  }
}

/** Takes in the blocks of bytes[begin, end), a multiple of 64; names as in the standard. */
function compress(state: Int32Array, bytes: Uint8Array, begin: number, end: number): void {
  const w = schedule;
  const k = roundConstants;
  for (let at = begin; at < end; at += 64) {
    for (let i = 0, j = at; i < 16; i++, j += 4) w[i] = (bytes[j]! << 24) | (bytes[j + 1]! << 16) | (bytes[j + 2]! << 8) | bytes[j + 3]!;
    for (let i = 16; i < 64; i++) {
      const x = w[i - 15]!;
      const y = w[i - 2]!;
      const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
      const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
      w[i] = (w[i - 16]! + s0 + w[i - 7]! + s1) | 0;
    }
    let a = state[0]!;
    let b = state[1]!;
    let c = state[2]!;
    let d = state[3]!;
    let e = state[4]!;
    let f = state[5]!;
    let g = state[6]!;
    let h = state[7]!;
    for (let i = 0; i < 64; i++) {
      const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
      const t1 = (h + s1 + (g ^ (e & (f ^ g))) + k[i]! + w[i]!) | 0;
      const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
      const t2 = (s0 + ((a & b) | (c & (a | b)))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + t1) | 0;
      d = c;
      c = b;
      b = a;
      a = (t1 + t2) | 0;
    }
    state[0] = state[0]! + a;
    state[1] = state[1]! + b;
    state[2] = state[2]! + c;
    state[3] = state[3]! + d;
    state[4] = state[4]! + e;
    state[5] = state[5]! + f;
    state[6] = state[6]! + g;
    state[7] = state[7]! + h;
  }
}
