import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { caches, loadModel, type LoadOptions } from "nibble-webgpu";
import { seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";

const files = seededCheckpoint(tinyCheckpoints.width100);
const tokens = [5, 42, 79];

/** What a load gives. */
async function outcome(options: LoadOptions = {}, source: Parameters<typeof loadModel>[0] = files): Promise<{ logits: Float32Array; notices: readonly string[]; quantizeMs: number }> {
  using model = await loadModel(source, { backend: "cpu", quantization: "nf4", ...options });
  return { logits: await model.logits(tokens), notices: model.adapter.notices, quantizeMs: model.quantization.quantizeMs };
}

async function folder(): Promise<FileSystemDirectoryHandle> {
  return (await navigator.storage.getDirectory()).getDirectoryHandle("nibble-webgpu");
}

async function names(): Promise<string[]> {
  const names: string[] = [];
  for await (const name of (await folder()).keys()) names.push(name);
  return names;
}

describe("the cache in Chromium's private file system", () => {
  beforeEach(() => caches.clear());
  afterEach(async () => {
    vi.restoreAllMocks();
    await caches.clear();
  });

  test("gives the embedded model without the network, lists it, and forgets it when told", async () => {
    const first = await outcome({}, "/models/stories-12m/");
    const [entry] = await caches.list();
    expect(entry).toMatchObject({ key: expect.stringMatching(/^[0-9a-f]{64}$/) as string, source: expect.stringMatching(/\/models\/stories-12m\/$/) as string, recipe: "nf4" });
    expect(entry!.bytes).toBeGreaterThan(11e6);
    expect(Math.abs(entry!.lastUsed.getTime() - Date.now())).toBeLessThan(600_000);
    const offline = await outcome({ fetch: () => Promise.reject(new TypeError("Failed to fetch")) }, "/models/stories-12m/");
    expect(offline).toMatchObject({ logits: first.logits, quantizeMs: 0, notices: [expect.stringContaining("could not be asked") as string] });
    expect(await outcome({}, "/models/stories-12m/")).toEqual({ ...first, quantizeMs: 0 }); // Vite's server states a version
    expect([await caches.delete(entry!.key), await caches.delete(entry!.key), await caches.list(), await names()]).toEqual([true, false, [], []]);
  });

  test("is filled in a worker, too, by a browser without createWritable()", async () => {
    const worker = new Worker(new URL("./cacheWorker.ts", import.meta.url), { type: "module" });
    const found = await new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = ({ message }) => reject(new Error(message));
    });
    worker.terminate();
    expect(found).toEqual([{ quantizeMs: expect.toSatisfy((ms: number) => ms > 0) as number, notices: [], listed: 1 }, { quantizeMs: 0, notices: [], listed: 1 }]);
  });

  test("sweeps what a page that was closed in the middle left behind", async () => {
    await outcome();
    const left = `${"0".repeat(64)}.torn.weights`;
    await (await folder()).getFileHandle(left, { create: true });
    expect(await names()).toContain(left);
    expect((await outcome()).quantizeMs).toBe(0);
    expect(await names()).toHaveLength(2);
  });

  test("goes on from the source where an entry was damaged, and writes it again", async () => {
    const { logits } = await outcome();
    const name = (await names()).find((name) => name.endsWith(".weights"))!;
    const handle = await (await folder()).getFileHandle(name);
    const writable = await handle.createWritable({ keepExistingData: true });
    await writable.write({ type: "write", position: 20_000, data: Uint8Array.of(1, 2, 3, 4) });
    await writable.close();
    expect(await outcome()).toMatchObject({ logits, notices: [expect.stringMatching(/^The cached model was damaged and has been deleted/) as string] });
    expect(await outcome()).toMatchObject({ logits, notices: [], quantizeMs: 0 });
  });

  test("caches nothing, with a notice, where the quota leaves no room, the disk is full or the browser keeps its files shut", async () => {
    const { logits } = await outcome({ cache: "none" });
    const estimate = vi.spyOn(navigator.storage, "estimate").mockResolvedValue({ quota: 1000, usage: 900 });
    expect(await outcome()).toMatchObject({ logits, notices: [expect.stringContaining("grants this site 1000 bytes, of which 900 were in use") as string] });
    estimate.mockRestore();
    const write = vi.spyOn(FileSystemWritableFileStream.prototype, "write").mockRejectedValue(new DOMException("full", "QuotaExceededError"));
    expect(await outcome()).toMatchObject({ logits, notices: [expect.stringContaining("storage is full") as string] });
    write.mockRestore();
    const open = vi.spyOn(navigator.storage, "getDirectory").mockRejectedValue(new DOMException("private window", "SecurityError"));
    expect(await outcome()).toMatchObject({ logits, notices: [expect.stringContaining("private window") as string] });
    open.mockRestore();
    expect(await caches.list()).toEqual([]);
    expect(await outcome()).toMatchObject({ notices: [] }); // control case
    expect(await caches.list()).toHaveLength(1);
  });
});
