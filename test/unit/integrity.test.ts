import { createHash } from "node:crypto";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { calibrate, compareQuantizations, EngineError, fitToBudget, type LoadOptions, loadModel, type ModelSource } from "../../src/index.ts";
import { verifiedSource } from "../../src/source/integrity.ts";
import { openSource } from "../../src/source/openSource.ts";
import { type HubServer, startHubServer } from "../fixtures/hubServer.ts";
import { seededCheckpoint } from "../fixtures/seededCheckpoint.ts";

const name = "model.safetensors";
const files = seededCheckpoint({ nLayer: 1, nHead: 1, nEmbd: 4, nPositions: 8, vocabSize: 11, seed: 900 });
const hashOf = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
const right = { "config.json": `sha256-${hashOf(files["config.json"])}`, [name]: `sha256-${hashOf(files[name])}` };
const zeros = "0".repeat(64);
const mismatch = { code: "integrity", message: `${name} has the SHA-256 ${hashOf(files[name])}; integrity says ${zeros}.`, details: { file: name, found: hashOf(files[name]), expected: zeros } };

let hub: HubServer;
beforeAll(async () => void (hub = await startHubServer({ repositories: { "acme/tiny": files } })));
afterAll(() => hub.close());
beforeEach(() => {
  hub.failures.clear();
  hub.requests.length = 0;
});

const load = async (source: ModelSource, options: LoadOptions = {}): Promise<void> => (await loadModel(source, { backend: "cpu", hub: { endpoint: hub.endpoint }, ...options })).dispose();
const pointersAsked = (): number => hub.requests.filter(({ path }) => path.includes("/raw/")).length;

const sources: [kind: string, source: ModelSource][] = [
  ["a hub id", "acme/tiny"],
  ["files", Object.entries(files).map(([name, content]) => new File([content], name))],
  ["buffers", files],
];

describe("integrity", () => {
  test.each(sources)("is checked before a load from %s resolves", async (_, source) => {
    await load(source, { integrity: right });
    await load(source, { integrity: { [name]: right[name].toUpperCase().replace("SHA", "sha") } });
    const error = await load(source, { integrity: { ...right, [name]: `sha256-${zeros}` } }).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(EngineError);
    expect(error).toMatchObject(mismatch);
    await expect(load(source, { integrity: { "config.json": `sha256-${zeros}` } })).rejects.toMatchObject({ code: "integrity", details: { file: "config.json" } });
  });

  test.each(sources)("is checked by comparisons, fits and calibration of %s, too", async (_, source) => {
    const integrity = { [name]: `sha256-${zeros}` };
    const common = { backend: "cpu", hub: { endpoint: hub.endpoint }, text: [1, 2, 3, 4], windowTokens: 4 } as const;
    const compare = (integrity: LoadOptions["integrity"]): Promise<unknown> => compareQuantizations(source, { ...common, recipes: ["f16"], integrity }).next();
    await compare(right); // control case
    await expect(compare(integrity)).rejects.toMatchObject(mismatch);
    await expect(calibrate(source, { ...common, integrity })).rejects.toMatchObject(mismatch);
    await expect(fitToBudget(source, { ...common, bitsPerWeight: 9, integrity })).rejects.toMatchObject(mismatch);
  });

  const circular = (): object => {
    const own: Record<string, unknown> = {};
    return Object.assign(own, { own });
  };

  test.each<[integrity: unknown, message: string]>([
    [{ [name]: `sha256-${zeros}0` }, `integrity["${name}"] is "sha256-${zeros}0"; expected "sha256-" and 64 hexadecimal digits.`],
    [{ [name]: zeros }, `integrity["${name}"] is "${zeros}"; expected`],
    [{ [name]: "sha256-RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o=" }, "expected"],
    [{ [name]: undefined }, `integrity["${name}"] is undefined; expected`],
    [{ [name]: circular() }, `integrity["${name}"] is an object; expected`],
    [{ [name]: 7 }, `integrity["${name}"] is 7; expected`],
    ["sha256-", "integrity is string; expected an object of hashes by file name."],
    [null, "integrity is null; expected an object of hashes by file name."],
    [{ "weights.bin": `sha256-${zeros}` }, `integrity names "weights.bin", which this load does not open; it opens config.json, ${name}.`],
    [{ "tokenizer.json": `sha256-${zeros}` }, 'integrity names "tokenizer.json", which this load does not open'],
  ])("throws TypeError for %o, having read no weights", async (integrity, message) => {
    const error: unknown = await load("acme/tiny", { integrity: integrity as LoadOptions["integrity"] }).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(TypeError);
    expect((error as Error).message).toContain(message);
  });

  test("hashes what a reader left unread, when the reading is finished", async () => {
    for (const [integrity, outcome] of [[right, "resolves"], [{ [name]: `sha256-${zeros}` }, "rejects"]] as const) {
      const source = verifiedSource(openSource(files), { integrity });
      for await (const piece of (await source.open(name))!.stream()) {
        expect(piece.length).toBeGreaterThan(0);
        break;
      }
      const finished = source.finish(undefined);
      await (outcome === "resolves" ? expect(finished).resolves.toBeUndefined() : expect(finished).rejects.toMatchObject(mismatch));
    }
  });

  test("lets the page breathe while a large piece is hashed, and stops there on abort", async () => {
    const large = new Uint8Array(5 * 2 ** 20 + 1);
    const signals: (AbortSignal | undefined)[] = [];
    const breathe = async (signal: AbortSignal | undefined): Promise<void> => {
      signals.push(signal);
      signal?.throwIfAborted();
    };
    const open = async (): ReturnType<typeof source.open> => source.open(name);
    const source = verifiedSource(openSource({ [name]: large }), { integrity: { [name]: `sha256-${hashOf(large)}` }, breathe });
    const reason = new Error("enough");
    const controller = new AbortController();
    const pieces = (await open())!.stream({ signal: controller.signal })[Symbol.asyncIterator]();
    const pending = pieces.next();
    controller.abort(reason);
    await expect(pending).rejects.toBe(reason);
    expect(signals).toEqual([controller.signal]);
    for await (const piece of (await open())!.stream()) expect(piece).toBe(large); // no copy
    expect(signals).toHaveLength(1 + 6);
  });
});

describe("the hub's own hashes", () => {
  test("are compared where the caller has none", async () => {
    await load("acme/tiny"); // control case
    expect(pointersAsked()).toBe(1);
    hub.failures.set(name, { pointer: `version https://git-lfs.github.com/spec/v1\noid sha256:${zeros}\nsize 1\n` });
    await expect(load("acme/tiny")).rejects.toMatchObject({ ...mismatch, message: mismatch.message.replace("integrity says", "the server says") });
  });

  test("catch weights that were damaged between hub and page", async () => {
    const damaged = files[name].slice();
    damaged[damaged.length - 1]! ^= 1;
    hub.failures.set(name, { contents: [damaged] });
    await expect(load("acme/tiny")).rejects.toMatchObject({ code: "integrity", details: { found: hashOf(damaged), expected: hashOf(files[name]) } });
  });

  test("are taken from X-Linked-ETag where the answer shows it", async () => {
    hub.failures.set(name, { linkedEtag: `"${zeros}"` });
    await expect(load("acme/tiny")).rejects.toMatchObject({ code: "integrity", details: { expected: zeros } });
    expect(pointersAsked()).toBe(0);
  });

  test("are not asked for where the caller has one", async () => {
    hub.failures.set(name, { pointer: `version https://git-lfs.github.com/spec/v1\noid sha256:${zeros}\nsize 1\n` });
    await load("acme/tiny", { integrity: right });
    expect(pointersAsked()).toBe(0);
  });

  test.each([
    ["a page", "<!DOCTYPE html>"],
    ["the file itself", "x".repeat(5000)],
    ["a pointer of another kind", `version https://git-lfs.github.com/spec/v1\noid md5:${zeros}\n`],
  ])("are done without where the hub has %s instead of a pointer", async (_, pointer) => {
    hub.failures.set(name, { pointer });
    await load("acme/tiny");
    expect(pointersAsked()).toBe(1);
  });

  test("are done without where the pointer cannot be had", async () => {
    hub.failures.set(name, { statuses: [200, 503] });
    await load("acme/tiny");
    expect(pointersAsked()).toBe(1);
  });
});
