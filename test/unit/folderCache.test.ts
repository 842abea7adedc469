import { describe, expect, test } from "vitest";
import type { FolderCache } from "../../src/source/cache/folderCache.ts";
import { MemoryFolder } from "../fixtures/memoryFolder.ts";

const MEGABYTE = 2 ** 20;
const [keyA, keyB, keyC] = ["a", "b", "c"].map((letter) => letter.repeat(64)) as [string, string, string];
const about = (bytes = 4): { source: string; recipe: string; bytes: number } => ({ source: "3 files", recipe: "nf4", bytes });

/** A clock that a millisecond passes on at each look. */
function clock(): () => number {
  let ms = 0;
  return () => ms++;
}

async function put(cache: FolderCache, key: string, bytes: readonly number[]): Promise<void> {
  await cache.put(key, new Response(Uint8Array.from(bytes)), about(bytes.length));
}

async function get(cache: FolderCache, key: string): Promise<number[] | undefined> {
  const entry = await cache.match(key);
  return entry && [...new Uint8Array(await entry.arrayBuffer())];
}

describe("FolderCache", () => {
  test("gives back what was put, lists it with what was told of it, and deletes it once", async () => {
    const cache = new MemoryFolder().cache(() => 1e12);
    expect(await get(cache, keyA)).toBeUndefined();
    await put(cache, keyA, [1, 2, 3]);
    expect(await get(cache, keyA)).toEqual([1, 2, 3]);
    expect(await cache.list()).toEqual([{ key: keyA, source: "3 files", recipe: "nf4", bytes: 3, lastUsed: new Date(1e12) }]);
    expect([await cache.delete(keyA), await cache.delete(keyA), await cache.delete("../a")]).toEqual([true, false, false]);
    expect(await cache.list()).toEqual([]);
  });

  test("replaces an entry and leaves nothing of the one before, which may still be read", async () => {
    const folder = new MemoryFolder();
    const cache = folder.cache();
    await put(cache, keyA, [1, 2, 3]);
    const before = await cache.match(keyA);
    await put(cache, keyA, [4, 5]);
    expect(await get(cache, keyA)).toEqual([4, 5]);
    expect([...new Uint8Array(await before!.arrayBuffer())]).toEqual([1, 2, 3]);
    expect(folder.files.size).toBe(2);
  });

  test("has the entry before, the new one or none, and sweeps the rest, wherever its process dies", async () => {
    const found = new Set<string>();
    for (const before of [undefined, [1, 2, 3]]) {
      for (let changes = 0; ; changes++) {
        const folder = new MemoryFolder();
        if (before) await put(folder.cache(), keyA, before);
        folder.changesLeft = changes;
        const isWhole = await put(folder.cache(), keyA, [4, 5]).then(() => true, () => false);
        folder.restart();
        await folder.cache().sweep();
        const entry = await get(folder.cache(), keyA);
        expect([undefined, [1, 2, 3], [4, 5]]).toContainEqual(entry);
        expect(folder.files.size).toBe(entry ? 2 : 0);
        found.add(String(entry));
        if (isWhole) break;
      }
    }
    expect([...found].sort()).toEqual(["1,2,3", "4,5", "undefined"]);
  });

  test("keeps the entry before, and nothing else, where a body breaks off", async () => {
    const folder = new MemoryFolder();
    const cache = folder.cache();
    await put(cache, keyA, [1, 2, 3]);
    const broken = new ReadableStream<Uint8Array>({
      start: (controller) => controller.enqueue(Uint8Array.of(9)),
      pull: (controller) => controller.error(new Error("the load failed")),
    });
    await expect(cache.put(keyA, new Response(broken), about())).rejects.toThrow("the load failed");
    expect(await get(cache, keyA)).toEqual([1, 2, 3]);
    expect(folder.files.size).toBe(2);
  });

  test("takes an entry for none, and deletes it, where its file is shorter than it was, is gone, or its marker is no JSON", async () => {
    const damages: ((folder: MemoryFolder, marker: string, body: string) => void)[] = [
      (folder, _, body) => folder.files.set(body, Uint8Array.of(1)),
      (folder, _, body) => folder.files.delete(body),
      (folder, marker) => folder.files.set(marker, folder.files.get(marker)!.slice(0, 9)),
    ];
    for (const damage of damages) {
      const folder = new MemoryFolder();
      await put(folder.cache(), keyA, [1, 2, 3]);
      const [body, marker] = [...folder.files.keys()] as [string, string];
      damage(folder, marker, body);
      expect(await get(folder.cache(), keyA)).toBeUndefined();
      await folder.cache().sweep();
      expect(folder.files.size).toBe(0);
    }
  });

  test("makes room by removing what was used longest ago, and no more than it must", async () => {
    const folder = new MemoryFolder();
    const cache = folder.cache(clock());
    for (const key of [keyA, keyB, keyC]) await put(cache, key, Array.from({ length: 400 }, () => 1));
    await get(cache, keyA); // used after B
    folder.quotaBytes = folder.usedBytes + 16 * MEGABYTE + 100;
    await put(cache, "d".repeat(64), Array.from({ length: 300 }, () => 2));
    expect((await cache.list()).map(({ key }) => key[0])).toEqual(["d", "a", "c"]);
  });

  test("refuses what will not fit with `storage` and both sizes, having taken what does", async () => {
    const folder = new MemoryFolder();
    const cache = folder.cache();
    folder.quotaBytes = 17 * MEGABYTE;
    await put(cache, keyA, [1]); // control case
    const refused = cache.put(keyB, new Response(Uint8Array.of(1)), about(2 * MEGABYTE));
    await expect(refused).rejects.toMatchObject({ code: "storage", details: { quota: 17 * MEGABYTE, bytes: 2 * MEGABYTE } });
  });

  test("rejects with `storage` and leaves nothing where the browser's storage turns out to be full", async () => {
    const folder = new MemoryFolder();
    const cache = folder.cache();
    folder.quotaBytes = 17 * MEGABYTE;
    await expect(cache.put(keyA, new Response(new Uint8Array(18 * MEGABYTE)), about())).rejects.toMatchObject({ code: "storage", cause: { name: "QuotaExceededError" } });
    expect(folder.files.size).toBe(0);
  });

  test("lets one of two tabs write an entry, takes nothing from the other, and sweeps nothing away from either", async () => {
    const folder = new MemoryFolder();
    const [one, other] = [folder.cache(), folder.cache()];
    let end!: () => void;
    const slow = new ReadableStream<Uint8Array>({
      start: (controller) => {
        controller.enqueue(Uint8Array.of(1, 2));
        end = () => controller.close();
      },
    });
    const first = one.put(keyA, new Response(slow), about());
    const taken: number[] = [];
    const second = new ReadableStream<Uint8Array>({ pull: (controller) => controller.enqueue(Uint8Array.of(taken.push(1))) }, { highWaterMark: 0 });
    await other.put(keyA, new Response(second), about());
    await put(other, keyB, [7]); // another entry is nobody else's
    await other.sweep();
    end();
    await first;
    expect(taken).toEqual([]);
    expect([await get(other, keyA), await get(other, keyB)]).toEqual([[1, 2], [7]]);
  });
});
