import { describe, expect, test } from "vitest";
import { DamagedRecord, encodeRecord, RecordReader } from "../../src/load/cacheRecords.ts";
import { mutateBytes } from "../fuzz/bytes.ts";
import { Choices } from "../fuzz/choices.ts";

const values: readonly unknown[] = [
  { word: "größer", numbers: [0, -1.5, 1e300, Infinity, -Infinity, NaN], nothing: null, list: [[], {}] },
  { codes: Int8Array.of(-128, 127, 1), nested: { scales: Float32Array.of(0.1, -0, NaN), empty: new Uint8Array(0) } },
  [Uint8Array.of(255), Uint16Array.of(65535, 1), Int32Array.of(-1), Uint32Array.of(2 ** 32 - 1), Float64Array.of(Math.PI)],
  { part: new Uint32Array(64).map((_, i) => i * i).subarray(3, 36) },
];
const entry = new Uint8Array(await new Blob((await Promise.all(values.map((value, i) => encodeRecord(i, value)))).flat() as Uint8Array<ArrayBuffer>[]).arrayBuffer());

/** The records of an entry that comes in pieces of one length. */
async function decode(bytes: Uint8Array, pieceBytes = bytes.length): Promise<unknown[]> {
  const pieces = async function* (): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.slice(at, at + pieceBytes);
  };
  const reader = new RecordReader(pieces(), undefined);
  const found: unknown[] = [];
  for (const _ of values) found.push(await reader.next());
  await reader.expectEnd();
  return found;
}

describe("cached records", () => {
  test.each([1, 7, 16, 1000])("come back as they were written, in pieces of %i bytes", async (pieceBytes) => {
    expect(await decode(entry, pieceBytes)).toEqual(values);
  });

  test("lie at multiples of 16 bytes", async () => {
    for (const [i, value] of values.entries()) {
      const bytes = (await encodeRecord(i, value)).reduce((sum, { length }) => sum + length, 0);
      expect(bytes % 16).toBe(0);
    }
  });

  test("end in DamagedRecord, or in what was written, after 3,000 seeded mutations", async () => {
    let unharmed = 0;
    for (let seed = 0; seed < 3_000; seed++) {
      const { bytes, what } = mutateBytes(new Choices(seed), entry);
      try {
        expect(await decode(bytes), `seed ${seed}: ${what}`).toEqual(values);
        unharmed++;
      } catch (error) {
        if (!(error instanceof DamagedRecord)) throw error;
      }
    }
    expect(unharmed).toBeGreaterThan(0); // in padding, or nothing changed
    expect(unharmed).toBeLessThan(1_000);
  });

  test("do not take one record for another", async () => {
    const swapped = [...(await encodeRecord(0, "a")), ...(await encodeRecord(2, "c"))] as Uint8Array<ArrayBuffer>[];
    const reader = new RecordReader(new Blob(swapped).stream(), undefined);
    expect(await reader.next()).toBe("a"); // control case
    await expect(reader.next()).rejects.toThrow(DamagedRecord);
  });

  test("reject with signal.reason on abort", async () => {
    const reason = new Error("enough");
    const controller = new AbortController();
    const pieces = async function* (): AsyncGenerator<Uint8Array> {
      yield entry.slice(0, 10);
      controller.abort(reason);
      throw reason;
    };
    await expect(new RecordReader(pieces(), controller.signal).next()).rejects.toBe(reason);
  });
});
