import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { parseGpt2Config } from "../../src/checkpoint/config.ts";
import { decodeBlock } from "../../src/checkpoint/decodeBlock.ts";
import { isMatrix, transpose } from "../../src/checkpoint/gpt2Weights.ts";
import { openCheckpoint } from "../../src/checkpoint/openCheckpoint.ts";
import type { BytesRead, Checkpoint, CheckpointTensor, ReadOptions } from "../../src/checkpoint/types.ts";
import { EngineError } from "../../src/errors.ts";
import { type Dtype, parseSafetensors, toFloat32 } from "../../src/safetensors/index.ts";
import { openSource } from "../../src/source/openSource.ts";
import type { CheckpointSource } from "../../src/source/types.ts";
import { startHubServer } from "../fixtures/hubServer.ts";
import { encodeFloats, writeSafetensors, type WrittenTensor } from "../fixtures/safetensorsWriter.ts";
import { seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";
import { watchMemory } from "../fuzz/watch.ts";

type Files = Record<string, Uint8Array>;
const encode = (value: unknown): Uint8Array => new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));
const open = (files: Files, options?: { signal?: AbortSignal }): Promise<Checkpoint> => openCheckpoint(openSource(files), options);

async function readAll(checkpoint: Checkpoint, options?: ReadOptions): Promise<Map<string, { tensor: CheckpointTensor; values: Float32Array }>> {
  const tensors = new Map<string, { tensor: CheckpointTensor; values: Float32Array }>();
  for await (const read of checkpoint.read(options)) {
    expect(tensors.has(read.tensor.name)).toBe(false);
    expect(read.values).toHaveLength(read.tensor.shape[0] * read.tensor.shape[1]);
    tensors.set(read.tensor.name, read);
  }
  return tensors;
}

async function errorOf(promise: Promise<unknown>): Promise<EngineError> {
  const error: unknown = await promise.then(() => "nothing was thrown", (reason: unknown) => reason);
  expect(error).toBeInstanceOf(EngineError);
  return error as EngineError;
}

/** One layer of width 2, whose tensors a test may change. */
const smallConfig = { model_type: "gpt2", n_layer: 1, n_head: 1, n_embd: 2, n_inner: 3, n_positions: 2, vocab_size: 5 };
function smallTensors(): Record<string, WrittenTensor> {
  const { tensors } = parseSafetensors(seededCheckpoint({ nLayer: 1, nHead: 1, nEmbd: 2, nInner: 3, nPositions: 2, vocabSize: 5 })["model.safetensors"]);
  return Object.fromEntries([...tensors].map(([name, { dtype, shape, bytes }]) => [name, { dtype: dtype as "F32", shape, data: bytes }]));
}
function small(change: (tensors: Record<string, WrittenTensor>) => void = () => undefined, config: object = {}): Files {
  const tensors = smallTensors();
  change(tensors);
  return { "config.json": encode({ ...smallConfig, ...config }), "model.safetensors": writeSafetensors(tensors) };
}

describe("parseGpt2Config", () => {
  test("has the defaults of Hugging Face's GPT2Config", () => {
    expect(parseGpt2Config({})).toEqual({
      nLayer: 12,
      nHead: 12,
      nEmbd: 768,
      nInner: 3072,
      nPositions: 1024,
      vocabSize: 50257,
      layerNormEpsilon: 1e-5,
      activation: "gelu_new",
      scaleAttnWeights: true,
      scaleAttnByInverseLayerIdx: false,
      tieWordEmbeddings: true,
      bosTokenId: 50256,
      eosTokenId: 50256,
    });
  });

  test.each<[field: object, parsed: object]>([
    [{ n_layer: 3, n_head: 5, n_embd: 100, n_positions: 64, vocab_size: 1003 }, { nLayer: 3, nHead: 5, nEmbd: 100, nPositions: 64, vocabSize: 1003, nInner: 400 }],
    [{ num_hidden_layers: 3, num_attention_heads: 2, hidden_size: 6, max_position_embeddings: 9 }, { nLayer: 3, nHead: 2, nEmbd: 6, nPositions: 9 }],
    [{ n_inner: 300 }, { nInner: 300 }],
    [{ n_inner: null }, { nInner: 3072 }],
    [{ layer_norm_epsilon: 1e-6 }, { layerNormEpsilon: 1e-6 }],
    [{ activation_function: "gelu" }, { activation: "gelu" }],
    [{ activation_function: "relu" }, { activation: "relu" }],
    [{ activation_function: "gelu_pytorch_tanh" }, { activation: "gelu_pytorch_tanh" }],
    [{ scale_attn_weights: false }, { scaleAttnWeights: false }],
    [{ scale_attn_by_inverse_layer_idx: true }, { scaleAttnByInverseLayerIdx: true }],
    [{ tie_word_embeddings: false }, { tieWordEmbeddings: false }],
    [{ eos_token_id: 7, bos_token_id: null }, { eosTokenId: 7, bosTokenId: null }],
    [{ vocab_size: 97 }, { eosTokenId: null, bosTokenId: null }], // the default lies outside
    [{ quantization_config: { quant_method: "bitsandbytes", load_in_4bit: true, bnb_4bit_quant_type: "nf4" } }, { nPositions: 1024 }],
    [{ n_ctx: 7, reorder_and_upcast_attn: true, attn_pdrop: 0.5, pruned_heads: {}, quantization_config: null }, { nPositions: 1024 }],
  ])("honours %j", (fields, parsed) => {
    expect(parseGpt2Config(fields)).toMatchObject(parsed);
  });

  test.each<[json: string, message: string]>([
    ["[]", "config.json holds []; expected an object."],
    ["null", "config.json holds null; expected an object."],
    ['{"model_type":"llama"}', 'config.json: model_type is "llama"; expected "gpt2".'],
    ['{"add_cross_attention":true}', "config.json: add_cross_attention is true; expected false; encoder-decoder models are not supported."],
    ['{"quantization_config":{"bits":4}}', "config.json: quantization_config is an object; expected none, or bitsandbytes' 4-bit one; the engine quantizes the original weights itself."],
    ['{"quantization_config":{"quant_method":"bitsandbytes","load_in_8bit":true,"load_in_4bit":false}}', "config.json: quantization_config is an object; expected none, or bitsandbytes' 4-bit one; the engine quantizes the original weights itself."],
    ['{"pruned_heads":{"0":[1]}}', "config.json: pruned_heads is an object; expected none."],
    ['{"n_head":7}', "config.json: n_embd is 768; expected a multiple of n_head 7."],
    ['{"n_embd":"768"}', 'config.json: n_embd is "768"; expected an integer from 1 to 65536.'],
    ['{"n_embd":null}', "config.json: n_embd is null; expected an integer from 1 to 65536."],
    ['{"n_embd":768.5}', "config.json: n_embd is 768.5; expected an integer from 1 to 65536."],
    ['{"n_embd":768,"hidden_size":1024}', "config.json: hidden_size is 1024; expected the same as n_embd, 768."],
    ['{"n_layer":0}', "config.json: n_layer is 0; expected an integer from 1 to 1024."],
    ['{"n_inner":-4}', "config.json: n_inner is -4; expected an integer from 1 to 1048576."],
    ['{"n_positions":1e999}', "config.json: n_positions is Infinity; expected an integer from 1 to 1048576."],
    ['{"vocab_size":1000000000000000}', "config.json: vocab_size is 1000000000000000; expected an integer from 1 to 16777216."],
    ['{"layer_norm_epsilon":0}', "config.json: layer_norm_epsilon is 0; expected a number between 0 and 1."],
    ['{"activation_function":"silu"}', 'config.json: activation_function is "silu"; expected one of gelu_new, gelu, relu, gelu_pytorch_tanh.'],
    ['{"scale_attn_weights":"yes"}', 'config.json: scale_attn_weights is "yes"; expected true or false.'],
    ['{"tie_word_embeddings":null}', "config.json: tie_word_embeddings is null; expected true or false."],
    ['{"eos_token_id":"<|endoftext|>"}', 'config.json: eos_token_id is "<|endoftext|>"; expected a token id or null.'],
  ])("rejects %s", (json, message) => {
    parseGpt2Config({}); // control case
    expect(() => parseGpt2Config(JSON.parse(json))).toThrow(expect.objectContaining({ code: "checkpoint", message }));
  });
});

describe("openCheckpoint", () => {
  test("finds config, tensors and tokenizer without reading weights", async () => {
    const source = openSource({ ...small(), "vocab.json": encode("{}"), "merges.txt": encode("#version") });
    let opened: string[] = [];
    const spied: CheckpointSource = { ...source, open: (name, options) => (opened.push(name), source.open(name, options)) };
    const checkpoint = await openCheckpoint(spied);
    expect(checkpoint).toMatchObject({ description: "4 files", config: { nLayer: 1, nInner: 3 }, tokenizerFiles: { "vocab.json": "{}", "merges.txt": "#version" } });
    expect(checkpoint.tensors).toHaveLength(2 + 12 + 2);
    expect(checkpoint.tensors.find(({ name }) => name === "h.0.mlp.c_fc.weight")).toEqual({ name: "h.0.mlp.c_fc.weight", kind: "linear", shape: [3, 2] });
    opened = [];
    expect((await readAll(checkpoint)).size).toBe(16);
    expect(opened).toEqual([]); // opened once, when it was found
  });

  test("prefers tokenizer.json, and takes vocab.json only with merges.txt", async () => {
    expect((await open({ ...small(), "tokenizer.json": encode("{}"), "vocab.json": encode("{}"), "merges.txt": encode("") })).tokenizerFiles).toEqual({ "tokenizer.json": "{}" });
    expect((await open({ ...small(), "vocab.json": encode("{}") })).tokenizerFiles).toEqual({});
  });

  test("takes a page in the place of a tokenizer file for its absence", async () => {
    expect((await open({ ...small(), "tokenizer.json": encode("<!doctype html>") })).tokenizerFiles).toEqual({});
  });

  test("takes 403 for a tokenizer file for its absence", async () => {
    const answer = (url: string): Response => {
      const content = small()[url.split("/").at(-1)!];
      return content ? new Response(content as Uint8Array<ArrayBuffer>) : new Response(null, { status: 403 });
    };
    const checkpoint = await openCheckpoint(openSource("https://bucket.example/tiny/", { fetch: async (url) => answer((url as URL).href) }));
    expect(checkpoint.tokenizerFiles).toEqual({});
  });

  test.each<[what: string, config: Uint8Array, message: string]>([
    ["HTML", encode("<!DOCTYPE html><html>"), 'config.json: found HTML, starting with "<!DOCTYPE html><html>"; expected JSON.'],
    ["no JSON", encode("n_layer: 1"), 'config.json: found text that starts with "n_layer: 1"; expected JSON.'],
    ["a NaN, as Python writes it", encode('{"layer_norm_epsilon": NaN}'), 'config.json: found text that starts with "{\\"layer_norm_epsilon\\": NaN}"; expected JSON.'],
    ["nothing", encode(""), "config.json: found an empty file; expected JSON."],
    ["no UTF-8", Uint8Array.of(0x7b, 0xff, 0x7d), "config.json is not UTF-8 text."],
    ["more than 1 MB", new Uint8Array(2 ** 20 + 1).fill(0x20), "config.json has at least 1048577 bytes; expected at most 1048576."],
  ])("rejects a config.json that holds %s", async (_what, config, message) => {
    await open(small()); // control case
    expect(await errorOf(open({ ...small(), "config.json": config }))).toMatchObject({ code: "checkpoint", message });
  });

  test("rejects what lacks a file, naming it", async () => {
    const { "config.json": config, "model.safetensors": model } = small();
    await open({ "config.json": config!, "model.safetensors": model! }); // control case
    expect((await errorOf(open({ "model.safetensors": model! }))).message).toBe("There is no config.json in model.safetensors.");
    expect((await errorOf(open({ "config.json": config!, "pytorch_model.bin": model! }))).message).toBe("There is no model.safetensors and no model.safetensors.index.json in 2 files.");
  });

  test("rejects with signal.reason, untouched", async () => {
    const reason = new Error("enough");
    await expect(open(small(), { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});

describe("Checkpoint.read", () => {
  test.each(Object.entries(tinyCheckpoints))("%s: gives every tensor once, as the file has it, linear ones transposed", async (_name, options) => {
    const files = seededCheckpoint(options);
    const checkpoint = await open(files);
    const read = await readAll(checkpoint);
    expect([...read.keys()].sort()).toEqual(checkpoint.tensors.map(({ name }) => name).sort());
    const { tensors } = parseSafetensors(files["model.safetensors"]);
    for (const { tensor, values } of read.values()) {
      const { bytes, dtype, shape } = (tensors.get(tensor.name) ?? tensors.get(`transformer.${tensor.name}`))!;
      const original = toFloat32(bytes, dtype);
      const expected = tensor.kind === "linear" ? Float32Array.from(original, (_, i) => original[(i % shape[0]!) * shape[1]! + Math.floor(i / shape[0]!)]!) : original;
      expect(Buffer.from(values.buffer).equals(Buffer.from(expected.buffer, expected.byteOffset, expected.byteLength)), tensor.name).toBe(true);
    }
  });

  test("reads the embedded model in the order of its file", async () => {
    const folder = new URL("../../models/stories-12m/", import.meta.url);
    const file = readFileSync(new URL("model.safetensors", folder));
    const checkpoint = await open({ "config.json": readFileSync(new URL("config.json", folder)), "model.safetensors": file });
    const names: string[] = [];
    for await (const { tensor } of checkpoint.read()) names.push(tensor.name);
    expect(names).toEqual([...parseSafetensors(file).tensors.keys()].map((name) => name.replace(/^transformer\./, "")));
    expect(checkpoint.tensors.reduce((sum, { shape }) => sum + shape[0] * shape[1], 0)).toBe(12_368_064);
  });

  test.each<Dtype>(["F64", "F32", "F16", "BF16"])("takes %s", async (dtype) => {
    const read = await readAll(await open(small((tensors) => (tensors["ln_f.bias"] = { dtype: dtype as "F64", shape: [2], data: dtype === "F64" ? new Uint8Array(Float64Array.of(0.5, -3).buffer) : Float32Array.of(0.5, -3) }))));
    expect([...read.get("ln_f.bias")!.values]).toEqual([0.5, -3]);
  });

  test("skips mask buffers, a tied head and tensors that GPT-2 does not have", async () => {
    const extra: Record<string, WrittenTensor> = {
      "h.0.attn.bias": { dtype: "U8", shape: [1, 1, 2, 2], data: Uint8Array.of(1, 0, 1, 1) },
      "h.0.attn.masked_bias": { dtype: "F32", shape: [], data: Float32Array.of(-Infinity) },
      "lm_head.weight": { dtype: "F32", shape: [5, 2], data: new Float32Array(10).fill(7) },
      "score.weight": { dtype: "I64", shape: [1], data: new Uint8Array(8) },
    };
    const read = await readAll(await open(small((tensors) => Object.assign(tensors, extra))));
    expect(read.size).toBe(16);
    expect(read.get("wte.weight")!.values).not.toContain(7);
  });

  test("gives a head of its own where the config unties it", async () => {
    const head: WrittenTensor = { dtype: "F32", shape: [5, 2], data: new Float32Array(10).fill(7) };
    const read = await readAll(await open(small((tensors) => (tensors["lm_head.weight"] = head), { tie_word_embeddings: false })));
    expect(read.get("lm_head.weight")!.tensor).toEqual({ name: "lm_head.weight", kind: "embedding", shape: [5, 2] });
    const error = await errorOf(open(small(undefined, { tie_word_embeddings: false })).then((checkpoint) => readAll(checkpoint)));
    expect(error.message).toBe("model.safetensors lacks 1 of 17 tensors: lm_head.weight (config.json says tie_word_embeddings is false).");
  });

  test("takes a tied lm_head.weight for wte where the file has no wte", async () => {
    const renamed = small((tensors) => {
      tensors["lm_head.weight"] = tensors["wte.weight"]!;
      delete tensors["wte.weight"];
    });
    expect((await readAll(await open(renamed))).get("wte.weight")).toEqual((await readAll(await open(small()))).get("wte.weight"));
  });

  test.each<[rule: string, change: (tensors: Record<string, WrittenTensor>) => void, message: string]>([
    ["a matrix of another shape", (t) => (t["h.0.attn.c_attn.weight"] = { dtype: "F32", shape: [2, 5], data: new Float32Array(10) }), 'Tensor "h.0.attn.c_attn.weight" has shape [2, 5]; expected [2, 6].'],
    ["a matrix that is transposed", (t) => (t["h.0.attn.c_attn.weight"] = { dtype: "F32", shape: [6, 2], data: new Float32Array(12) }), 'Tensor "h.0.attn.c_attn.weight" has shape [6, 2]; expected [2, 6].'],
    ["a vector of rank 2", (t) => (t["ln_f.bias"] = { dtype: "F32", shape: [1, 2], data: new Float32Array(2) }), 'Tensor "ln_f.bias" has shape [1, 2]; expected [2].'],
    ["integer weights", (t) => (t["ln_f.bias"] = { dtype: "I8", shape: [2], data: new Uint8Array(2) }), 'Tensor "ln_f.bias" has dtype I8; expected F32, F16, BF16 or F64.'],
    ["one missing tensor", (t) => delete t["ln_f.bias"], "model.safetensors lacks 1 of 16 tensors: ln_f.bias."],
    ["many missing tensors", (t) => Object.keys(t).forEach((name) => name.startsWith("h.") && delete t[name]), "model.safetensors lacks 12 of 16 tensors: h.0.ln_1.weight, h.0.ln_1.bias, h.0.attn.c_attn.weight, …."],
    ["a layer too many under a long name", (t) => (t[`h.1.${"x".repeat(1e5)}`] = t["ln_f.bias"]!), `Tensor "h.1.${"x".repeat(76)}…" lies beyond the last layer; config.json says n_layer is 1.`],
    ["a layer too many", (t) => (t["h.1.ln_1.bias"] = t["ln_f.bias"]!), 'Tensor "h.1.ln_1.bias" lies beyond the last layer; config.json says n_layer is 1.'],
    ["one tensor under two names", (t) => (t["transformer.ln_f.bias"] = t["ln_f.bias"]!), 'Tensor "ln_f.bias" is there twice, under two names in model.safetensors.'],
    ["NaN", (t) => (t["h.0.mlp.c_fc.weight"] = { dtype: "F16", shape: [2, 3], data: Float32Array.of(0, 1, 2, 3, NaN, 5) }), 'Tensor "h.0.mlp.c_fc.weight" holds NaN at [1, 1]; expected finite weights.'],
    ["Infinity", (t) => (t["ln_f.bias"] = { dtype: "F32", shape: [2], data: Float32Array.of(0, -Infinity) }), 'Tensor "ln_f.bias" holds -Infinity at [1]; expected finite weights.'],
    ["an F64 beyond f32", (t) => (t["ln_f.bias"] = { dtype: "F64", shape: [2], data: new Uint8Array(Float64Array.of(1e300, 0).buffer) }), 'Tensor "ln_f.bias" holds Infinity at [0]; expected finite weights.'],
  ])("rejects %s", async (_rule, change, message) => {
    await readAll(await open(small())); // control case
    const checkpoint = await open(small(change));
    expect(await errorOf(readAll(checkpoint))).toMatchObject({ code: "checkpoint", message });
  });

  test.each((["F64", "F32", "F16", "BF16"] as const).flatMap((dtype) => [NaN, Infinity, -Infinity].map((value) => [value, dtype] as const)))("reports %d in %s with tensor and index", async (value, dtype) => {
    const holding = (bad: number): Files => small((tensors) => {
      tensors["h.0.mlp.c_fc.weight"] = { dtype, shape: [2, 3], data: encodeFloats(Float32Array.of(0, 1, 2, 3, 4, bad), dtype) };
      tensors["ln_f.bias"] = { dtype, shape: [2], data: encodeFloats(Float32Array.of(1, 2), dtype) };
    });
    await readAll(await open(holding(5))); // control case
    expect(await errorOf(open(holding(value)).then((checkpoint) => readAll(checkpoint)))).toMatchObject({ message: `Tensor "h.0.mlp.c_fc.weight" holds ${value} at [1, 2]; expected finite weights.`, details: { tensor: "h.0.mlp.c_fc.weight", index: [1, 2] } });
  });

  test.each<[rule: string, model: (good: Uint8Array) => Uint8Array, message: RegExp]>([
    ["a file that is a page", () => encode("<!DOCTYPE html>"), /^model\.safetensors: Found HTML/],
    ["a file cut in its data", (good) => good.subarray(0, good.length - 1), /^model\.safetensors: The tensors need \d+ bytes of data, and the file holds \d+: truncated\.$/],
    ["a file cut in its header", (good) => good.subarray(0, 100), /^model\.safetensors: The header needs \d+ bytes after the first 8, and the file has 100 bytes in all: truncated\.$/],
    ["a file cut in its first bytes", (good) => good.subarray(0, 5), /^model\.safetensors ends after 5 bytes; expected at least 8\.$/],
    ["bytes behind the data", (good) => Uint8Array.from([...good, 0]), /^model\.safetensors: 1 bytes follow the last tensor/],
  ])("rejects %s, naming the file", async (_rule, model, message) => {
    const files = small();
    await readAll(await open(files)); // control case
    files["model.safetensors"] = model(files["model.safetensors"]!);
    const error = await errorOf(open(files).then((checkpoint) => readAll(checkpoint)));
    expect(error.code).toBe("checkpoint");
    expect(error.message).toMatch(message);
  });

  test("notices a short and a long file whose size no server has told", async () => {
    const files = small();
    const good = files["model.safetensors"]!;
    const readFrom = async (model: Uint8Array): Promise<number> => {
      const source = openSource({ ...files, "model.safetensors": model });
      const sizeless: CheckpointSource = { ...source, open: async (name, options) => {
        const file = await source.open(name, options);
        return file && { ...file, sizeBytes: null };
      } };
      return (await readAll(await openCheckpoint(sizeless))).size;
    };
    expect(await readFrom(good)).toBe(16); // control case
    expect((await errorOf(readFrom(good.subarray(0, good.length - 1)))).message).toBe(`model.safetensors ends after ${good.length - 1} bytes; expected at least ${good.length}.`);
    expect((await errorOf(readFrom(Uint8Array.from([...good, 0])))).message).toBe(`model.safetensors goes on after byte ${good.length}, where its last tensor ends.`);
  });

  test("takes no memory for what a file of unknown size only promises: a header of 99 MB, a tensor of 128 MB", async () => {
    const { "model.safetensors": good } = small();
    const headerBytes = new DataView(good!.buffer).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(good!.subarray(8, 8 + headerBytes))) as Record<string, { shape: number[]; data_offsets: [number, number] }>;
    const { data_offsets: [begin] } = header["wte.weight"]!; // the last
    header["wte.weight"] = { ...header["wte.weight"]!, shape: [16e6, 2], data_offsets: [begin, begin + 128e6] };
    const json = encode(header);
    const hugeTensor = Uint8Array.from([...new Uint8Array(Uint32Array.of(json.length, 0).buffer), ...json, ...good!.subarray(8 + headerBytes)]);
    const hugeHeader = Uint8Array.from([...new Uint8Array(Uint32Array.of(99e6, 0).buffer), 0x7b]);
    for (const [model, expected] of [[hugeTensor, 8 + json.length + begin + 128e6], [hugeHeader, 8 + 99e6]] as const) {
      const source = openSource({ ...small(undefined, { vocab_size: 16e6 }), "model.safetensors": model });
      const sizeless: CheckpointSource = { ...source, open: async (name, options) => {
        const file = await source.open(name, options);
        return file && { ...file, sizeBytes: null };
      } };
      const watch = watchMemory();
      try {
        const error = await errorOf(openCheckpoint(sizeless).then((checkpoint) => readAll(checkpoint)));
        expect(error.message).toBe(`model.safetensors ends after ${model.length} bytes; expected at least ${expected}.`);
        expect(watch.largestBytes).toBeLessThan(2 ** 20);
      } finally {
        watch.stop();
      }
    }
  });

  test("reads again from the start, and reports every byte", async () => {
    const files = small();
    const checkpoint = await open(files);
    const totalBytes = files["model.safetensors"]!.length;
    for (let pass = 0; pass < 2; pass++) {
      const reports: BytesRead[] = [];
      await readAll(checkpoint, { onBytes: (report) => reports.push(report) });
      expect(reports.at(-1)).toEqual({ file: "model.safetensors", fileBytes: totalBytes, fileTotalBytes: totalBytes, loadedBytes: totalBytes, totalBytes });
      const loaded = reports.map(({ loadedBytes }) => loadedBytes);
      expect(loaded).toEqual(loaded.toSorted((x, y) => x - y));
    }
  });

  test("stops between tensors when aborted", async () => {
    const reason = new Error("enough");
    const controller = new AbortController();
    const tensors = (await open(small())).read({ signal: controller.signal });
    await tensors.next();
    controller.abort(reason);
    await expect(tensors.next()).rejects.toBe(reason);
  });

  test("cancels the transfer when the loop is left", async () => {
    const files = seededCheckpoint(tinyCheckpoints.width100);
    const hub = await startHubServer({ repositories: { "acme/tiny": files } });
    hub.failures.set("model.safetensors", { stalls: [300_000] });
    const checkpoint = await openCheckpoint(openSource("acme/tiny", { hub: { endpoint: hub.endpoint } }));
    for await (const { tensor } of checkpoint.read()) {
      expect(tensor.name).toBe("h.0.attn.c_attn.bias");
      break;
    }
    await hub.dropped;
    await hub.close();
  });
});

describe("shards", () => {
  const tensors = Object.entries(smallTensors());
  const shard = (from: number, to: number): Uint8Array => writeSafetensors(Object.fromEntries(tensors.slice(from, to)));
  const names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] as const;
  const shards: Files = { "config.json": encode(smallConfig), [names[0]]: shard(0, 9), [names[1]]: shard(9, 16) };
  const weightMap = Object.fromEntries(tensors.map(([name], i) => [name, names[i < 9 ? 0 : 1]]));
  const indexed = (map: unknown, files: Files = shards): Files => ({ ...files, "model.safetensors.index.json": encode({ metadata: { total_size: 1 }, weight_map: map }) });

  test("are read with and without an index", async () => {
    const whole = await readAll(await open(small()));
    for (const files of [shards, indexed(weightMap)]) {
      const last = new Map<string, BytesRead>();
      const read = await readAll(await open(files), { onBytes: (report) => last.set(report.file, report) });
      expect(read).toEqual(whole);
      const bytes = names.map((name) => shards[name]!.length);
      expect([...last.values()]).toMatchObject(names.map((file, i) => ({ file, fileBytes: bytes[i], fileTotalBytes: bytes[i] })));
      expect(last.get(names[1])!.loadedBytes).toBe(bytes[0]! + bytes[1]!);
    }
  });

  test("are found through the index on a server, and each is asked for once", async () => {
    const hub = await startHubServer({ repositories: { "acme/tiny": indexed(weightMap) } });
    const read = await readAll(await openCheckpoint(openSource("acme/tiny", { hub: { endpoint: hub.endpoint } })));
    expect(read.size).toBe(16);
    const asked = hub.requests.filter(({ server }) => server === "hub").map(({ path }) => path.split("/").at(-1)!);
    expect(asked.filter((name) => name.startsWith("model-"))).toEqual([...names]);
    await hub.close();
  });

  test("leave a whole model.safetensors its precedence", async () => {
    expect((await readAll(await open({ ...indexed(weightMap), ...small() }))).size).toBe(16);
  });

  test.each<[rule: string, files: Files, message: string]>([
    ["an index without weight_map", indexed(undefined), "model.safetensors.index.json has no weight_map; expected an object of file names by tensor."],
    ["a file name with a path", indexed({ a: "../model.safetensors" }), 'model.safetensors.index.json: weight_map["a"] is "../model.safetensors"; expected the name of a .safetensors beside it.'],
    ["a file name of a million characters", indexed({ a: "x".repeat(1e6) }), `model.safetensors.index.json: weight_map["a"] is "${"x".repeat(80)}…"; expected the name of a .safetensors beside it.`],
    ["a file name that is none", indexed({ a: 7 }), 'model.safetensors.index.json: weight_map["a"] is 7; expected the name of a .safetensors beside it.'],
    ["an index without all tensors", indexed({ "wte.weight": names[1] }), "model.safetensors.index.json lacks 15 of 16 tensors: wpe.weight, h.0.ln_1.weight, h.0.ln_1.bias, …."],
    ["a shard that is missing", indexed(Object.fromEntries(tensors.map(([name]) => [name, "model-3.safetensors"]))), "There is no model-3.safetensors in 4 files."],
    ["one dropped shard of two", { "config.json": shards["config.json"]!, [names[0]]: shards[names[0]]! }, `${names[0]} lacks 7 of 16 tensors: wte.weight, wpe.weight, h.0.mlp.c_fc.weight, ….`],
    ["a tensor in two shards", { ...shards, [names[1]]: shard(8, 16) }, `Tensor "${tensors[8]![0]}" is there twice, in ${names[0]} and in ${names[1]}.`],
    ["shards that lack a tensor", { ...shards, [names[1]]: shard(10, 16) }, `The set of 2 files lacks 1 of 16 tensors: ${tensors[9]![0]}.`],
  ])("are rejected: %s", async (_rule, files, message) => {
    await readAll(await open(indexed(weightMap))); // control case
    expect(await errorOf(open(files).then((checkpoint) => readAll(checkpoint)))).toMatchObject({ code: "checkpoint", message });
  });
});

describe("transpose", () => {
  test.each([[1, 1], [1, 33], [33, 1], [31, 32], [32, 32], [65, 97]])("swaps rows and columns of %i × %i", (rows, columns) => {
    const values = Float32Array.from({ length: rows * columns }, (_, i) => i);
    const result = transpose(values, rows, columns);
    for (let i = 0; i < values.length; i++) expect(result[(i % columns) * rows + Math.floor(i / columns)]).toBe(i);
  });
});

describe("Checkpoint.readBlocks", () => {
  const files = seededCheckpoint({ nLayer: 1, nHead: 1, nEmbd: 64, nPositions: 4, vocabSize: 40_000 }); // wte has 10 MB, a block 8

  test("gives embeddings in blocks of rows and all else whole, with the values of read()", async () => {
    const checkpoint = await open(files);
    const whole = await readAll(checkpoint);
    const blocks = new Map<string, number>();
    for await (const block of checkpoint.readBlocks()) {
      if (!("bytes" in block)) throw new Error("expected the bytes of the file");
      const { tensor: { name, shape: [rows, columns] }, firstRow, isLast } = block;
      const values = decodeBlock(block);
      expect(Buffer.from(values.buffer).equals(Buffer.from(whole.get(name)!.values.slice(firstRow * columns, firstRow * columns + values.length).buffer))).toBe(true);
      expect(isLast).toBe(firstRow * columns + values.length === rows * columns);
      blocks.set(name, (blocks.get(name) ?? 0) + 1);
    }
    expect([...blocks].filter(([, count]) => count > 1)).toEqual([["wte.weight", 2]]);
    expect(blocks.size).toBe(whole.size);
  });

  test("reads matrices into spare buffers that are large enough, and leaves the others", async () => {
    const [small, large] = [new ArrayBuffer(8), new ArrayBuffer(8 * 2 ** 20)];
    const spare = [small, large];
    const buffers: ArrayBuffer[] = [];
    for await (const block of (await open(files)).readBlocks({ spare })) {
      if (!("bytes" in block) || !isMatrix(block.tensor)) continue;
      buffers.push(block.bytes.buffer);
      spare.push(block.bytes.buffer);
    }
    expect(new Set(buffers)).toEqual(new Set([large]));
    expect(spare).toEqual([small, large]);
  });
});
