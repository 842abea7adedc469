import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { EngineError } from "../../src/errors.ts";
import { verifiedSource } from "../../src/source/integrity.ts";
import { openSource, type SourceOptions } from "../../src/source/openSource.ts";
import { retryAfterMs } from "../../src/source/retry.ts";
import type { CheckpointSource } from "../../src/source/types.ts";
import { type HubFailure, type HubServer, startHubServer } from "../fixtures/hubServer.ts";
import { ManualTimers } from "../fixtures/manualTimers.ts";

const name = "model.safetensors";
const token = "hf_secret";
const content = Uint8Array.from({ length: 5000 }, (_, i) => (i * i) % 251);
/** The same up to byte 2000. */
const edited = content.map((byte, i) => (i < 2000 ? byte : byte ^ 1));
/** Different from the first byte on. */
const other = content.map((byte) => byte ^ 1);
const small = content.subarray(0, 100);
const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
const etagOf = (bytes: Uint8Array): string => `"${sha256(bytes)}"`;
const longAgo = "Tue, 01 Jul 2025 00:00:00 GMT";

let hub: HubServer;
let timers: ManualTimers;
beforeAll(async () => {
  hub = await startHubServer({ repositories: { "acme/tiny": { [name]: content }, "acme/small": { [name]: small } }, gated: { "acme/tiny": token, "acme/small": token } });
});
afterAll(() => hub.close());
beforeEach(() => {
  timers = new ManualTimers();
  hub.failures.clear();
  hub.requests.length = 0;
});

function fromHub(id = "acme/tiny", options: SourceOptions = {}): CheckpointSource {
  return openSource(id, { retry: timers.retry, ...options, hub: { endpoint: hub.endpoint, token } });
}

interface DownloadOptions {
  signal?: AbortSignal;
  /** The server falls silent when so many bytes have come, or of a compressed file more. */
  stalls?: readonly number[];
}

/** All bytes of the file. */
async function download(source: CheckpointSource, { signal, stalls: [stallAtBytes] = [] }: DownloadOptions = {}): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of (await source.open(name, { signal }))!.stream({ signal })) {
    pieces.push(piece.slice());
    bytes += piece.length;
    if (stallAtBytes === undefined || bytes < stallAtBytes) continue;
    timers.expire();
    stallAtBytes = undefined;
  }
  return Buffer.concat(pieces);
}

async function errorOf(promise: Promise<unknown>): Promise<EngineError> {
  const error: unknown = await promise.then(() => "nothing was thrown", (reason: unknown) => reason);
  expect(error).toBeInstanceOf(EngineError);
  return error as EngineError;
}

/** Nothing is left of a transfer: no timer, no connection in use. */
async function expectQuiet(): Promise<void> {
  expect(timers.pending).toBe(0);
  await expect.poll(() => hub.openTransfers).toBe(0);
}

/** What the CDN was asked for. */
const rangesAsked = (): (string | undefined)[] => hub.requests.filter(({ server }) => server === "cdn").map(({ range }) => range);

describe("a download that fails on the way", () => {
  const whole = undefined;
  const from = (byte: number): string => `bytes=${byte}-`;

  test.each<[fault: string, failure: HubFailure, ranges: (string | undefined)[], result?: Uint8Array]>([
    ["nothing", {}, [whole]],
    ["a cut", { cuts: [1000] }, [whole, from(1000)]],
    ["a cut before the first byte", { cuts: [0] }, [whole, whole]],
    ["a cut behind the last byte", { cuts: [5000] }, [whole]],
    ["several cuts, some of them at one byte", { cuts: [1, 1, 1, 1, 1, 2, 4999] }, [whole, from(1), from(1), from(1), from(1), from(1), from(2), from(4999)]],
    ["silence", { stalls: [1000] }, [whole, from(1000)]],
    ["408, 429, 500, 502 and 503 before the first byte", { statuses: [408, 429, 500, 502, 503] }, [whole]],
    ["503 and 504 after a cut", { cuts: [1000], statuses: [200, 503, 504] }, [whole, from(1000)]],
    ["a server without ranges", { cuts: [1000, 2000], ignoresRange: true }, [whole, from(1000), from(2000)]],
    ["CORS that refuses If-Range", { cuts: [1000], refusedHeaders: ["if-range"] }, [whole, from(1000), from(1000)]],
    ["CORS that refuses Range", { cuts: [1000], refusedHeaders: ["range"] }, [whole, from(1000), from(1000), whole]],
    ["a weak ETag", { cuts: [1000], etag: 'W/"1"' }, [whole, whole]],
    ["no ETag", { cuts: [1000, 10, 2000], etag: null }, [whole, whole, whole, whole]],
    ["no ETag, but a date", { cuts: [1000], etag: null, lastModified: longAgo }, [whole, from(1000)]],
    ["a Content-Range that begins elsewhere", { cuts: [1000], contentRange: "bytes 900-4899/5000" }, [whole, from(1000), whole]],
    ["a Content-Range that is none", { cuts: [1000], contentRange: "some" }, [whole, from(1000), whole]],
    ["compression", { cuts: [gzipSync(content).length / 2], gzip: true }, [whole, whole]],
    ["a file that changes before its first byte came", { cuts: [0], contents: [content, other] }, [whole, whole], other],
    ["a file without ETag that changes behind what came", { cuts: [1000], etag: null, contents: [content, edited] }, [whole, whole], edited],
  ])("%s: gives the same bytes", async (_, failure, ranges, result = content) => {
    hub.failures.set(name, failure);
    const source = verifiedSource(fromHub(), { integrity: { [name]: `sha256-${sha256(result)}` } });
    expect(Buffer.from(await download(source, failure)).equals(result)).toBe(true);
    expect(rangesAsked()).toEqual(ranges);
    for (const { server, authorization } of hub.requests) expect(authorization).toBe(server === "hub" ? `Bearer ${token}` : undefined);
    await expectQuiet();
  });

  const etags = (after: string): string => `changed between two requests: ETag ${etagOf(content)}, then ${after} (1 attempt, 1000 of 5000 bytes loaded).`;
  test.each<[fault: string, failure: HubFailure, code: string, message: string]>([
    ["a file that changes", { cuts: [1000], contents: [content, other] }, "network", "changed between two requests"],
    ["a file that changes, on a server without ranges", { cuts: [1000], ignoresRange: true, contents: [content, other] }, "network", etags(etagOf(other)).replace("1 attempt", "2 attempts")],
    ["a file that changes its length", { cuts: [1000], etag: null, contents: [content, content.subarray(0, 4000)] }, "network", "ETag none, then none; 5000 bytes, then 4000 (2 attempts"],
    ["a file without ETag that changes in what came", { cuts: [1000], etag: null, contents: [content, other] }, "network", "changed between two requests: ETag none, then none (2 attempts, 1000 of 5000 bytes loaded)."],
    ["a compressed file that changes in what came", { stalls: [gzipSync(content).length - 9], etag: 'W/"1"', gzip: true, contents: [content, other] }, "network", 'changed between two requests: ETag W/"1", then W/"1"'],
    ["a Content-Range of a longer file", { cuts: [1000], contentRange: "bytes 1000-5000/5001" }, "network", "; 5000 bytes, then 5001"],
    ["a Content-Length beyond the file", { announcedBytes: 6000 }, "network", "answered 416: its file is shorter than it announced (2 attempts, 5000 of 6000 bytes loaded)."],
    ["a Content-Length within the file", { announcedBytes: 4000 }, "integrity", `${name} has the SHA-256 ${sha256(content.subarray(0, 4000))}; integrity says ${sha256(content)}.`],
    ["a page instead of the file", { html: true }, "integrity", `; integrity says ${sha256(content)}.`],
    ["wrong bytes", { contents: [edited] }, "integrity", `${name} has the SHA-256 ${sha256(edited)}; integrity says ${sha256(content)}.`],
    ["a cut that always comes", { cuts: Array<number>(9).fill(1000) }, "network", "broke off (6 attempts, 1000 of 5000 bytes loaded)."],
    ["a server that stays overloaded", { cuts: [1000], statuses: [200, ...Array<number>(9).fill(503)] }, "network", "answered 503: the server failed; try again later (6 attempts, 1000 of 5000 bytes loaded)."],
    ["access that ends", { cuts: [1000], statuses: [200, 403] }, "network", "answered 403: access is refused; a gated model needs a token of an account that accepted its terms (hub.token) (2 attempts, 1000 of 5000 bytes loaded)."],
    ["a file that goes away", { cuts: [1000], statuses: [200, 404] }, "network", "answered 404; it was there before (2 attempts, 1000 of 5000 bytes loaded)."],
    ["a server that asks to wait too long", { statuses: [429], retryAfter: "3600" }, "network", "answered 429: too many requests; try again later; it asks to wait 3600 s (1 attempt, 0 bytes loaded)."],
  ])("%s: rejects as `network` or `integrity`", async (_, failure, code, message) => {
    hub.failures.set(name, failure);
    const error = await errorOf(download(verifiedSource(fromHub(), { integrity: { [name]: `sha256-${sha256(content)}` } }), failure));
    expect(error).toMatchObject({ code, message: expect.stringContaining(message) as string });
    if (code === "network") expect(error).toMatchObject({ message: expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+\/acme\/tiny\/resolve\/main\/model\.safetensors (answered|broke off|changed)/) as string, details: { url: `${hub.endpoint}/acme/tiny/resolve/main/${name}` } });
    expect(JSON.stringify([error.message, error.details, error.stack, String(error.cause)])).not.toMatch(/hf_secret|signature/);
    await expectQuiet();
  });

  test("goes on after a cut at any byte", async () => {
    for (let cut = 0; cut <= small.length; cut++) {
      hub.failures.set(name, { cuts: [cut] });
      expect(Buffer.from(await download(fromHub("acme/small"))).equals(small), `cut at ${cut}`).toBe(true);
    }
    await expectQuiet();
  });

  test("goes on byte by byte, since each new byte earns all attempts again", async () => {
    hub.failures.set(name, { cuts: Array.from({ length: 30 }, (_, i) => i + 1) });
    expect(Buffer.from(await download(fromHub("acme/small"))).equals(small)).toBe(true);
    expect(rangesAsked()).toHaveLength(31);
    expect(new Set(timers.delaysMs)).toEqual(new Set([500]));
  });

  test("asks the hub for a new address each time, with the ETag of what it has", async () => {
    hub.failures.set(name, { cuts: [1000] });
    await download(fromHub());
    expect(hub.requests.map(({ server, range, ifRange }) => [server, range, ifRange])).toEqual([
      ["hub", undefined, undefined],
      ["cdn", undefined, undefined],
      ["hub", "bytes=1000-", etagOf(content)],
      ["cdn", "bytes=1000-", etagOf(content)],
    ]);
    expect(new Set(hub.requests.map(({ path }) => path)).size).toBe(3);
  });

  test("takes a date for a validator only where the file was older than a second", async () => {
    for (const [lastModified, ifRange] of [[longAgo, longAgo], [new Date(Date.now() + 60_000).toUTCString(), undefined]] as const) {
      hub.requests.length = 0;
      hub.failures.set(name, { cuts: [1000], etag: null, lastModified });
      await download(fromHub());
      expect(hub.requests.at(-1)!.ifRange).toBe(ifRange);
    }
  });

  test("reads a file again only if it is what it was", async () => {
    const file = (await fromHub().open(name))!;
    const read = async (): Promise<number> => {
      let bytes = 0;
      for await (const piece of file.stream()) bytes += piece.length;
      return bytes;
    };
    expect([await read(), await read()]).toEqual([5000, 5000]); // control case
    hub.failures.set(name, { contents: [other] });
    expect((await errorOf(read())).details).toMatchObject({ etags: [etagOf(content), etagOf(other)], loadedBytes: 0 });
  });

  test("rejects a body longer than announced", async () => {
    const answer = (announced: number): typeof fetch => async () => new Response(new Uint8Array(10), { headers: { "Content-Length": String(announced) } });
    const read = (announced: number): Promise<Uint8Array> => download(openSource("https://host/a/", { fetch: answer(announced), retry: timers.retry }));
    expect(await read(10)).toHaveLength(10); // control case
    expect((await errorOf(read(9))).message).toBe(`https://host/a/${name} sent more than the 9 bytes that it announced (1 attempt, 0 of 9 bytes loaded).`);
  });

  test("goes on with a part whose Content-Range a page may not see, told by its length", async () => {
    const parts = (lastBytes: number): typeof fetch => async (_, init) => {
      const headers = { ETag: '"1"', "Content-Length": "10" };
      if (!new Headers(init?.headers).has("range")) return new Response(new Uint8Array(4), { headers });
      return new Response(new Uint8Array(lastBytes), { status: 206, headers: { ...headers, "Content-Length": String(lastBytes) } });
    };
    expect(await download(openSource("https://host/a/", { fetch: parts(6), retry: timers.retry }))).toHaveLength(10);
    expect((await errorOf(download(openSource("https://host/a/", { fetch: parts(5), retry: timers.retry })))).message).toMatch(/broke off \(6 attempts, 4 of 10 bytes loaded\)/);
  });
});

describe("the wait before a retry", () => {
  test("doubles up to 8 s, and less a random part of up to a half", async () => {
    hub.failures.set(name, { status: 503 });
    const options = { attempts: 8 };
    await errorOf(fromHub(undefined, { retry: { ...timers.retry, ...options } }).open(name));
    expect(timers.delaysMs).toEqual([500, 1000, 2000, 4000, 8000, 8000, 8000]);
    timers.delaysMs.length = 0;
    await errorOf(fromHub(undefined, { retry: { ...timers.retry, ...options, random: () => 1 } }).open(name));
    expect(timers.delaysMs).toEqual([250, 500, 1000, 2000, 4000, 4000, 4000]);
  });

  test("is at least what Retry-After asks for", async () => {
    hub.failures.set(name, { statuses: [429, 503], retryAfter: "7" });
    await fromHub().open(name);
    expect(timers.delaysMs).toEqual([7000, 7000]);
  });

  test.each([
    [undefined, 0],
    ["7", 7000],
    ["soon", 0],
    ["Tue, 01 Jul 2025 00:00:09 GMT", 9000],
    ["Mon, 30 Jun 2025 00:00:00 GMT", 0],
  ])("reads Retry-After %s as %i ms", (value, ms) => {
    expect(retryAfterMs(new Headers(value === undefined ? {} : { "Retry-After": value }), Date.parse(longAgo))).toBe(ms);
  });
});

describe("silence", () => {
  /** A fetch that never answers. */
  const silent: typeof fetch = (_, init) => new Promise((_resolve, reject) => init!.signal!.addEventListener("abort", () => reject(init!.signal!.reason)));

  test("before the first answer is tried again, and names the time", async () => {
    const opening = errorOf(openSource("a/b", { fetch: silent, retry: { ...timers.retry, attempts: 2 } }).open(name));
    timers.expire();
    await expect.poll(() => timers.delaysMs.length).toBe(1);
    await expect.poll(() => timers.pending).toBe(1);
    timers.expire();
    expect((await opening).message).toBe(`https://huggingface.co/a/b/resolve/main/${name} sent nothing for 30 s (2 attempts, 0 bytes loaded).`);
    expect(timers.pending).toBe(0);
  });

  test("is not held against a server whose reader is busy", async () => {
    const pieces = (await fromHub().open(name))!.stream()[Symbol.asyncIterator]();
    await pieces.next();
    expect(timers.pending).toBe(0);
    await pieces.return!();
    await expectQuiet();
  });
});

describe("an abort", () => {
  const reason = new Error("enough");
  let controller: AbortController;
  beforeEach(() => (controller = new AbortController()));

  test("during a wait rejects at once with the reason", async () => {
    timers.isHeld = true;
    for (const failure of [{ status: 503 }, { cuts: [1000] }]) {
      controller = new AbortController();
      hub.failures.set(name, failure);
      const before = timers.delaysMs.length;
      const downloading = download(fromHub(), { signal: controller.signal });
      downloading.catch(() => undefined);
      await expect.poll(() => timers.delaysMs.length).toBe(before + 1);
      controller.abort(reason);
      await expect(downloading).rejects.toBe(reason);
      await expectQuiet();
    }
  });

  test("during a request and during a transfer rejects with the reason and ends both", async () => {
    let stalled!: () => void;
    const silence = new Promise<void>((resolve) => (stalled = resolve));
    hub.failures.set(name, { stalls: [1000], onStall: stalled });
    const downloading = download(fromHub(), { signal: controller.signal });
    downloading.catch(() => undefined);
    await silence;
    controller.abort(reason);
    await expect(downloading).rejects.toBe(reason);
    await expectQuiet();

    const opening = fromHub().open(name, { signal: AbortSignal.abort(reason) });
    await expect(opening).rejects.toBe(reason);
    await expectQuiet();
  });

  test("between opening and reading ends the transfer", async () => {
    hub.failures.set(name, { stalls: [1000] });
    const file = (await fromHub().open(name))!;
    controller.abort(reason);
    await expect(file.stream({ signal: controller.signal })[Symbol.asyncIterator]().next()).rejects.toBe(reason);
    await expectQuiet();
  });
});
