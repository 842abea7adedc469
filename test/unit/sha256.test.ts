import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { Sha256 } from "../../src/source/sha256.ts";

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
const formula = (length: number): Uint8Array => Uint8Array.from({ length }, (_, i) => (i * i + 7 * i) >> 2);
const expected = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

function hashed(...pieces: Uint8Array[]): string {
  const hash = new Sha256();
  for (const piece of pieces) hash.update(piece);
  return hash.digest();
}

describe("Sha256", () => {
  // FIPS 180-4's examples (csrc.nist.gov, SHA256.pdf) and the empty message
  test.each([
    ["", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
    ["abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"],
    ["abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"],
    ["a".repeat(1_000_000), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"],
  ])("gives the standard's hash of %.8s", (message, hash) => {
    expect(hashed(bytesOf(message))).toBe(hash);
  });

  test("agrees with Node's at every length around a block", () => {
    for (let length = 0; length <= 200; length++) expect(hashed(formula(length)), `${length} bytes`).toBe(expected(formula(length)));
  });

  test("does not depend on how the bytes come in pieces", () => {
    const bytes = formula(10_000);
    for (const step of [1, 3, 55, 63, 64, 65, 128, 1000]) {
      const pieces = Array.from({ length: Math.ceil(bytes.length / step) }, (_, i) => bytes.subarray(i * step, (i + 1) * step));
      expect(hashed(...pieces), `pieces of ${step}`).toBe(expected(bytes));
    }
    expect(hashed(bytes.subarray(0, 100), new Uint8Array(0), bytes.subarray(100))).toBe(expected(bytes));
  });

  test("tells the hash so far, and goes on", () => {
    const hash = new Sha256();
    hash.update(bytesOf("ab"));
    expect(hash.digest()).toBe(expected(bytesOf("ab")));
    hash.update(bytesOf("c"));
    expect([hash.digest(), hash.digest()]).toEqual([expected(bytesOf("abc")), expected(bytesOf("abc"))]);
  });
});
