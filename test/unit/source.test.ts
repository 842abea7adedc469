import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { EngineError } from "../../src/errors.ts";
import { materialize } from "../../src/source/materialize.ts";
import { openSource, type SourceOptions } from "../../src/source/openSource.ts";
import type { CheckpointSource, SourceFile } from "../../src/source/types.ts";
import type { ModelSource } from "../../src/types.ts";
import { type HubServer, startHubServer } from "../fixtures/hubServer.ts";
import { ManualTimers } from "../fixtures/manualTimers.ts";

const encode = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text);
const weights = Uint8Array.from({ length: 300_000 }, (_, i) => i % 251);

let hub: HubServer;
beforeEach(async () => {
  hub = await startHubServer({
    repositories: {
      "acme/tiny": { "config.json": encode('{"n_layer":1}'), "model.safetensors": weights },
      "acme/tiny@refs/pr/1": { "config.json": encode('{"n_layer":2}') },
      "acme/secret": { "config.json": encode('{"n_layer":3}') },
    },
    gated: { "acme/secret": "hf_abc" },
  });
});
afterEach(() => hub.close());

const { retry } = new ManualTimers();

function fromHub(source: ModelSource, options: SourceOptions = {}): CheckpointSource {
  return openSource(source, { retry, ...options, hub: { endpoint: hub.endpoint, ...options.hub } });
}

async function bytesOf(file: SourceFile | null, signal?: AbortSignal): Promise<Uint8Array> {
  const blobs: Uint8Array<ArrayBuffer>[] = [];
  for await (const piece of file!.stream({ signal })) blobs.push(piece.slice());
  return new Uint8Array(await new Blob(blobs).arrayBuffer());
}

/** toEqual walks 300,000 elements in seconds. */
function expectWeights(bytes: Uint8Array): void {
  expect(Buffer.from(bytes).equals(weights)).toBe(true);
}

async function textOf(source: CheckpointSource, name: string): Promise<string> {
  return new TextDecoder().decode(await bytesOf(await source.open(name)));
}

async function errorOf(promise: Promise<unknown>): Promise<EngineError> {
  const error: unknown = await promise.then(() => "nothing was thrown", (reason: unknown) => reason);
  expect(error).toBeInstanceOf(EngineError);
  return error as EngineError;
}

/** A fetch that answers every request from a function, and the URLs it was asked for. */
function fakeFetch(respond: (url: string) => Response | Promise<Response>): { fetch: typeof fetch; urls: string[] } {
  const urls: string[] = [];
  return {
    urls,
    fetch: async (input) => {
      const url = input instanceof Request ? input.url : input.toString();
      urls.push(url);
      return respond(url);
    },
  };
}

describe("openSource, from the hub", () => {
  test("follows the redirect and gives the file with its size", async () => {
    const source = fromHub("acme/tiny");
    expect(source).toMatchObject({ description: "hub acme/tiny@main", safetensorsNames: [], isLocal: false });
    const file = await source.open("model.safetensors");
    expect(file).toMatchObject({ name: "model.safetensors", sizeBytes: weights.length });
    expectWeights(await bytesOf(file));
    expect(hub.requests.map(({ server, path }) => `${server} ${path.split("?")[0]!.split("/").at(-1)}`)).toEqual(["hub model.safetensors", "cdn model.safetensors"]);
  });

  test("downloads again when a file is read again", async () => {
    const file = await fromHub("acme/tiny").open("config.json");
    expect(await bytesOf(file)).toEqual(await bytesOf(file));
    expect(hub.requests.filter(({ server }) => server === "hub")).toHaveLength(2);
  });

  test("takes the revision from the id, then from hub.revision, and escapes its slashes", async () => {
    expect(await textOf(fromHub("acme/tiny@refs/pr/1"), "config.json")).toBe('{"n_layer":2}');
    expect(await textOf(fromHub("acme/tiny", { hub: { revision: "refs/pr/1" } }), "config.json")).toBe('{"n_layer":2}');
    expect(await textOf(fromHub("acme/tiny@main", { hub: { revision: "refs/pr/1" } }), "config.json")).toBe('{"n_layer":1}');
    expect(hub.requests[0]!.path).toBe("/acme/tiny/resolve/refs%2Fpr%2F1/config.json");
  });

  test("takes the address of a model's page for its id", async () => {
    expect(fromHub(`${hub.endpoint}/acme/tiny`).description).toBe("hub acme/tiny@main");
    expect(fromHub(new URL(`${hub.endpoint}/acme/tiny/tree/refs%2Fpr%2F1`)).description).toBe("hub acme/tiny@refs/pr/1");
  });

  test("asks huggingface.co unless told otherwise", async () => {
    const { fetch, urls } = fakeFetch(() => new Response("{}"));
    await openSource("openai-community/gpt2", { fetch }).open("config.json");
    await openSource("a/b", { fetch, hub: { endpoint: "https://mirror.example/hf/" } }).open("config.json");
    expect(urls).toEqual(["https://huggingface.co/openai-community/gpt2/resolve/main/config.json", "https://mirror.example/hf/a/b/resolve/main/config.json"]);
  });

  test("sends the token to the hub and to nobody else", async () => {
    const options = { hub: { token: "hf_abc" } };
    expect(await textOf(fromHub("acme/secret", options), "config.json")).toBe('{"n_layer":3}');
    await fromHub(`${hub.endpoint}/acme/secret/resolve/main/`, options).open("config.json");
    await errorOf(fromHub(`${hub.cdn}/elsewhere/`, options).open("config.json"));
    expect(hub.requests.map(({ server, authorization }) => [server, authorization])).toEqual([
      ["hub", "Bearer hf_abc"],
      ["cdn", undefined],
      ["hub", "Bearer hf_abc"],
      ["cdn", undefined],
      ["cdn", undefined],
    ]);
  });

  test("gives null for a file that is not there", async () => {
    expect(await fromHub("acme/tiny").open("config.json")).not.toBeNull(); // control case
    expect(await fromHub("acme/tiny").open("tokenizer.json")).toBeNull();
  });

  test.each([
    [401, "it does not exist, or needs a token with access (hub.token)", 1],
    [403, "access is refused; a gated model needs a token of an account that accepted its terms (hub.token)", 1],
    [416, "its file is shorter than it announced", 1],
    [418, "expected 200", 1],
    [408, "the server failed; try again later", 6],
    [429, "too many requests; try again later", 6],
    [500, "the server failed; try again later", 6],
    [502, "the server failed; try again later", 6],
    [503, "the server failed; try again later", 6],
    [504, "the server failed; try again later", 6],
  ])("rejects with what a %i means: %s", async (status, meaning, attempts) => {
    await fromHub("acme/tiny").open("config.json"); // control case
    hub.failures.set("config.json", { status });
    hub.requests.length = 0;
    const error = await errorOf(fromHub("acme/tiny").open("config.json"));
    const url = `${hub.endpoint}/acme/tiny/resolve/main/config.json`;
    const message = `${url} answered ${status}: ${meaning} (${attempts} attempt${attempts === 1 ? "" : "s"}, 0 bytes loaded).`;
    expect(error).toMatchObject({ code: "network", message, details: { url, status, attempts, loadedBytes: 0, expectedBytes: null } });
    expect(hub.requests).toHaveLength(attempts);
  });

  test("rejects a transfer that breaks off, with the bytes it had", async () => {
    hub.failures.set("model.safetensors", { cuts: Array<number>(6).fill(1000) });
    const error = await errorOf(bytesOf(await fromHub("acme/tiny").open("model.safetensors")));
    expect(error).toMatchObject({ code: "network", details: { attempts: 6, loadedBytes: 1000, expectedBytes: weights.length } });
    expect(error.message).toMatch(/model\.safetensors broke off \(6 attempts, 1000 of 300000 bytes loaded\)\.$/);
    expect(error.cause).toBeInstanceOf(Error);
  });

  test("reads a compressed body, whose length nobody knows", async () => {
    hub.failures.set("model.safetensors", { gzip: true });
    const file = await fromHub("acme/tiny").open("model.safetensors");
    expect(file!.sizeBytes).toBeNull();
    expectWeights(await bytesOf(file));
  });

  test("rejects with signal.reason, untouched, wherever the abort comes", async () => {
    const reason = new Error("enough");
    const source = fromHub("acme/tiny");
    await expect(source.open("config.json", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);

    hub.failures.set("model.safetensors", { stalls: [1000, 1000] });
    for (const openWithSignal of [true, false]) {
      const controller = new AbortController();
      const signal = controller.signal;
      const file = await source.open("model.safetensors", openWithSignal ? { signal } : {});
      const pieces = file!.stream(openWithSignal ? {} : { signal })[Symbol.asyncIterator]();
      await pieces.next();
      const pending = pieces.next();
      controller.abort(reason);
      await expect(pending).rejects.toBe(reason);
    }
    await hub.dropped;
  });

  test("uses the signal of openSource where a call brings none", async () => {
    const reason = new Error("enough");
    await expect(fromHub("acme/tiny", { signal: AbortSignal.abort(reason) }).open("config.json")).rejects.toBe(reason);
  });

  test("cancels the transfer when the loop is left", async () => {
    hub.failures.set("model.safetensors", { stalls: [1000] });
    for await (const piece of (await fromHub("acme/tiny").open("model.safetensors"))!.stream()) {
      expect(piece.length).toBeGreaterThan(0);
      break;
    }
    await hub.dropped;
  });

  test("keeps the cause where fetch itself fails", async () => {
    const cause = new TypeError("Failed to fetch");
    const { fetch } = fakeFetch(() => Promise.reject(cause));
    const error = await errorOf(openSource("a/b", { fetch, retry }).open("config.json"));
    expect(error).toMatchObject({ code: "network", cause, details: { url: "https://huggingface.co/a/b/resolve/main/config.json" } });
    expect(error.message).toMatch(/could not be reached: Failed to fetch \(3 attempts, 0 bytes loaded\)\.$/);
  });

  test("calls a given fetch as a function, as a page's own must be", async () => {
    const receivers: unknown[] = [];
    const fetch = function (this: unknown): Promise<Response> {
      receivers.push(this);
      return Promise.resolve(new Response("{}"));
    };
    await openSource("a/b", { fetch, retry }).open("config.json");
    expect(receivers).toEqual([undefined]);
  });

  test("takes a fetch that throws for one that rejects", async () => {
    const cause = new Error("blocked");
    const fetch = (): never => {
      throw cause;
    };
    expect(await errorOf(openSource("a/b", { fetch, retry }).open("config.json"))).toMatchObject({ code: "network", cause });
  });

  test("rejects a body shorter than its Content-Length, unless it was compressed", async () => {
    const answer = (headers: Record<string, string>) => fakeFetch(() => new Response(new Uint8Array(10), { headers: { "Content-Length": "12", ...headers } })).fetch;
    const file = await openSource("a/b", { fetch: answer({ "Content-Encoding": "gzip" }) }).open("config.json");
    expect(await bytesOf(file)).toHaveLength(10); // control case
    const short = await openSource("a/b", { fetch: answer({}), retry }).open("config.json");
    const error = await errorOf(bytesOf(short));
    expect(error).toMatchObject({ code: "network", details: { loadedBytes: 10, expectedBytes: 12 } });
  });
});

describe("openSource, from a URL", () => {
  test.each([
    ["https://host/models/tiny", "https://host/models/tiny/config.json"],
    ["https://host/models/tiny/", "https://host/models/tiny/config.json"],
    ["https://host/models/tiny?key=1&b=2#part", "https://host/models/tiny/config.json?key=1&b=2"],
    ["https://host/models/my%20weights.safetensors?key=1", "https://host/models/config.json?key=1"],
  ])("finds config.json of %s", async (source, expected) => {
    const { fetch, urls } = fakeFetch(() => new Response("{}"));
    await openSource(source, { fetch }).open("config.json");
    await openSource(new URL(source), { fetch }).open("config.json");
    expect(urls).toEqual([expected, expected]);
  });

  test("knows the name of a lone .safetensors, and asks for it as it was given", async () => {
    const { fetch, urls } = fakeFetch(() => new Response("x"));
    const source = openSource("https://host/a/my%20weights.safetensors?key=1", { fetch });
    expect(source.safetensorsNames).toEqual(["my weights.safetensors"]);
    await source.open(source.safetensorsNames[0]!);
    expect(urls).toEqual(["https://host/a/my%20weights.safetensors?key=1"]);
  });

  test("shows no query in descriptions and errors, where it may be a key", async () => {
    const { fetch } = fakeFetch(() => new Response("", { status: 500 }));
    const source = openSource("https://host/a/?key=secret", { fetch, retry });
    expect(source.description).toBe("https://host/a/");
    const error = await errorOf(source.open("config.json"));
    expect(error.message + JSON.stringify(error.details)).not.toContain("secret");
  });

  test("resolves a path against the page", async () => {
    vi.stubGlobal("document", { baseURI: "https://page.example/demo/index.html" });
    const { fetch, urls } = fakeFetch(() => new Response("{}"));
    for (const path of ["models/tiny/", "./models/tiny", "/models/tiny", "models/w.safetensors"]) await openSource(path, { fetch }).open("config.json");
    vi.unstubAllGlobals();
    expect(urls.map((url) => url.replace("https://page.example", ""))).toEqual(["/demo/models/tiny/config.json", "/demo/models/tiny/config.json", "/models/tiny/config.json", "/demo/models/config.json"]);
  });
});

describe("openSource, from an extension's own files", () => {
  const page = "chrome-extension://abcdef";
  const { fetch } = fakeFetch((url) => {
    if (url === `${page}/model/config.json`) return new Response("{}");
    throw new TypeError("Failed to fetch");
  });
  beforeEach(() => void vi.stubGlobal("origin", page));
  afterEach(() => vi.unstubAllGlobals());

  test("reads them, and takes one that cannot be fetched for one that is not there", async () => {
    const source = openSource(new URL(`${page}/model`), { fetch, retry });
    expect(source.description).toBe(`${page}/model/`);
    expect(await textOf(source, "config.json")).toBe("{}");
    expect(await source.open("tokenizer.json")).toBeNull();
    const served = openSource("https://host/model/", { fetch, retry }); // control case: a server would have answered 404
    expect(await errorOf(served.open("tokenizer.json"))).toMatchObject({ code: "network" });
  });

  test("throws TypeError for those of another extension", () => {
    openSource(`${page}/model/`); // control case
    expect(() => openSource("chrome-extension://abcdefg/model/")).toThrow(TypeError);
  });
});

describe("openSource, from files and buffers", () => {
  const config = new File(["{}"], "config.json");
  const model = new File([weights], "model.safetensors");
  const inFolder = (path: string): File => Object.defineProperty(new File(["{}"], path.split("/").at(-1)!), "webkitRelativePath", { value: path });

  test("opens files by name, with sizes", async () => {
    const source = openSource([config, model]);
    expect(source).toMatchObject({ description: "2 files", safetensorsNames: ["model.safetensors"], isLocal: true });
    expect((await source.open("model.safetensors"))!.sizeBytes).toBe(weights.length);
    expectWeights(await bytesOf(await source.open("model.safetensors")));
    expect(await source.open("vocab.json")).toBeNull();
  });

  test("takes any iterable of files, once", async () => {
    const source = openSource(new Set([config, model]).values());
    expect(await textOf(source, "config.json")).toBe("{}");
    expect(await textOf(source, "config.json")).toBe("{}");
  });

  test("takes a record of Blob, ArrayBuffer and Uint8Array", async () => {
    const source = openSource({ "config.json": new Blob(["blob"]), "a/vocab.json": encode("no"), "model.safetensors": weights.buffer, "merges.txt": encode("view") });
    expect(await textOf(source, "config.json")).toBe("blob");
    expect(await textOf(source, "merges.txt")).toBe("view");
    expectWeights(await bytesOf(await source.open("model.safetensors")));
    expect(source.safetensorsNames).toEqual(["model.safetensors"]);
  });

  test("takes the outermost checkpoint of a folder with subfolders", async () => {
    const source = openSource([inFolder("gpt2/onnx/config.json"), inFolder("gpt2/config.json"), inFolder("gpt2/model.safetensors")]);
    expect(source.safetensorsNames).toEqual(["model.safetensors"]);
    expect(await source.open("config.json")).not.toBeNull();
  });

  test("rejects two files of one name, naming both", () => {
    openSource([inFolder("a/config.json"), inFolder("a/model.safetensors")]); // control case
    const twice = (): unknown => openSource([inFolder("a/config.json"), inFolder("b/config.json")]);
    expect(twice).toThrow("Two files are named config.json: a/config.json and b/config.json; expected one checkpoint.");
    expect(twice).toThrow(expect.objectContaining({ code: "checkpoint" }));
  });

  test("rejects a file that can no longer be read", async () => {
    const gone = new DOMException("gone", "NotReadableError");
    vi.spyOn(model, "stream").mockReturnValueOnce(new ReadableStream({ pull: (controller) => controller.error(gone) }));
    const error = await errorOf(bytesOf(await openSource([model]).open("model.safetensors")));
    expect(error).toMatchObject({ code: "checkpoint", cause: gone, details: { file: "model.safetensors" } });
  });

  test("an abort ends the reading of a file", async () => {
    const reason = new Error("enough");
    await expect(openSource([model]).open("model.safetensors").then((file) => bytesOf(file, AbortSignal.abort(reason)))).rejects.toBe(reason);
  });
});

test("openSource takes more files than a call takes arguments", async () => {
  const nothing = new Uint8Array(0);
  const source = openSource(Object.fromEntries(Array.from({ length: 200_000 }, (_, i) => [`photos/${i}.jpg`, nothing])));
  expect(source.description).toBe("200000 files");
});

describe("openSource, from what is no source", () => {
  test.each<[source: unknown, message: string]>([
    ["", 'source "" is neither a hub id nor a URL'],
    ["gpt2", 'source "gpt2" is neither a hub id nor a URL'],
    ["a/b/c", 'source "a/b/c" is neither a hub id nor a URL'],
    ["owner/name@", 'source "owner/name@" is neither a hub id nor a URL'],
    ["ftp://host/a/", "source ftp://host/a/ has the scheme ftp:; expected http: or https:, or an address of the page's own origin."],
    ["https://", 'source "https://" is not a URL; expected an absolute http(s) URL.'],
    ["./models/", 'source "./models/" is not a URL (a path needs a page it is relative to); expected an absolute http(s) URL.'],
    [null, "source is null; expected a hub id"],
    [undefined, "source is undefined; expected a hub id"],
    [7, "source is number; expected a hub id"],
    [[], "source holds no files"],
    [{}, "source holds no files"],
    [["config.json"], "source[0] is a string; expected a File."],
    [[new Blob([])], "source[0] is not a File; expected a File."],
    [{ "config.json": "{}" }, 'source["config.json"] is string; expected a Blob, ArrayBuffer or Uint8Array.'],
    [new Blob([]), "source is a Blob; expected a record that names it"],
    [new Uint8Array(4), "source is a Uint8Array; expected a record that names it"],
  ])("throws TypeError for %o", (source, message) => {
    openSource("owner/name"); // control case
    expect(() => openSource(source as ModelSource)).toThrow(TypeError);
    expect(() => openSource(source as ModelSource)).toThrow(message);
  });

  test("throws TypeError for an endpoint that is no URL", () => {
    expect(() => openSource("owner/name", { hub: { endpoint: "mirror" } })).toThrow(new TypeError('hub.endpoint is "mirror"; expected an http(s) URL.'));
  });
});

describe("materialize", () => {
  test("downloads each file once, however often it is opened and read", async () => {
    const progress: number[] = [];
    const source = await materialize(fromHub("acme/tiny"), { onBytes: ({ loadedBytes }) => progress.push(loadedBytes) });
    expect(source).toMatchObject({ isLocal: true, description: "hub acme/tiny@main" });
    const files = await Promise.all([source.open("model.safetensors"), source.open("model.safetensors")]);
    for (const file of files) expectWeights(await bytesOf(file));
    expectWeights(await bytesOf(files[0]));
    expect(await source.open("vocab.json")).toBeNull();
    expect(await source.open("vocab.json")).toBeNull();
    expect(hub.requests.filter(({ server }) => server === "hub")).toHaveLength(2);
    expect(progress.at(-1)).toBe(weights.length);
  });

  test("tries a failed download again", async () => {
    const source = await materialize(fromHub("acme/tiny"));
    hub.failures.set("config.json", { status: 503 });
    await errorOf(source.open("config.json"));
    hub.failures.clear();
    expect(await textOf(source, "config.json")).toBe('{"n_layer":1}');
  });

  test("returns a local source as it is", async () => {
    const source = openSource({ "config.json": encode("{}") });
    expect(await materialize(source)).toBe(source);
  });
});
