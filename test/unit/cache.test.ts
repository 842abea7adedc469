import { describe, expect, onTestFinished, test } from "vitest";
import { loadModel, type LoadOptions, type LoadProgress, type Model, type ModelCache, type ModelSource, type PresetName } from "../../src/index.ts";
import { startHubServer } from "../fixtures/hubServer.ts";
import { MapCache } from "../fixtures/mapCache.ts";
import { seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";
import { sha256, TinyServer } from "../fixtures/tinyServer.ts";
import { mutateBytes } from "../fuzz/bytes.ts";
import { Choices } from "../fuzz/choices.ts";

const files = seededCheckpoint(tinyCheckpoints.width100);
const otherFiles = seededCheckpoint({ ...tinyCheckpoints.width100, seed: 201 });
const tokens = Array.from({ length: 9 }, (_, i) => (i * 37 + 5) % 1003);
const folder = "https://models.example/tiny/";

/** What a load gives: logits, report and notices. */
async function outcome(source: ModelSource, options: LoadOptions): Promise<{ logits: Float32Array; quantization: Model["quantization"]; notices: readonly string[] }> {
  using model = await loadModel(source, { backend: "cpu", ...options });
  return { logits: await model.logits(tokens), quantization: model.quantization, notices: model.adapter.notices };
}

const expected = (await outcome(files, { cache: "none" })).logits;
const otherLogits = (await outcome(otherFiles, { cache: "none" })).logits;

describe("the cache of loadModel", () => {
  test.each<[string, LoadOptions]>([
    ...(["f32", "f16", "int8", "int8-zeropoint", "int4", "nf4-dq", "llm-int8"] as const).map((quantization): [PresetName, LoadOptions] => [quantization, { quantization }]),
    ["no recipe", {}],
    ["int8-static with calibration", { quantization: "int8-static", calibration: Array.from({ length: 90 }, (_, i) => (i * i) % 1003) }],
  ])("gives the very model that it was given, with its report: %s", async (_, options) => {
    const cache = new MapCache();
    const first = await outcome(files, { ...options, cache });
    const second = await outcome(files, { ...options, cache });
    expect(second).toEqual({ ...first, quantization: { ...first.quantization, quantizeMs: 0 } });
    expect(cache.abouts).toHaveLength(1);
    expect(cache.abouts[0]).toMatchObject({ source: "2 files", recipe: first.quantization.recipe.name });
  });

  test("downloads no weights again, and reports what it does instead as uploading", async () => {
    const server = new TinyServer(files);
    const options = { fetch: server.fetch, cache: new MapCache() };
    await outcome(folder, options);
    expect(server.downloads).toEqual(["config.json", "model.safetensors"]);
    const seen: LoadProgress[] = [];
    expect(await outcome(folder, { ...options, onProgress: (progress) => seen.push(progress) })).toMatchObject({ logits: expected, notices: [] });
    expect(server.downloads).toHaveLength(2);
    expect(new Set(seen.map(({ stage }) => stage))).toEqual(new Set(["upload", "compile"]));
    expect(seen.map(({ fraction }) => fraction)).toEqual(seen.map(({ fraction }) => fraction).sort((a, b) => a - b));
    expect(seen.at(-1)!.fraction).toBe(1);
  });

  test("needs no network, and says that it has not asked", async () => {
    const server = new TinyServer(files);
    const options = { fetch: server.fetch, cache: new MapCache() };
    await outcome(folder, options);
    server.isOffline = true;
    const offline = await outcome(folder, options);
    expect(offline.logits).toEqual(expected);
    expect(offline.notices).toEqual(["The model came from the cache; whether its files have changed could not be asked."]);
  });

  test("asks the hub for the hash of the weights, and their CDN for nothing", async () => {
    const server = await startHubServer({ repositories: { "acme/tiny": files } });
    onTestFinished(() => server.close());
    const options = { hub: { endpoint: server.endpoint }, cache: new MapCache() };
    await outcome("acme/tiny", options);
    expect(server.requests.some(({ server, path }) => server === "cdn" && path.includes("model.safetensors"))).toBe(true); // control case
    server.requests.length = 0;
    expect(await outcome("acme/tiny", options)).toMatchObject({ logits: expected, notices: [] });
    const asked = server.requests.map(({ server, path }) => `${server} ${path.split("/").slice(3).join("/")}`.replace(/\?.*/, ""));
    expect(asked.sort()).toEqual(["cdn ", "hub raw/main/model.safetensors", "hub resolve/main/config.json"]);
  });

  test.each<[string, TinyServer["headers"]]>([
    ["an ETag", (content) => ({ etag: `"${sha256(content)}"` })],
    ["a weak ETag", (content) => ({ etag: `W/"${sha256(content)}"` })],
    ["Last-Modified", (content) => ({ "last-modified": `Sat, 01 Feb 2025 00:00:${10 + (content[content.length - 1]! % 50)} GMT` })],
  ])("notices by %s that a file has changed, and keeps the new one from then on", async (_, headers) => {
    const server = new TinyServer(files);
    server.headers = headers;
    const options = { fetch: server.fetch, cache: new MapCache() };
    await outcome(folder, options);
    server.files = otherFiles;
    expect(await outcome(folder, options)).toMatchObject({ logits: otherLogits, notices: [] });
    server.isOffline = true;
    expect((await outcome(folder, options)).logits).toEqual(otherLogits);
    expect(options.cache.map.size).toBe(1);
  });

  test("keeps what it has where the changed file cannot be loaded, as behind a login page", async () => {
    const server = new TinyServer(files);
    const options = { fetch: server.fetch, cache: new MapCache() };
    await outcome(folder, options);
    server.files = { "config.json": new TextEncoder().encode("<html>"), "model.safetensors": new TextEncoder().encode("<html>") };
    await expect(outcome(folder, options)).rejects.toMatchObject({ code: "checkpoint" });
    server.isOffline = true;
    expect((await outcome(folder, options)).logits).toEqual(expected);
  });

  test("asks nobody where integrity names every file, and goes to the source for another hash", async () => {
    const server = new TinyServer(files);
    const integrity = Object.fromEntries(Object.entries(files).map(([name, content]) => [name, `sha256-${sha256(content)}`]));
    const options = { fetch: server.fetch, cache: new MapCache(), integrity };
    await outcome(folder, options);
    const { requests } = server;
    expect(await outcome(folder, options)).toMatchObject({ logits: expected, notices: [] });
    expect(server.requests).toBe(requests);
    const others = { ...integrity, "model.safetensors": `sha256-${sha256(otherFiles["model.safetensors"])}` };
    await expect(outcome(folder, { ...options, integrity: others })).rejects.toMatchObject({ code: "integrity" });
    await expect(outcome(folder, { ...options, integrity: { ...integrity, "vocab.json": integrity["config.json"]! } })).rejects.toThrow(TypeError);
  });

  test("tells recipes, contents, names and calibrations apart", async () => {
    const cache = new MapCache();
    const entries = async (source: ModelSource, options: LoadOptions): Promise<number> => {
      await outcome(source, { ...options, cache });
      return cache.map.size;
    };
    const calibration = tokens.concat(tokens);
    expect(await entries(files, { quantization: "int8" })).toBe(1);
    expect(await entries(files, { quantization: "int8", contextLength: 32 })).toBe(1); // control cases: the same weights
    expect(await entries({ "model.safetensors": new Blob([files["model.safetensors"]]), "config.json": files["config.json"].slice() }, { quantization: "int8" })).toBe(1);
    expect(await entries(files, { quantization: { linear: { type: "int8", mode: "absmax", granularity: "channel" } } })).toBe(2);
    expect(await entries(otherFiles, { quantization: "int8" })).toBe(3);
    expect(await entries(files, { quantization: "int8-static", calibration })).toBe(4);
    expect(await entries(files, { quantization: "int8-static", calibration: tokens })).toBe(5);
    const date = { lastModified: 1e12 };
    const picked = (stamp: object): File[] => Object.entries(files).map(([name, content]) => new File([content], name, stamp));
    expect(await entries(picked(date), { quantization: "int8" })).toBe(6);
    expect(await entries(picked(date), { quantization: "int8" })).toBe(6);
    expect(await entries(picked({ lastModified: 1e12 + 1 }), { quantization: "int8" })).toBe(7);
  });

  test("gives the same model after 100 seeded mutations of an entry, which it deletes with a notice", async () => {
    const tiny = seededCheckpoint(tinyCheckpoints.width2);
    const cache = new MapCache();
    const load = async (): Promise<{ logits: Float32Array; notices: readonly string[] }> => {
      using model = await loadModel(tiny, { backend: "cpu", cache });
      return { logits: await model.logits([1, 2, 3]), notices: model.adapter.notices };
    };
    const { logits } = await load();
    const [[key, entry]] = [...cache.map] as [[string, Blob]];
    const bytes = new Uint8Array(await entry.arrayBuffer());
    let damaged = 0;
    for (let seed = 0; seed < 100; seed++) {
      const mutation = mutateBytes(new Choices(seed), bytes);
      cache.map.set(key, new Blob([mutation.bytes]));
      const found = await load();
      expect(found.logits, `seed ${seed}: ${mutation.what}`).toEqual(logits);
      if (found.notices.length > 0) damaged++;
      expect(found.notices.join()).toMatch(/^$|^The cached model was damaged and has been deleted: /);
    }
    expect(damaged).toBeGreaterThan(70);
  });

  test.each<[string, Partial<ModelCache>, RegExp]>([
    ["cannot be read", { match: () => Promise.reject(new Error("locked")) }, /not cached: locked/],
    ["takes nothing", { put: () => Promise.reject(new Error("full")) }, /not cached: full/],
    ["fails in the middle", { put: async (_, entry) => void (await entry.body!.getReader().read().then(() => Promise.reject(new Error("full")))) }, /not cached: full/],
    ["wants no more after a piece", { put: async (_, entry) => { const reader = entry.body!.getReader(); await reader.read(); await reader.cancel(); } }, /^$/],
    ["does not look at what it is given", { put: async () => undefined }, /^$/],
  ])("fails no load where it %s", async (_, faults, notice) => {
    const found = await outcome(files, { cache: Object.assign(new MapCache(), faults) });
    expect(found.logits).toEqual(expected);
    expect(found.notices.join()).toMatch(notice);
  });

  test("keeps nothing of a load that fails or is aborted", async () => {
    const cache = new MapCache();
    const reason = new Error("enough");
    const controller = new AbortController();
    const aborted = outcome(files, { cache, signal: controller.signal, onProgress: ({ stage }) => stage === "quantize" && controller.abort(reason) });
    await expect(aborted).rejects.toBe(reason);
    const cut = { ...files, "model.safetensors": files["model.safetensors"].slice(0, -4) };
    await expect(outcome(cut, { cache })).rejects.toMatchObject({ code: "checkpoint" });
    expect(cache.map.size).toBe(0);
    await outcome(files, { cache }); // control case
    expect(cache.map.size).toBe(1);
  });

  test("ends the body of an entry whose load was aborted at its first bytes", async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    const bodies: Promise<unknown>[] = [];
    const put: ModelCache["put"] = async (_, entry) => {
      controller.abort(reason);
      bodies.push(entry.blob());
      await bodies[0];
    };
    await expect(outcome(files, { cache: Object.assign(new MapCache(), { put }), signal: controller.signal })).rejects.toBe(reason);
    await expect(bodies[0]).rejects.toThrow();
  });

  test.each(["match", "put", "delete"] as const)("rejects with signal.reason while %s() has no answer", async (silent) => {
    const controller = new AbortController();
    const reason = new Error("enough");
    const cache = new MapCache();
    if (silent === "delete") cache.match = async () => new Response("damaged");
    cache[silent] = () => {
      setTimeout(() => controller.abort(reason));
      return new Promise<never>(() => undefined);
    };
    await expect(outcome(files, { cache, signal: controller.signal })).rejects.toBe(reason);
  });

  test("caches nothing of which the server gives no version, and says so", async () => {
    const server = new TinyServer(files);
    server.headers = () => ({});
    const cache = new MapCache();
    const { logits, notices } = await outcome(folder, { fetch: server.fetch, cache });
    expect(logits).toEqual(expected);
    expect(notices).toEqual(["The model is not cached: the server states neither ETag nor Last-Modified of config.json."]);
    expect(cache.map.size).toBe(0);
  });

  test("is not there in Node, which only who asks for it is told", async () => {
    expect((await outcome(files, {})).notices).toEqual([]);
    expect((await outcome(files, { cache: "opfs" })).notices).toEqual(["The model is not cached: there is no private file system here."]);
  });

  test.each<[string, unknown]>([
    ["another word", "indexedDB"],
    ["null", null],
    ["an object without put()", { match: async () => undefined, delete: async () => false }],
  ])("refuses %s with TypeError, having taken a cache", async (_, cache) => {
    await outcome(files, { cache: new MapCache() });
    await expect(outcome(files, { cache: cache as ModelCache })).rejects.toThrow(/^cache is .*; expected one of "opfs", "none", or an object with match\(\), put\(\) and delete\(\)\.$/);
  });
});
