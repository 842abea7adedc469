import { createHash } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { afterEach, describe, expect, test, vi } from "vitest";
import { version } from "../../package.json";
import { compareQuantizations, describeFormat, exportSafetensors, loadModel, presets, type LoadOptions, type Model, type QuantizationRecipe, type QuantizedTensor } from "../../src/index.ts";
import { LoadedModel } from "../../src/load/model.ts";
import { parseSafetensors } from "../../src/safetensors/index.ts";
import { seededCheckpoint } from "../fixtures/seededCheckpoint.ts";
import { writeSafetensors, type WrittenTensor } from "../fixtures/safetensorsWriter.ts";

const shape = { nLayer: 1, nHead: 2, nEmbd: 64, nInner: 128, nPositions: 16, vocabSize: 51 };
const files = seededCheckpoint({ ...shape, seed: 7 });
const tokens = [3, 1, 4, 1, 5, 50];
const names = [...parseSafetensors(files["model.safetensors"]).tensors.keys()];

const load = (quantization?: LoadOptions["quantization"], model: Uint8Array = files["model.safetensors"], options: LoadOptions = {}): Promise<Model> =>
  loadModel({ "config.json": files["config.json"], "model.safetensors": model }, { backend: "cpu", quantization, ...options });

async function bytesOf(stream: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  return new Uint8Array(await new Response(stream as ReadableStream<Uint8Array<ArrayBuffer>>).arrayBuffer());
}

const exported = async (model: Model): Promise<Uint8Array> => bytesOf(exportSafetensors(model));

async function tensorsOf(model: Model): Promise<Map<string, QuantizedTensor | Float32Array>> {
  const all = new Map<string, QuantizedTensor | Float32Array>();
  for (const name of names) all.set(name, await (model as LoadedModel).readTensor(name));
  return all;
}

/** A file with one thing changed. */
function changed(file: Uint8Array, change: (tensors: Record<string, WrittenTensor>, metadata: Record<string, string>) => void): Uint8Array {
  const { tensors, metadata } = parseSafetensors(file);
  const copies = Object.fromEntries([...tensors].map(([name, { dtype, shape, bytes }]) => [name, { dtype: dtype as WrittenTensor["dtype"], shape, data: bytes.slice() }]));
  const copiedMetadata = Object.fromEntries(metadata);
  change(copies, copiedMetadata);
  return writeSafetensors(copies, copiedMetadata);
}

const otherRecipes: QuantizationRecipe[] = [
  { name: "groups", linear: { type: "int8", mode: "absmax", granularity: { group: 32 } }, embedding: { type: "int8", mode: "zeropoint", granularity: { group: 128 } } },
  { name: "4 bits everywhere", linear: { type: "fp4", block: 32, doubleQuantization: true }, embedding: { type: "nf4", block: 64 }, overrides: { "h.0.mlp.*": { type: "f16" } } },
];
const storable = (["f32", "f16", "int8", "int8-zeropoint", "int8-absmax-tensor", "int8-zeropoint-tensor", "int8-dynamic", "int8-static", "llm-int8", "nf4", "nf4-dq", "fp4"] as const).map((preset) => presets[preset]);

describe("exportSafetensors", () => {
  test.each([...storable, ...otherRecipes].map((recipe) => [recipe.name!, recipe] as const))("writes a model of %s that loads to the same codes, scales and logits, bit for bit", async (_, recipe) => {
    using model = await load(recipe, undefined, { calibration: [...tokens, ...tokens] });
    const file = await exported(model);
    const isQuantized = recipe.linear.type !== "f32" && recipe.linear.type !== "f16";
    using again = await load(isQuantized ? undefined : recipe, file);
    expect(again.quantization.recipe).toEqual(recipe);
    expect(again.quantization.bytes).toEqual(model.quantization.bytes);
    for (const { name, mse, sqnrDb } of again.quantization.tensors) expect([name, mse, sqnrDb]).toEqual([name, 0, Infinity]);
    expect(isDeepStrictEqual(await tensorsOf(again), await tensorsOf(model))).toBe(true);
    expect(await again.logits(tokens)).toEqual(await model.logits(tokens));
    expect(isDeepStrictEqual(await exported(again), file)).toBe(true);
  });

  test("gives back an f32 checkpoint as it was: names, Conv1D's orientation, every byte", async () => {
    using model = await load("f32");
    const original = parseSafetensors(files["model.safetensors"]).tensors;
    const { tensors } = parseSafetensors(await exported(model));
    expect([...tensors.keys()].sort()).toEqual([...original.keys()].sort());
    for (const [name, { dtype, shape, bytes }] of tensors) {
      const expected = original.get(name)!;
      expect({ name, dtype, shape }).toEqual({ name, dtype: expected.dtype, shape: expected.shape });
      expect(Buffer.from(bytes).equals(expected.bytes), name).toBe(true);
    }
  });

  test("writes every tensor at a multiple of its element, larger elements first, without holes", async () => {
    using model = await load("nf4-dq");
    const entries = [...parseSafetensors(await exported(model)).tensors.values()]; // the parser rejects holes
    const elementBytes = { F32: 4, F16: 2, I32: 4, I8: 1, U8: 1 } as Record<string, number>;
    for (const { name, dtype, begin } of entries) expect([name, begin % elementBytes[dtype]!]).toEqual([name, 0]);
    const order = entries.map(({ dtype }) => elementBytes[dtype]!);
    expect(order).toEqual(order.toSorted((a, b) => b - a));
  });

  test("says in the metadata which recipe, version and source it was, and the hash of each tensor", async () => {
    using model = await load("int8");
    const { metadata, tensors } = parseSafetensors(await exported(model));
    expect(metadata.get("format")).toBe("pt");
    expect(JSON.parse(metadata.get("nibble.recipe")!)).toEqual(presets.int8);
    expect(metadata.get("nibble.version")).toBe(version);
    expect(metadata.get("nibble.source")).toBe("2 files");
    expect(metadata.get("nibble.layout")).toMatch(/\[outputs, inputs\]/);
    const hashes = Object.fromEntries([...tensors].map(([name, { bytes }]) => [name, createHash("sha256").update(bytes).digest("hex")]));
    expect(JSON.parse(metadata.get("nibble.sha256")!)).toEqual(hashes);
  });

  test("of an untied head writes lm_head.weight in the embedding's format", async () => {
    const untied = seededCheckpoint({ ...shape, tied: false });
    using model = await loadModel(untied, { backend: "cpu", quantization: "nf4" });
    const file = await exported(model);
    expect(parseSafetensors(file).tensors.get("lm_head.weight_scale")).toMatchObject({ dtype: "F32", shape: [51, 1] });
    using again = await loadModel({ ...untied, "model.safetensors": file }, { backend: "cpu" });
    expect(await again.logits(tokens)).toEqual(await model.logits(tokens));
  });

  test("reads nothing before it is asked, and one tensor at a time after the header", async () => {
    using model = await load("int8");
    const read: string[] = [];
    const readTensor = LoadedModel.prototype.readTensor.bind(model as LoadedModel);
    (model as LoadedModel).readTensor = (name, signal) => (read.push(name), readTensor(name, signal));
    const reader = exportSafetensors(model).getReader();
    await new Promise((resolve) => setImmediate(resolve));
    expect(read).toEqual([]);
    await reader.read(); // the header needs the hashes of all
    expect(read).toHaveLength(names.length);
    await reader.read();
    await new Promise((resolve) => setImmediate(resolve));
    expect(read.length).toBeLessThanOrEqual(names.length + 1);
    await reader.cancel();
  });

  test("takes turns with a generation, and with a second export", async () => {
    using model = await load("nf4");
    const alone = [(await model.complete(tokens, { temperature: 0, maxTokens: 5 })).tokens, await exported(model)] as const;
    const [completion, first, second] = await Promise.all([model.complete(tokens, { temperature: 0, maxTokens: 5 }), exported(model), exported(model)]);
    expect([completion.tokens, first, second]).toEqual([alone[0], alone[1], alone[1]]);
  });

  test("fails with signal.reason, before and in the middle, and leaves the model usable", async () => {
    using model = await load("int8");
    const reason = new Error("enough");
    await expect(bytesOf(exportSafetensors(model, { signal: AbortSignal.abort(reason) }))).rejects.toBe(reason);
    const controller = new AbortController();
    const reader = exportSafetensors(model, { signal: controller.signal }).getReader();
    await reader.read();
    controller.abort(reason);
    await expect(drain(reader)).rejects.toBe(reason);
    expect((await model.complete(tokens, { maxTokens: 2 })).newTokens).toBe(2);
    expect((await exported(model)).length).toBeGreaterThan(0);
  });

  test("ends when it is cancelled, also while it waits for its turn, and leaves the model usable", async () => {
    using model = await load("int8");
    for (const readsBefore of [0, 1, 3]) {
      const generation = model.generate(tokens, { temperature: 0, maxTokens: 4 });
      const reader = exportSafetensors(model).getReader();
      for (let i = 0; i < readsBefore; i++) await reader.read();
      for await (const _ of generation) {
        const pending = reader.read();
        await reader.cancel("enough");
        expect(await pending).toEqual({ done: true, value: undefined });
        break;
      }
      expect(await model.logits(tokens)).toHaveLength(51);
    }
  });

  test("fails with `disposed` when the model is disposed in the middle", async () => {
    const model = await load("int8");
    const reader = exportSafetensors(model).getReader();
    await reader.read();
    model.dispose();
    await expect(drain(reader)).rejects.toMatchObject({ code: "disposed" });
    await expect(exported(model)).rejects.toMatchObject({ code: "disposed" });
  });

  test("throws TypeError for what loadModel did not make", () => {
    expect(() => exportSafetensors({} as Model)).toThrow(TypeError);
  });

  test.each<[what: string, recipe: QuantizationRecipe, options: LoadOptions, message: string, details: object]>([
    ["int4", presets.int4, {}, 'Tensor "h.0.attn.c_attn.weight" is int4 zero-point, group 32', { tensor: "h.0.attn.c_attn.weight" }],
    ["blocks that do not divide the rows", { linear: { type: "nf4", block: 128 } }, {}, 'Tensor "h.0.attn.c_attn.weight" is [192, 64] in blocks of 128', { columns: 64, block: 128 }],
    ["LLM.int8()'s f16 columns", { ...presets["llm-int8"], outlierThreshold: 1 }, { calibration: tokens }, 'Tensor "h.0.attn.c_attn.weight" keeps 8 of 64 columns in f16', { tensor: "h.0.attn.c_attn.weight", f16Columns: 8 }],
    ["a part of the position embeddings", presets.int8, { contextLength: 8 }, 'keeps 8 of 16 rows of "wpe.weight"', { contextLength: 8, nPositions: 16 }],
  ])("refuses %s as `unsupported`, naming the numbers", async (_, recipe, options, message, details) => {
    using control = await load({ linear: { type: "nf4", block: 64 } });
    await exported(control); // control case
    using model = await load(recipe, undefined, options);
    await expect(exported(model)).rejects.toMatchObject({ code: "unsupported", message: expect.stringContaining(message) as string, details });
  });
});

describe("loadModel of an exported file", () => {
  const int8 = load("int8").then(async (model) => exported(model));

  test("quantizes anew what the recipe wants in another format, from the stored values", async () => {
    using stored = await load(undefined, await int8);
    using mixed = await load({ linear: { type: "int8", mode: "absmax", granularity: "channel" }, embedding: { type: "f16" } }, await int8);
    const errors = new Map(mixed.quantization.tensors.map(({ name, mse }) => [name, mse]));
    expect(errors.get("h.0.mlp.c_fc.weight")).toBe(0);
    expect(errors.get("wte.weight")).toBeGreaterThan(0);
    expect(isDeepStrictEqual((await tensorsOf(mixed)).get("h.0.mlp.c_fc.weight"), (await tensorsOf(stored)).get("h.0.mlp.c_fc.weight"))).toBe(true);
  });

  test("asks a server for the weights once, though their header says how to load them", async () => {
    for (const [file, recipe] of [[await int8, "int8"], [await load("nf4").then(exported), "nf4"], [files["model.safetensors"], "int8"]] as const) {
      const asked: string[] = [];
      const served: Record<string, Uint8Array<ArrayBuffer>> = { "config.json": files["config.json"], "model.safetensors": file as Uint8Array<ArrayBuffer> };
      const fetch: typeof globalThis.fetch = async (url) => {
        const name = (url as URL).pathname.split("/").at(-1)!;
        asked.push(name);
        return new Response(served[name], { status: served[name] ? 200 : 404 });
      };
      using model = await loadModel("https://models.example/tiny/", { backend: "cpu", fetch });
      expect(model.quantization.recipe.name).toBe(recipe);
      expect(asked.filter((name) => name === "model.safetensors")).toHaveLength(1);
    }
  });

  test("is compared with its own restored values: the stored recipe loses nothing against f32", async () => {
    const source = { "config.json": files["config.json"], "model.safetensors": await int8 };
    const rows = compareQuantizations(source, { backend: "cpu", recipes: ["int8", "nf4"], text: Array.from({ length: 40 }, (_, i) => (i * 7) % 51) });
    const errors: number[] = [];
    for await (const { tensors } of rows) errors.push(Math.max(...tensors.map(({ mse }) => mse)));
    expect(errors.map((mse) => mse > 0)).toEqual([false, false, true]); // f32, int8, nf4
  });

  test("takes int8 for an exported file of floats, as for any checkpoint", async () => {
    using f16 = await load("f16");
    using model = await load(undefined, await exported(f16));
    expect(model.quantization.recipe.name).toBe("int8");
  });

  test("does not ask for calibration again: rounding and equalization are in the codes", async () => {
    const calibrated = changed(await int8, (_, metadata) => (metadata["nibble.recipe"] = JSON.stringify({ ...presets.int8, rounding: "gptq", equalization: "smoothquant", smoothing: 0.5 })));
    using model = await load(undefined, calibrated);
    expect(model.quantization.recipe).toEqual(presets.int8);
  });

  test("rejects a tensor whose hash differs as `integrity`, naming it and both hashes", async () => {
    const file = await int8;
    using _control = await load(undefined, file);
    const broken = changed(file, (tensors) => ((tensors["h.0.attn.c_proj.weight_scale"]!.data as Uint8Array)[1]! ^= 1));
    const expected = (JSON.parse(parseSafetensors(file).metadata.get("nibble.sha256")!) as Record<string, string>)["h.0.attn.c_proj.weight_scale"]!;
    const found = createHash("sha256").update(parseSafetensors(broken).tensors.get("h.0.attn.c_proj.weight_scale")!.bytes).digest("hex");
    await expect(load(undefined, broken)).rejects.toMatchObject({ code: "integrity", message: expect.stringContaining(found) as string, details: { tensor: "h.0.attn.c_proj.weight_scale", found, expected } });
  });

  test.each<[what: string, key: string, value: string, message: string]>([
    ["hashes that are not JSON", "nibble.sha256", "{", 'model.safetensors: nibble.sha256 is "{"; expected JSON.'],
    ["hashes that are a list", "nibble.sha256", "[7]", 'model.safetensors: nibble.sha256["0"] is 7; expected 64 hexadecimal digits.'],
    ["hashes that are null", "nibble.sha256", "null", 'model.safetensors: nibble.sha256[""] is null; expected 64 hexadecimal digits.'],
    ["a hash that is none", "nibble.sha256", '{"wte.weight":"00"}', 'model.safetensors: nibble.sha256["wte.weight"] is "00"; expected 64 hexadecimal digits.'],
    ["a hash nested deeper than JSON.stringify() goes", "nibble.sha256", `{"wte.weight":${"[".repeat(20_000)}${"]".repeat(20_000)}}`, 'model.safetensors: nibble.sha256["wte.weight"] is [[…]]; expected 64 hexadecimal digits.'],
    ["a recipe with an override for no matrix", "nibble.recipe", JSON.stringify({ linear: presets.int8.linear, embedding: presets.int8.embedding, overrides: { "h.7.*": { type: "f16" } } }), '2 files: nibble.recipe has an override for "h.7.*"; expected one that matches a matrix.'],
    ["a recipe that is not JSON", "nibble.recipe", "int8", '2 files: nibble.recipe is "int8"; expected JSON.'],
    ["a recipe that is none", "nibble.recipe", "7", "2 files: nibble.recipe is no recipe: quantization.linear is undefined; expected a format such as { type: \"f16\" }."],
    ["a recipe that the tensors are not stored in", "nibble.recipe", JSON.stringify({ linear: { type: "nf4", block: 64 } }), `Tensor "wte.weight" is stored as int8 absmax, per channel; nibble.recipe of 2 files says ${describeFormat({ type: "f16" })}.`],
    ["ranges that are a list", "nibble.inputRanges", "[]", '2 files: nibble.inputRanges["wte.weight"] is undefined; expected a number of at least 0.'],
    ["a range that is negative", "nibble.inputRanges", '{"wte.weight":-1}', '2 files: nibble.inputRanges["wte.weight"] is -1; expected a number of at least 0.'],
  ])("rejects %s as `checkpoint`", async (_, key, value, message) => {
    using _control = await load(undefined, await int8);
    await expect(load(undefined, changed(await int8, (_tensors, metadata) => (metadata[key] = value)))).rejects.toMatchObject({ code: "checkpoint", message });
  });

  afterEach(() => vi.unstubAllGlobals());

  test("is written and checked with the same hashes in a page that is no secure context, which has no crypto.subtle", async () => {
    const file = await int8;
    vi.stubGlobal("crypto", {});
    using model = await load("int8");
    expect(isDeepStrictEqual(await exported(model), file)).toBe(true);
    using _control = await load(undefined, file);
    const broken = changed(file, (tensors) => ((tensors["h.0.attn.c_proj.weight_scale"]!.data as Uint8Array)[1]! ^= 1));
    await expect(load(undefined, broken)).rejects.toMatchObject({ code: "integrity" });
  });
});

async function drain(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
  while (!(await reader.read()).done);
}
