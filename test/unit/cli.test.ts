import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { version } from "../../package.json";
import { runCli } from "../../src/cli/cli.ts";
import type { CliIo } from "../../src/cli/io.ts";
import { writeStream } from "../../src/cli/writeStream.ts";
import { calibrate, type CompareOptions, compareQuantizations, decodeComparison, EngineError, type GenerateOptions, loadModel, type LoadOptions, type Model, type ModelSource, type PerplexityOptions } from "../../src/index.ts";
import { seededCheckpoint } from "../fixtures/seededCheckpoint.ts";

const story = [" there", " was", " a", " fox"];
const summary = { finishReason: "maxTokens", promptTokens: 4, newTokens: 4, prefillMs: 12, decodeMs: 300 } as const;

const tinyModel = seededCheckpoint({ nLayer: 1, nHead: 1, nEmbd: 4, nPositions: 16, vocabSize: 50257 });

/** What a call of the command line did. */
interface Call {
  code: number;
  stdout: string;
  stderr: string;
  loads: { source: ModelSource; options: LoadOptions }[];
  generated: { prompt: unknown; options: GenerateOptions }[];
  scored: { text: unknown; options: PerplexityOptions }[];
  compared: CompareOptions[];
  written: Record<string, string>;
  disposed: number;
}

/** Runs the command line on a model that only records what it is asked. */
async function call(args: string[], overrides: Partial<CliIo> & { onToken?: () => void } = {}): Promise<Call> {
  const seen: Call = { code: -1, stdout: "", stderr: "", loads: [], generated: [], scored: [], compared: [], written: {}, disposed: 0 };
  const dispose = () => void seen.disposed++;
  const fakeModel = {
    adapter: { backend: "cpu", vendor: "", architecture: "", description: "" },
    quantization: { recipe: { name: "int8" }, bitsPerWeight: 8.25, bytes: { weights: 1, embedding: 1, scales: 1, total: 12_340_000 }, quantizeMs: 1 },
    generate(prompt: unknown, options: GenerateOptions) {
      seen.generated.push({ prompt, options });
      return {
        summary,
        async *[Symbol.asyncIterator]() {
          for (const text of story) {
            overrides.onToken?.();
            options.signal?.throwIfAborted();
            yield { id: 0, text, logProb: 0 };
          }
        },
      };
    },
    async complete(prompt: unknown, options: GenerateOptions) {
      seen.generated.push({ prompt, options });
      return { ...summary, text: story.join(""), tokens: [1, 2, 3, 4] };
    },
    async perplexity(text: unknown, options: PerplexityOptions) {
      seen.scored.push({ text, options });
      options.onProgress?.({ scoredTokens: 50, totalTokens: 100, perplexity: 9 });
      return { perplexity: 9.87654, standardError: 0.12345, nll: 2.29, bitsPerByte: 1, scoredTokens: 100, windows: 1, protocol: "strided", windowTokens: 256, strideTokens: 128 };
    },
    dispose,
    [Symbol.dispose]: dispose,
  };
  const io: CliIo = {
    stdout: { write: (text) => void (seen.stdout += text), isTTY: false },
    stderr: { write: (text) => void (seen.stderr += text), isTTY: false },
    signal: new AbortController().signal,
    readText: async (path) => `text of ${path}`,
    async writeStream(path, stream, onBytes) {
      const content = await new Response(stream as ReadableStream<Uint8Array<ArrayBuffer>>).text();
      onBytes(content.length);
      seen.written[path] = content;
      return 12_340_000;
    },
    exportSafetensors: (_model, { signal } = {}) =>
      new ReadableStream({
        pull(stream) {
          signal?.throwIfAborted();
          stream.enqueue(new TextEncoder().encode("weights"));
          stream.close();
        },
      }),
    writeText: async (path, text) => void (seen.written[path] = text),
    compareQuantizations(_source, options) {
      seen.compared.push(options);
      return compareQuantizations(tinyModel, { ...options, backend: "cpu" });
    },
    calibrate: (_source, options) => calibrate(tinyModel, options),
    requestGpu: async () => null,
    async loadModel(source, options = {}) {
      seen.loads.push({ source, options });
      return fakeModel as unknown as Model;
    },
    ...overrides,
  };
  seen.code = await runCli(args, io);
  return seen;
}

describe("nibble", () => {
  test("prints the help on stdout", async () => {
    const { code, stdout, stderr } = await call(["--help"]);
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toContain("nibble <command>");
  });
  test("prints the version of package.json", async () => {
    expect(await call(["--version"])).toMatchObject({ code: 0, stdout: `${version}\n` });
  });
  test.each([
    [[], "No command was given."],
    [["fly"], 'There is no command "fly".'],
    [["--fast"], 'There is no option "--fast".'],
  ])("refuses %j with exit code 2", async (args, message) => {
    const { code, stdout, stderr } = await call(args);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(message);
  });
  test.each([["generate", "--quantization"], ["perplexity", "--quantization"], ["export", "--out"], ["compare", "--shard"], ["merge", "--markdown"], ["calibrate", "--threshold"]])("explains %s, even beside an option that does not exist", async (command, option) => {
    const { code, stdout, loads } = await call([command, "--nonsense", "--help"]);
    expect([code, loads]).toEqual([0, []]);
    expect(stdout).toContain(`Usage: nibble ${command}`);
    expect(stdout).toContain(option);
  });
});

describe("nibble generate", () => {
  test("streams the new text to stdout and says the rest on stderr", async () => {
    const { code, stdout, stderr, disposed } = await call(["generate", "Once upon a time"]);
    expect([code, stdout, disposed]).toEqual([0, " there was a fox\n", 1]);
    expect(stderr).toContain("10.0 tokens/s"); // (4 − 1) tokens in 300 ms
  });
  test("hands every option to the engine", async () => {
    const options = "--quantization nf4 --max-tokens 60 --temperature 0.7 --top-k 40 --top-p 0.9 --min-p 0.05 --seed 7 --stop . --stop ! --backend cpu --kv-cache f16 --context 128";
    const { code, loads, generated } = await call(["generate", "Hello", ...options.split(" ")]);
    expect(code).toBe(0);
    expect(loads[0]?.options).toMatchObject({ quantization: "nf4", backend: "cpu", kvCache: "f16", contextLength: 128 });
    expect(generated[0]).toMatchObject({ prompt: "Hello", options: { maxTokens: 60, temperature: 0.7, topK: 40, topP: 0.9, minP: 0.05, seed: 7, stop: [".", "!"] } });
  });
  test("takes a recipe from a file, and a text to calibrate it with", async () => {
    const texts: Record<string, string> = { "mine.json": '{"linear":{"type":"nf4","block":64},"rounding":"gptq"}', "c.txt": "text" };
    const { loads } = await call(["export", "--out", "a.safetensors", "--quantization", "mine.json", "--calibration", "c.txt"], { readText: async (path) => texts[path]! });
    expect(loads[0]?.options).toMatchObject({ quantization: { name: "mine", linear: { type: "nf4", block: 64 }, rounding: "gptq" }, calibration: "text" });
  });
  test("leaves the quantization to the engine where none is given", async () => {
    expect((await call(["generate", "Hello"])).loads[0]?.options.quantization).toBeUndefined();
  });
  test("opens the embedded model by default, as named files", async () => {
    const { loads } = await call(["generate", "Hello"]);
    expect(Object.keys(loads[0]?.source as object)).toEqual(expect.arrayContaining(["config.json", "model.safetensors"]));
  });
  test("leaves a hub id to the engine", async () => {
    const { loads } = await call(["generate", "Hello", "--model", "openai-community/gpt2"]);
    expect(loads[0]?.source).toBe("openai-community/gpt2");
  });
  test("reads the prompt from stdin where it is -", async () => {
    const { generated } = await call(["generate", "-"]);
    expect(generated[0]?.prompt).toBe("text of -");
  });
  test("prints one JSON object with --json", async () => {
    const { stdout } = await call(["generate", "Hello", "--json"]);
    expect(JSON.parse(stdout)).toMatchObject({ prompt: "Hello", text: " there was a fox", tokens: [1, 2, 3, 4], finishReason: "maxTokens", quantization: "int8" });
  });
  test.each([
    [["generate"], "prompt is missing"],
    [["generate", "a", "b"], "found 2"],
    [["generate", "a", "--fast"], "--fast"],
    [["generate", "a", "--seed"], "--seed"],
    [["generate", "a", "--max-tokens", "0"], '--max-tokens is "0"'],
    [["generate", "a", "--max-tokens", "1.5"], '--max-tokens is "1.5"'],
    [["generate", "a", "--temperature", "warm"], '--temperature is "warm"'],
    [["generate", "a", "--top-p", "1.01"], "--top-p"],
    [["generate", "a", "--top-p", "0"], "--top-p"],
    [["generate", "a", "--min-p=-1"], "--min-p"],
    [["generate", "a", "--quantization", "int3"], '"int3"'],
    [["generate", "a", "--quantization", "int8,nf4"], "--quantization"],
    [["generate", "a", "--backend", "cuda"], "auto, webgpu, cpu"],
    [["generate", "a", "--kv-cache", "int4"], "--kv-cache"],
    [["generate", "a", "--model", "./no/such/folder"], "no such folder"],
    [["generate", "a", "--model", ""], "--model is empty"],
    [["generate", "a", "--backend", "webgpu"], "npm install webgpu"],
  ])("refuses %j with exit code 2 before it loads anything", async (args, message) => {
    const { code, stdout, stderr, loads } = await call(args);
    expect([code, stdout, loads]).toEqual([2, "", []]);
    expect(stderr).toContain(message);
  });
  test("says an EngineError in one line with exit code 1", async () => {
    const loadModel = () => Promise.reject(new EngineError("checkpoint", "There is no config.json."));
    expect(await call(["generate", "a"], { loadModel })).toMatchObject({ code: 1, stdout: "", stderr: "nibble: There is no config.json.\n" });
  });
  test("takes a RangeError of the engine for wrong usage", async () => {
    const loadModel = () => Promise.reject(new RangeError("contextLength is 9999; expected 1…256."));
    const { code, stderr } = await call(["generate", "a", "--context", "9999"], { loadModel });
    expect([code, stderr]).toEqual([2, "nibble: contextLength is 9999; expected 1…256.\nTry: nibble generate --help\n"]);
  });
  test("ends with 130 after an interrupt and frees the model", async () => {
    const controller = new AbortController();
    const { code, disposed } = await call(["generate", "a"], { signal: controller.signal, onToken: () => controller.abort() });
    expect([code, disposed]).toEqual([130, 1]);
  });
});

describe("nibble perplexity", () => {
  test("prints one aligned row per recipe", async () => {
    const { code, stdout, scored, disposed } = await call(["perplexity", "--text", "file.txt", "--quantization", "f32,int8"]);
    expect([code, disposed]).toEqual([0, 2]);
    expect(scored[0]?.text).toBe("text of file.txt");
    const [header, ...rows] = stdout.trimEnd().split("\n");
    expect(header).toMatch(/^recipe +bits\/weight +MB +perplexity ± error +tokens$/);
    expect(rows.map((row) => row.split(/ {2,}/))).toEqual(["f32", "int8"].map((name) => [name, "8.250", "12.34", "9.8765 ± 0.1235", "100"]));
    expect(rows.map((row) => row.length)).toEqual([header?.length, header?.length]);
  });
  test("measures f32, int8 and nf4 by default", async () => {
    const { loads } = await call(["perplexity", "--text", "file.txt"]);
    expect(loads.map(({ options }) => options.quantization)).toEqual(["f32", "int8", "nf4"]);
  });
  test("hands protocol, window and stride to the engine", async () => {
    const { scored } = await call(["perplexity", "--text", "t", "--quantization", "f32", "--protocol", "strided", "--window", "128", "--stride", "32"]);
    expect(scored[0]?.options).toMatchObject({ protocol: "strided", windowTokens: 128, strideTokens: 32 });
  });
  test("prints one JSON object with --json", async () => {
    const { stdout } = await call(["perplexity", "--text", "t", "--quantization", "nf4", "--json"]);
    expect(JSON.parse(stdout)).toMatchObject({ text: "t", rows: [{ name: "nf4", perplexity: 9.87654, standardError: 0.12345, scoredTokens: 100, bytes: { total: 12_340_000 } }] });
  });
  test("goes on after a recipe that cannot run and ends with exit code 1", async () => {
    let loads = 0;
    const control = await call(["perplexity", "--text", "t", "--quantization", "f32,nf4"]);
    expect(control.code).toBe(0);
    const { code, stdout } = await call(["perplexity", "--text", "t", "--quantization", "f32,nf4", "--json"], {
      async loadModel() {
        throw new EngineError(++loads === 1 ? "outOfMemory" : "unsupported", `Load ${loads} failed.`);
      },
    });
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ rows: [{ name: "f32", error: { code: "outOfMemory" } }, { name: "nf4", error: { code: "unsupported", message: "Load 2 failed." } }] });
  });
  test.each([
    [["perplexity"], "--text is missing"],
    [["perplexity", "file.txt"], "--text"],
    [["perplexity", "--text", "t", "--window", "1"], "--window"],
    [["perplexity", "--text", "t", "--protocol", "sliding"], "strided, disjoint, llama.cpp"],
    [["perplexity", "--text", "t", "--protocol", "disjoint", "--stride", "8"], "--stride"],
    [["perplexity", "--text", "t", "--quantization", "f32,,nf4"], '""'],
  ])("refuses %j with exit code 2 before it loads anything", async (args, message) => {
    const { code, stderr, loads } = await call(args);
    expect([code, loads]).toEqual([2, []]);
    expect(stderr).toContain(message);
  });
});

describe("nibble calibrate", () => {
  const readText = async (): Promise<string> => "a text of more than one token";
  test("shows for every matrix and the head what its inputs were, ranges and outliers", async () => {
    const { code, stdout, stderr } = await call(["calibrate", "--text", "a.txt", "--threshold", "0.5", "--backend", "cpu"], { readText });
    expect(code).toBe(0);
    const [head, ...rows] = stdout.trimEnd().split("\n");
    expect(head).toMatch(/^input of +absmax +mean \|x\| +99.99 % +least error +outlier columns +values, %$/);
    expect(rows.map((row) => row.split(" ")[0])).toEqual(["h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_fc", "h.0.mlp.c_proj", "wte"]);
    expect(rows[0]).toMatch(/ [1-4] of 4 /);
    expect(stderr).toContain(" · CPU · 7 tokens in 1 windows of 7\n");
  });
  test("gives the whole report as JSON", async () => {
    const { stdout } = await call(["calibrate", "--text", "a.txt", "--json"], { readText });
    expect(JSON.parse(stdout)).toMatchObject({ tokens: 7, windows: 1, outlierThreshold: 6, inputs: expect.arrayContaining([expect.objectContaining({ name: "wte.weight", outlierColumns: [] })]) as unknown });
  });
  test("shows with --quantization what the text decides for each matrix, and dashes where it decides nothing", async () => {
    const int8 = { type: "int8", mode: "absmax", granularity: "channel" };
    const recipe = { linear: int8, embedding: int8, activations: { type: "int8", ranges: "static" }, observer: "mse", outlierThreshold: 0.5, equalization: "smoothquant" };
    const texts: Record<string, string> = { "a.txt": await readText(), "mine.json": JSON.stringify(recipe) };
    const overrides: Partial<CliIo> = { readText: async (path) => texts[path]!, loadModel: (_source, options) => loadModel(tinyModel, options) };
    const decided = await call(["calibrate", "--text", "a.txt", "--quantization", "mine.json", "--backend", "cpu"], overrides);
    const cells = ({ stdout }: Call): string[][] => stdout.trimEnd().split("\n").map((row) => row.split(/ {2,}/));
    const format = "int8 absmax, per channel";
    const found = [/^\d+\.\d{3}$/, "mse", /^[0-4] of 4$/, /^\d+\.\d{3}$/].map((cell) => (typeof cell === "string" ? cell : (expect.stringMatching(cell) as string)));
    const [wide, dash] = [[...found.slice(0, 2), expect.stringMatching(/^\d+ of 16$/) as string, found[3]], "—"];
    expect(decided.stderr).toContain(" · mine · CPU\n");
    expect(cells(decided)).toEqual([
      ["matrix", "range", "observer", "outlier columns", "values, %", "α", "format"],
      ["h.0.attn.c_attn", ...found, "0.50", format],
      ["h.0.attn.c_proj", ...found, dash, format],
      ["h.0.mlp.c_fc", ...found, "0.50", format],
      ["h.0.mlp.c_proj", ...wide, dash, format],
      ["wte", ...found, dash, format],
    ]);
    const plain = await call(["calibrate", "--text", "a.txt", "--quantization", "int8", "--backend", "cpu"], overrides);
    expect(cells(plain)[1]).toEqual(["h.0.attn.c_attn", dash, dash, dash, dash, dash, format]); // control case
    const { stdout } = await call(["calibrate", "--text", "a.txt", "--quantization", "mine.json", "--json", "--backend", "cpu"], overrides);
    expect(JSON.parse(stdout)).toMatchObject({ recipe: { ...recipe, name: "mine" }, tensors: expect.arrayContaining([expect.objectContaining({ name: "h.0.mlp.c_fc.weight", input: expect.objectContaining({ smoothing: 0.5, observer: "mse" }) as unknown })]) as unknown });
  });
  test.each([
    [["calibrate"], "--text is missing"],
    [["calibrate", "a.txt"], '"a.txt"'],
    [["calibrate", "--text", "a.txt", "--threshold", "0"], "--threshold"],
    [["calibrate", "--text", "a.txt", "--threshold", "6", "--quantization", "nf4"], "--threshold"],
    [["calibrate", "--text", "a.txt", "--quantization", "int8,nf4"], "one preset or recipe"],
  ])("refuses %j with exit code 2", async (args, message) => {
    expect(await call(args, { readText })).toMatchObject({ code: 2, stdout: "", stderr: expect.stringContaining(message) as string });
  });
});

describe("nibble export", () => {
  test("writes the model as it is quantized, and says on stdout what and where", async () => {
    const { code, stdout, loads, written, disposed } = await call(["export", "--out", "tiny.safetensors", "--quantization", "nf4", "--backend", "cpu"]);
    expect([code, disposed]).toEqual([0, 1]);
    expect(loads[0]?.options).toMatchObject({ quantization: "nf4", backend: "cpu" });
    expect(written).toEqual({ "tiny.safetensors": "weights" });
    expect(stdout).toBe("tiny.safetensors · int8 · 8.250 bits/weight · 12.34 MB\n");
  });
  test("leaves the quantization to the engine where none is given", async () => {
    expect((await call(["export", "--out", "a.safetensors"])).loads[0]?.options.quantization).toBeUndefined();
  });
  test.each([
    [["export"], "--out is missing"],
    [["export", "a.safetensors"], "--out"],
    [["export", "--out", "a.bin"], "ends with .safetensors"],
    [["export", "--out", "no/such/folder/a.safetensors"], 'no folder "no/such/folder"'],
    [["export", "--out", "a.safetensors", "--quantization", "int8,nf4"], "one preset or recipe"],
    [["export", "--out", "a.safetensors", "--context", "8"], "--context"],
  ])("refuses %j with exit code 2 before it loads anything", async (args, message) => {
    const { code, stderr, loads } = await call(args);
    expect([code, loads]).toEqual([2, []]);
    expect(stderr).toContain(message);
  });
  test("ends with 130 after an interrupt and with 1 where writing fails, and frees the model", async () => {
    const controller = new AbortController();
    const loadModel: CliIo["loadModel"] = async () => (controller.abort(), { quantization: { recipe: {}, bitsPerWeight: 8, bytes: {} }, adapter: { backend: "cpu" }, [Symbol.dispose]: () => undefined } as unknown as Model);
    expect((await call(["export", "--out", "a.safetensors"], { signal: controller.signal, loadModel })).code).toBe(130);
    const writeStream = () => Promise.reject(new EngineError("storage", "The disk is full."));
    expect(await call(["export", "--out", "a.safetensors"], { writeStream })).toMatchObject({ code: 1, stdout: "", disposed: 1, stderr: expect.stringContaining("nibble: The disk is full.\n") as string });
  });
});

describe("writeStream", () => {
  const folder = mkdtempSync(join(tmpdir(), "nibble-write-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  const chunks = ["abc", "", "defg"].map((text) => new TextEncoder().encode(text));
  const pieces = (end: (stream: ReadableStreamDefaultController<Uint8Array>) => void): ReadableStream<Uint8Array> => {
    const left = [...chunks];
    return new ReadableStream({ pull: (stream) => (left.length > 0 ? stream.enqueue(left.shift()) : end(stream)) });
  };

  test("writes all chunks under the name, and reports bytes", async () => {
    const path = join(folder, "a.safetensors");
    const reports: number[] = [];
    expect(await writeStream(path, pieces((stream) => stream.close()), (bytes) => reports.push(bytes))).toBe(7);
    expect([readFileSync(path, "utf8"), reports]).toEqual(["abcdefg", [3, 3, 7]]);
    expect(readdirSync(folder)).toEqual(["a.safetensors"]);
  });
  test("leaves an older file and nothing else where the stream fails, whose reason it gives", async () => {
    const path = join(folder, "a.safetensors");
    const reason = new Error("enough");
    await expect(writeStream(path, pieces((stream) => stream.error(reason)), () => undefined)).rejects.toBe(reason);
    expect([readFileSync(path, "utf8"), readdirSync(folder)]).toEqual(["abcdefg", ["a.safetensors"]]);
  });
  test("rejects with `storage` and cancels the stream where the disk refuses", async () => {
    let cancelled = false;
    const stream = new ReadableStream<Uint8Array>({ cancel: () => void (cancelled = true) });
    await expect(writeStream(join(folder, "none", "a.safetensors"), stream, () => undefined)).rejects.toMatchObject({ code: "storage", message: expect.stringContaining("Cannot write") as string });
    expect(cancelled).toBe(true);
  });
});

describe("nibble compare", () => {
  const text = "Once upon a time there was a fox who found a bell in the snow and rang it until the whole wood woke up and sang.";
  const recipe = { linear: { type: "int4", mode: "absmax", granularity: { group: 32 } } };
  const filesOnDisk: Record<string, string> = { "t.txt": text, "mine.json": JSON.stringify(recipe), "named.json": JSON.stringify({ ...recipe, name: "four bits" }), "broken.json": "{", "list.json": "[1]", "wrong.json": '{"linear":{"type":"int3"}}', "null.json": "null" };
  const compare = (args: string, files: Record<string, string> = {}, overrides: Partial<CliIo> = {}): Promise<Call> =>
    call(args.split(" "), {
      async readText(path) {
        const content = { ...filesOnDisk, ...files }[path];
        if (content === undefined) throw new EngineError("storage", `Cannot read ${path}.`);
        return content;
      },
      ...overrides,
    });

  test("prints one row of a table per recipe, the baseline first, compared with nothing", async () => {
    const { code, stdout, stderr } = await compare("compare --text t.txt --recipes int8,mine.json,named.json");
    expect(code, stderr).toBe(0);
    const [head, rule, ...rows] = stdout.trimEnd().split("\n").map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()));
    expect(head).toEqual(["recipe", "bits/weight", "MB", "perplexity", "ratio", "KL mean, nats", "KL median", "KL 99 %", "KL max", "same top, %", "Δp RMS, %", "tokens/s"]);
    expect(rule).toHaveLength(12);
    expect(rows.map(([name]) => name)).toEqual(["f32", "int8", "mine", "four bits"]);
    expect(rows[0]!.slice(4, 11)).toEqual(Array.from({ length: 7 }, () => "—"));
    for (const row of rows.slice(1)) {
      expect(row).toHaveLength(12);
      expect(row[4]).toMatch(/^[01]\.\d{5} ± \d\.\d{5}$/);
    }
    expect(stderr).toMatch(/ · CPU · strided, \d windows of 16 tokens, stride 8, \d+ tokens scored\n$/);
  });

  test("prints each row when it is known", async () => {
    let stdout = "";
    let atSecond: string | undefined;
    const watched: CliIo["compareQuantizations"] = (_source, options) => compareQuantizations(tinyModel, { ...options, backend: "cpu", onProgress: ({ row }) => void (row === 1 && (atSecond ??= stdout)) });
    await compare("compare --text t.txt --recipes int8", {}, { compareQuantizations: watched, stdout: { write: (text) => void (stdout += text), isTTY: false } });
    expect(atSecond).toMatch(/^\| recipe .*\n\| -.*\n\| f32 .*\n$/);
    expect(stdout).toContain("| int8 ");
  });

  test("hands every option to the engine", async () => {
    const { compared } = await compare("compare --text t.txt --recipes nf4 --baseline named.json --protocol strided --window 12 --stride 5 --calibration mine.json --kv-cache int8 --backend cpu --context 14 --shard 2/3 --json");
    expect(compared[0]).toMatchObject({
      text,
      recipes: ["nf4"],
      baseline: { ...recipe, name: "four bits" },
      protocol: "strided",
      windowTokens: 12,
      strideTokens: 5,
      calibration: filesOnDisk["mine.json"],
      kvCache: "int8",
      backend: "cpu",
      contextLength: 14,
      shard: { index: 1, count: 3 },
      samples: true,
    });
  });

  test("compares f32, int8 and nf4 by default, without samples", async () => {
    const { compared } = await compare("compare --text t.txt --json");
    expect(compared[0]).toMatchObject({ recipes: ["f32", "int8", "nf4"], baseline: "f32", shard: undefined, samples: false });
  });

  test("writes JSON in full and CSV, to stdout or to a file", async () => {
    const { stdout, written } = await compare("compare --text t.txt --recipes int8 --json --samples");
    const { rows } = decodeComparison(stdout);
    expect([rows.map(({ name }) => name), rows[1]!.samples!.nll.length > 20, written]).toEqual([["f32", "int8"], true, {}]);
    const csv = await compare("compare --text t.txt --recipes int8 --csv --out rows.csv");
    expect([csv.code, csv.stdout]).toEqual([0, ""]);
    const [names, f32] = csv.written["rows.csv"]!.split("\r\n").map((line) => line.split(","));
    expect(f32![names!.indexOf("perplexity")]).toBe(String(rows[0]!.perplexity));
    expect((await compare("compare --text t.txt --recipes int8 --markdown --out rows.md")).written["rows.md"]).toContain("| int8 ");
  });

  test("goes on after a recipe that cannot run and ends with exit code 1", async () => {
    const hugeWeights = seededCheckpoint({ nLayer: 1, nHead: 2, nEmbd: 4, nPositions: 16, vocabSize: 50257, outliers: { channels: [3], gain: 1e-6 } });
    const { code, stdout, stderr } = await compare("compare --text t.txt --recipes f16,nf4", {}, { compareQuantizations: (_source, options) => compareQuantizations(hugeWeights, { ...options, backend: "cpu" }) });
    expect(code).toBe(1);
    expect(stdout).toMatch(/\| f16 +\| Tensor "h\.0\.attn\.c_attn\.weight": .*at most ±65504.*\n\| nf4 /);
    expect(stderr).toContain("at most ±65504");
  });

  test("asks for calibration text where a recipe needs it, with exit code 2, and runs with it", async () => {
    const { code, stderr } = await compare("compare --text t.txt --recipes int8-static");
    expect([code, stderr]).toEqual([2, expect.stringContaining("calibration is missing")]);
    expect((await compare("compare --text t.txt --recipes int8-static --calibration t.txt")).stdout).toContain("| int8-static ");
  });

  test.each([
    ["compare", "--text is missing"],
    ["compare t.txt", "--text"],
    ["compare --text t.txt --json --csv", "--json and --csv exclude each other"],
    ["compare --text t.txt --shard 0/3", '--shard is "0/3"; expected i/n'],
    ["compare --text t.txt --shard 4/3", '--shard is "4/3"'],
    ["compare --text t.txt --shard 2", '--shard is "2"'],
    ["compare --text t.txt --recipes int8,int3", '--recipes has "int3"; expected a .json file or of f32'],
    ["compare --text t.txt --baseline f32,f16", '--baseline has "f32,f16"'],
    ["compare --text t.txt --recipes broken.json", 'recipe file "broken.json" is no JSON'],
    ["compare --text t.txt --recipes null.json", '"null.json" holds no object'],
    ["compare --text t.txt --protocol disjoint --stride 8", "--stride"],
    ["compare --text t.txt --backend webgpu", "npm install webgpu"],
  ])("refuses %j with exit code 2 before it compares anything", async (args, message) => {
    const { code, stdout, stderr, compared } = await compare(args);
    expect([code, stdout, compared]).toEqual([2, "", []]);
    expect(stderr).toContain(message);
  });

  test.each([
    ["wrong.json", 'Recipe "wrong": quantization.linear'],
    ["list.json", 'Recipe "list": quantization'],
    ["int8,int8", 'two recipes named "int8"'],
  ])("refuses --recipes %s as the engine does, with exit code 2", async (recipes, message) => {
    const { code, stdout, stderr } = await compare(`compare --text t.txt --recipes ${recipes}`);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(message);
  });

  test("ends with 130 after an interrupt", async () => {
    const controller = new AbortController();
    const stopping: CliIo["compareQuantizations"] = (_source, options) => compareQuantizations(tinyModel, { ...options, backend: "cpu", onProgress: ({ row }) => row === 1 && controller.abort() });
    expect(await compare("compare --text t.txt", {}, { signal: controller.signal, compareQuantizations: stopping })).toMatchObject({ code: 130 });
  });

  describe("and nibble merge", () => {
    const shardFiles = (async () => {
      const files: Record<string, string> = {};
      for (const i of [1, 2, 3]) Object.assign(files, (await compare(`compare --text t.txt --recipes int8 --shard ${i}/3 --json --out ${i}.json`)).written);
      return files;
    })();

    test("print what the whole run prints, rounded and in full", async () => {
      const files = await shardFiles;
      const withoutRate = (table: string): string => table.replaceAll(/\|[^|]*\|\n/g, "\n");
      const [whole, merged] = [await compare("compare --text t.txt --recipes int8"), await compare("merge 3.json 1.json 2.json", files)];
      expect(merged.code, merged.stderr).toBe(0);
      expect(withoutRate(merged.stdout)).toBe(withoutRate(whole.stdout));
      const json = await compare("merge 1.json 2.json 3.json --json --out all.json", files);
      const all = decodeComparison(json.written["all.json"]!);
      const { stdout } = await compare("compare --text t.txt --recipes int8 --json");
      expect(all.rows.map(({ perplexity, klDivergence, samples }) => [perplexity, klDivergence, samples])).toEqual(decodeComparison(stdout).rows.map(({ perplexity, klDivergence }) => [perplexity, klDivergence, undefined]));
      const kept = await compare("merge 1.json 2.json 3.json --json --samples", files);
      expect(decodeComparison(kept.stdout).rows[1]!.samples!.nll).toHaveLength(all.scoredTokens);
    });

    test.each<[args: string, code: number, message: string]>([
      ["merge", 2, "No files were given"],
      ["merge 1.json 3.json", 2, "shard 2/3 is missing"],
      ["merge 1.json 2.json 2.json 3.json", 2, "Shard 2/3 is given twice"],
      ["merge 1.json 2.json mine.json", 1, "mine.json: Not a comparison: format is undefined"],
      ["merge 1.json 2.json nothing.json", 1, "Cannot read nothing.json."],
    ])("refuse %j", async (args, expected, message) => {
      const { code, stdout, stderr } = await compare(args, await shardFiles);
      expect([code, stdout]).toEqual([expected, ""]);
      expect(stderr).toContain(message);
    });
  });
});
