import { describe, expect, test } from "vitest";
import { calibrate, type Comparison, compareQuantizations, decodeComparison, dequantizeTensor, encodeComparison, exportSafetensors, fitToBudget, inspectQuantization, loadModel, mergeComparisons, quantizeTensor, readTensor, weightHistogram } from "../../src/index.ts";
import { parseSafetensors } from "../../src/safetensors/index.ts";
import { encodeFloats, writeSafetensors, writtenDtypeBytes, type WrittenDtype } from "../fixtures/safetensorsWriter.ts";
import { tokenizerOf } from "../fixtures/tokenizers.ts";
import { mutateBytes } from "../fuzz/bytes.ts";
import { encode, type Files, floatCheckpoints, jsonOf, mutateSafetensors, quantizedCheckpoints, sharded, sizeOf, type Tensors, tensorsOf, useModel } from "../fuzz/checkpoints.ts";
import type { Choices } from "../fuzz/choices.ts";
import { fuzz, type FuzzCase, type FuzzTally } from "../fuzz/fuzz.ts";
import { Fields, mutateJson, type Node, toNode, toText } from "../fuzz/json.ts";
import { hostileOptions } from "../fuzz/values.ts";

/** Loads files and uses the model; at times from a server that does not tell their sizes. byCaller: see FuzzCase. */
function loading(choices: Choices, files: Files, what: string, { legalWeights = false, byCaller = false } = {}): FuzzCase {
  const isRemote = choices.oneIn(8);
  const answer = (url: string): Response => {
    const file = files[url.split("/").at(-1)!];
    return file ? new Response(new Blob([file]).stream()) : new Response(null, { status: 404 });
  };
  return {
    what: isRemote ? `${what}, from a server` : what,
    givenBytes: sizeOf(files),
    byCaller,
    run: async () => {
      using model = await (isRemote ? loadModel("https://models.example/tiny/", { backend: "cpu", fetch: async (url) => answer((url as URL).href) }) : loadModel(files, { backend: "cpu" }));
      await useModel(model, legalWeights);
    },
  };
}

/** Cases that all end alike would test little. */
function expectBoth({ taken, refused }: FuzzTally): void {
  if (process.env.NIBBLE_FUZZ) return;
  expect(taken).toBeGreaterThan(40);
  expect(refused).toBeGreaterThan(200);
}

/** One of a folder's files with its JSON, or at times its bytes, changed. */
function withChangedJson(choices: Choices, files: Files, name: string, change: (json: Node) => string = (json) => mutateJson(choices, json, name)): { files: Files; what: string } {
  if (choices.oneIn(6)) {
    const { bytes, what } = mutateBytes(choices, files[name]!);
    return { files: { ...files, [name]: bytes }, what: `${name}: ${what}` };
  }
  const json = jsonOf(files[name]!);
  const whats = Array.from({ length: 1 + choices.below(2) }, () => change(json));
  return { files: { ...files, [name]: encode(toText(json)) }, what: whats.join(", ") };
}

describe("hostile input ends in a proper error or a correct load", { timeout: 60_000 }, () => {
  test("safetensors", async () => {
    const tally = await fuzz("safetensors", 2_500, (choices) => {
      const { file, what } = mutateSafetensors(choices, choices.pick(floatCheckpoints)["model.safetensors"]!);
      return {
        what,
        givenBytes: file.length,
        run: () => {
          const views = [...parseSafetensors(file).tensors.values()];
          for (const { name, shape, bytes, values } of views) {
            const count = shape.reduce((product, length) => product * length, 1);
            if (values.length !== count) throw new Error(`${name} has ${values.length} values for [${shape.join()}]`);
            if (bytes.buffer !== file.buffer || bytes.byteOffset + bytes.length > file.length) throw new Error(`${name} lies outside of the file`);
          }
          const dataBytes = views.reduce((sum, { bytes }) => sum + bytes.length, 0);
          if (views.length > 0 && views[0]!.bytes.byteOffset + dataBytes !== file.length) throw new Error(`tensors have ${dataBytes} bytes of ${file.length}`);
        },
      };
    });
    expectBoth(tally);
  });

  test("weights", async () => {
    const hostileFloats = [0, -0, 1e-45, 1e-30, 65504, 65520, 1e30, 3.4e38, Infinity, -Infinity, NaN];
    const dtypes = Object.keys(writtenDtypeBytes) as WrittenDtype[];
    const names = ["lm_head.weight", "transformer.wte.weight", "h.0.attn.bias", "h.1.ln_1.bias", "h.0.ln_1.weight_scale", "h.0.attn.c_attn.weight.absmax", "h.0.mlp.c_fc.weight_scale", "h.99999999999999999999.x", "__proto__", "constructor", ""];
    const changeTensors = (choices: Choices, tensors: Tensors): string => {
      const name = choices.pick(Object.keys(tensors));
      const { dtype, shape, data } = tensors[name]!;
      switch (choices.below(6)) {
        case 0:
          delete tensors[name];
          return `without ${name}`;
        case 1: {
          const other = choices.pick([...names, `transformer.${name}`, name.replace("transformer.", ""), `${name}_scale`]);
          if (choices.oneIn(2)) delete tensors[name];
          Object.defineProperty(tensors, other, { value: { dtype, shape, data }, enumerable: true, configurable: true, writable: true });
          return `${name} as ${other}`;
        }
        case 2: {
          const reshaped = choices.pick([shape.toReversed(), [1, ...shape], shape.slice(1), [...shape, 1], [shape.reduce((product, length) => product * length, 1)], [0], []]);
          const bytes = reshaped.reduce((product, length) => product * length, writtenDtypeBytes[dtype]);
          tensors[name] = { dtype, shape: reshaped, data: new Uint8Array(bytes) };
          return `${name} as [${reshaped.join()}]`;
        }
        case 3: {
          const other = choices.pick(dtypes);
          tensors[name] = { dtype: other, shape, data: new Uint8Array(shape.reduce((product, length) => product * length, writtenDtypeBytes[other])).fill(choices.pick([0, 1, 63, 255])) };
          return `${name} as ${other}`;
        }
        default: {
          const other = choices.pick(["F64", "F32", "F16", "BF16"] as const);
          const values = new Float32Array(shape.reduce((product, length) => product * length, 1)).fill(0.1);
          const at = choices.below(values.length);
          values[at] = choices.pick(hostileFloats);
          tensors[name] = { dtype: other, shape, data: encodeFloats(values, other) };
          return `${name} in ${other} holds ${values[at]}`;
        }
      }
    };
    const tally = await fuzz("weights", 1_500, (choices) => {
      const files = choices.pick(floatCheckpoints);
      let what: string;
      let file = files["model.safetensors"]!;
      if (choices.oneIn(3)) ({ file, what } = mutateSafetensors(choices, file));
      else {
        const tensors = tensorsOf(file);
        what = Array.from({ length: 1 + choices.below(2) }, () => changeTensors(choices, tensors)).join(", ");
        file = writeSafetensors(tensors);
      }
      return loading(choices, { ...files, "model.safetensors": file }, what);
    });
    expectBoth(tally);
  });

  test("config", async () => {
    const fields = ["n_layer", "num_hidden_layers", "n_head", "num_attention_heads", "n_embd", "hidden_size", "n_inner", "n_positions", "max_position_embeddings", "vocab_size", "layer_norm_epsilon", "activation_function", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings", "bos_token_id", "eos_token_id", "model_type", "quantization_config", "pruned_heads", "add_cross_attention"];
    const tally = await fuzz("config", 1_300, (choices) => {
      const { files, what } = withChangedJson(choices, choices.pick(floatCheckpoints), "config.json", (json) => {
        if (json instanceof Fields && choices.oneIn(3)) json.pairs.push([choices.pick(fields), "7"]);
        return mutateJson(choices, json, "config");
      });
      return loading(choices, files, what, { legalWeights: true });
    });
    expectBoth(tally);
  });

  test("index", async () => {
    const folders = floatCheckpoints.map(sharded);
    const tally = await fuzz("index", 600, (choices) => {
      const { files, what } = withChangedJson(choices, choices.pick(folders), "model.safetensors.index.json");
      return loading(choices, files, what, { legalWeights: true });
    });
    expectBoth(tally);
  });

  test("tokenizer", async () => {
    const byteChars = Array.from({ length: 256 }, (_, byte) => ((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174 ? byte : -1)).map((code, byte, codes) => String.fromCharCode(code >= 0 ? code : 256 + codes.slice(0, byte).filter((other) => other < 0).length));
    const vocab = { ...Object.fromEntries(byteChars.map((char, byte) => [char, byte])), ab: 256, abc: 257, Ġa: 258, "<|endoftext|>": 259 };
    const merges = ["a b", "ab c", "Ġ a"];
    const json = { version: "1.0", added_tokens: [{ id: 259, content: "<|endoftext|>", special: true, lstrip: false }], normalizer: null, pre_tokenizer: { type: "ByteLevel", add_prefix_space: false }, model: { type: "BPE", dropout: null, vocab, merges } };
    const folders: Files[] = [{ "tokenizer.json": encode(JSON.stringify(json)) }, { "vocab.json": encode(JSON.stringify(vocab)), "merges.txt": encode(`#version: 0.2\n${merges.join("\n")}\n`) }];
    const text = "abc ab a<|endoftext|>\0 é😀\ud800 b";
    const decoder = new TextDecoder();
    const tally = await fuzz("tokenizer", 1_200, (choices) => {
      const folder = choices.pick(folders);
      const name = choices.pick(Object.keys(folder));
      const changed = name === "merges.txt" ? mutateBytes(choices, folder[name]!) : null;
      const { files, what } = changed ? { files: { ...folder, [name]: changed.bytes }, what: `${name}: ${changed.what}` } : withChangedJson(choices, folder, name);
      if (choices.oneIn(10)) return loading(choices, { ...floatCheckpoints[0]!, ...files }, what, { legalWeights: true });
      return {
        what,
        givenBytes: sizeOf(files),
        run: () => {
          const tokenizer = tokenizerOf(Object.fromEntries(Object.entries(files).map(([file, bytes]) => [file, decoder.decode(bytes)])), { vocabSize: 260, eosTokenId: null });
          const ids = tokenizer.encode(text);
          if (ids.some((id) => !(id >= 0 && id < tokenizer.vocabSize))) throw new Error(`encoded to ${ids.join()}`);
          const stream = tokenizer.stream();
          const streamed = ids.map((id) => stream.push(id)).join("") + stream.flush();
          if (streamed !== tokenizer.decode(ids)) throw new Error(`decoded to ${tokenizer.decode(ids)}, streamed ${streamed}`);
        },
      };
    });
    expectBoth(tally);
  });

  test("quantized", async () => {
    const plain = await quantizedCheckpoints(false);
    const hashed = await quantizedCheckpoints(true);
    const tally = await fuzz("quantized", 1_400, (choices) => {
      const files = choices.pick(choices.oneIn(8) ? hashed : plain);
      const file = files["model.safetensors"]!;
      if (choices.oneIn(2)) {
        const { file: changed, what } = mutateSafetensors(choices, file);
        return loading(choices, { ...files, "model.safetensors": changed }, what);
      }
      const tensors = tensorsOf(file);
      const metadata = Object.fromEntries(parseSafetensors(file).metadata);
      if (choices.oneIn(3)) {
        const key = choices.pick(Object.keys(metadata).filter((name) => name === "nibble.recipe" || name === "nibble.sha256"));
        const json = toNode(JSON.parse(metadata[key]!));
        const what = mutateJson(choices, json, key);
        metadata[key] = toText(json);
        return loading(choices, { ...files, "model.safetensors": writeSafetensors(tensors, metadata) }, what);
      }
      const companion = choices.pick(Object.keys(tensors).filter((name) => !/(weight|bias)$/.test(name)));
      const { dtype, shape, data } = tensors[companion]!;
      let what: string;
      if (companion.includes("quant_state")) {
        const json = toNode(JSON.parse(new TextDecoder().decode(data as Uint8Array)));
        what = `${companion}: ${mutateJson(choices, json, "state")}`;
        const text = encode(toText(json));
        tensors[companion] = { dtype, shape: [text.length], data: text };
      } else {
        const bytes = (data as Uint8Array).slice();
        const at = choices.below(bytes.length);
        bytes[at] = choices.below(256);
        if (choices.oneIn(2)) bytes.set(choices.pick([Uint8Array.of(0, 0, 0xc0, 0x7f), Uint8Array.of(0, 0, 0x80, 0x7f), Uint8Array.of(0xff, 0xff, 0x7f, 0x7f)]).subarray(0, bytes.length), at & ~3 && (at & ~3) <= bytes.length - 4 ? at & ~3 : 0);
        tensors[companion] = { dtype, shape: choices.oneIn(8) ? shape.toReversed() : shape, data: bytes };
        what = `${companion} changed at byte ${at}`;
      }
      return loading(choices, { ...files, "model.safetensors": writeSafetensors(tensors, metadata) }, what);
    });
    expectBoth(tally);
  });

  test("harmless changes, which are taken and change no logit", async () => {
    const files = floatCheckpoints[0]!;
    using original = await loadModel(files, { backend: "cpu" });
    const expected = await original.logits([0, 6]);
    const tally = await fuzz("harmless changes", 300, (choices) => {
      const whats: string[] = [];
      const maybe = (what: string): boolean => choices.oneIn(2) && whats.push(what) > 0;
      let tensors = Object.entries(tensorsOf(files["model.safetensors"]!));
      if (maybe("shuffled")) tensors = tensors.map((entry) => ({ entry, key: choices.below(2 ** 32) })).sort((a, b) => a.key - b.key).map(({ entry }) => entry);
      if (maybe("prefixed")) tensors = tensors.map(([name, tensor]) => [`transformer.${name}`, tensor]);
      if (maybe("one in F64")) {
        const entry = choices.pick(tensors);
        entry[1] = { ...entry[1], dtype: "F64", data: encodeFloats(new Float32Array((entry[1].data as Uint8Array).slice().buffer), "F64") };
      }
      if (maybe("more tensors")) tensors.splice(choices.below(tensors.length), 0, ["score.weight", { dtype: "I64", shape: [1], data: new Uint8Array(8) }], ["h.0.attn.bias", { dtype: "BOOL", shape: [0, 4], data: new Uint8Array(0) }]);
      const config = jsonOf(files["config.json"]!) as Fields;
      if (maybe("more fields")) config.pairs.push(["n_ctx", "-1"], ["__proto__", '{"n_layer":9}'], ["", "null"]);
      const cut = maybe("in two files") ? 1 + choices.below(tensors.length - 1) : tensors.length;
      const shards: Record<string, Uint8Array<ArrayBuffer>> = cut < tensors.length ? { "a.safetensors": writeSafetensors(Object.fromEntries(tensors.slice(0, cut))), "b.safetensors": writeSafetensors(Object.fromEntries(tensors.slice(cut))) } : { "model.safetensors": writeSafetensors(Object.fromEntries(tensors), { format: "pt" }) };
      if (cut < tensors.length && maybe("with an index")) shards["model.safetensors.index.json"] = encode(JSON.stringify({ weight_map: Object.fromEntries(tensors.map(([name], i) => [name, i < cut ? "a.safetensors" : "b.safetensors"])) }));
      const changed = { ...shards, "config.json": encode(toText(config)) };
      return {
        what: whats.join(", "),
        givenBytes: sizeOf(changed),
        run: async () => {
          using model = await loadModel(changed, { backend: "cpu" });
          const logits = await useModel(model, true);
          if (!logits.every((logit, i) => logit === expected[i])) throw new Error(`logits are ${logits.join()}; expected ${expected.join()}`);
        },
      };
    });
    expect(tally.refused).toBe(0);
  });

  test("comparisons", async () => {
    const shard = async (index: number): Promise<Comparison> => {
      const rows = compareQuantizations(floatCheckpoints[0]!, { text: [1, 2, 3, 4, 5, 6, 1, 2], recipes: ["int8"], backend: "cpu", protocol: "disjoint", windowTokens: 4, shard: { index, count: 2 } });
      for (;;) {
        const { done, value } = await rows.next();
        if (done) return value;
      }
    };
    const shards = [encodeComparison(await shard(0)), encodeComparison(await shard(1))];
    const tally = await fuzz("comparisons", 300, (choices) => {
      const texts = [...shards];
      const which = choices.below(2);
      let what: string;
      if (choices.oneIn(4)) {
        const { bytes, what: change } = mutateBytes(choices, encode(texts[which]!));
        texts[which] = new TextDecoder().decode(bytes);
        what = change;
      } else {
        const json = toNode(JSON.parse(texts[which]!));
        what = mutateJson(choices, json, "comparison");
        texts[which] = toText(json);
      }
      return {
        what,
        givenBytes: texts.join("").length,
        byCaller: true, // shards that do not belong together
        run: () => {
          const merged = mergeComparisons(texts.map(decodeComparison));
          const text = encodeComparison(merged);
          if (encodeComparison(decodeComparison(text)) !== text) throw new Error("the merged comparison reads back as another");
        },
      };
    });
    expect(tally.taken).toBeGreaterThan(20);
    expect(tally.refused).toBeGreaterThan(100);
  });

  test("options", async () => {
    const files = floatCheckpoints[0]!;
    const format = { type: "int8", mode: "absmax", granularity: "channel" } as const;
    const recipe = { name: "x", linear: format, embedding: format, activations: "float", rounding: "nearest", activationOrder: false, equalization: "none", smoothing: 0.5, observer: "minmax", outlierThreshold: undefined, overrides: undefined };
    using model = await loadModel(files, { backend: "cpu" });
    const any = (value: unknown): never => value as never;
    const calls: readonly [name: string, good: Readonly<Record<string, unknown>>, call: (options: Record<string, unknown>) => unknown][] = [
      ["generate", { maxTokens: 2, temperature: 1, topK: 3, topP: 0.9, minP: 0.1, repetitionPenalty: 1.1, frequencyPenalty: 0.1, presencePenalty: 0.1, logitBias: { 1: 1 }, seed: 1, stop: ["x"], logProbs: 2, signal: undefined }, async (options) => {
        for await (const { id, logProb } of model.generate([1], any(options))) if (!(id >= 0 && id < 7 && logProb <= 0)) throw new Error(`token ${id} of ${logProb}`);
      }],
      ["prompt", { prompt: [1, 2] }, async ({ prompt }) => { await model.complete(any(prompt), { maxTokens: 1 }); }],
      ["logits", { tokens: [1, 2], options: {} }, async ({ tokens }) => { if (!(await model.logits(any(tokens))).every(Number.isFinite)) throw new Error("no finite logits"); }],
      ["tokenLogProbs", { tokens: [1, 2] }, async ({ tokens }) => model.tokenLogProbs(any(tokens))],
      ["perplexity", { text: [1, 2, 3, 4, 5, 6], protocol: "strided", windowTokens: 4, strideTokens: 2, signal: undefined, onProgress: undefined }, ({ text, ...options }) => model.perplexity(any(text), any(options))],
      ["encode", { text: "a", specialTokens: "text" }, ({ text, specialTokens }) => model.encode(any(text), { specialTokens: any(specialTokens) })],
      ["decode", { tokens: [1, 2] }, ({ tokens }) => model.decode(any(tokens))],
      ["load", { backend: "cpu", quantization: recipe, kvCache: "f32", contextLength: 2, cache: undefined, integrity: undefined, calibration: undefined, onProgress: undefined, signal: undefined }, async (options) => {
        if (options.backend !== "cpu") return; // another backend is another test's
        using loaded = await loadModel(files, any(options));
        await useModel(loaded, true);
      }],
      ["recipe", recipe, async (quantization) => {
        using loaded = await loadModel(files, { backend: "cpu", quantization: any(quantization) });
        await useModel(loaded, true);
      }],
      ["format", { format, values: Float32Array.of(1, 2), shape: [1, 2] }, ({ values, shape, format }) => dequantizeTensor(quantizeTensor(any(values), any(shape), any(format)))],
      ["compare", { text: [1, 2, 3, 4, 5, 6], recipes: ["int8"], baseline: "f32", protocol: "disjoint", windowTokens: 4, shard: undefined, samples: false, calibration: undefined, onProgress: undefined, signal: undefined }, async (options) => {
        for await (const row of compareQuantizations(files, any({ ...options, backend: "cpu" }))) if (!row.error && !Number.isFinite(row.perplexity)) throw new Error(`perplexity ${row.perplexity}`);
      }],
      ["fitToBudget", { text: [1, 2, 3, 4, 5, 6], bytes: undefined, bitsPerWeight: 9, formats: undefined, embedding: undefined, refinements: 1, sensitivity: undefined, maxTokens: 6, windowTokens: 4, onProgress: undefined, signal: undefined }, (options) => fitToBudget(files, any({ ...options, backend: "cpu" }))],
      ["calibrate", { text: [1, 2, 3, 4, 5, 6], outlierThreshold: 6, contextLength: 4, onProgress: undefined, signal: undefined }, (options) => calibrate(files, any({ ...options, backend: "cpu" }))],
      ["readTensor", { name: "ln_f.bias", onProgress: undefined, signal: undefined }, ({ name, ...options }) => readTensor(files, any(name), any(options))],
      ["histogram", { bins: 3, range: [-1, 1], values: Float32Array.of(1, 2) }, ({ values, ...options }) => weightHistogram(any(values), any(options))],
      ["inspect", { format, values: Float32Array.of(1, 2), shape: [1, 2], bins: 3, outlierFactor: 6 }, ({ values, shape, format, ...options }) => inspectQuantization(any(values), any(shape), any(format), any(options))],
      ["export", { signal: undefined }, async (options) => new Response(exportSafetensors(model, any(options)) as ReadableStream<Uint8Array<ArrayBuffer>>).arrayBuffer()],
      ["files", files, async (changed) => {
        using loaded = await loadModel(any(changed), { backend: "cpu" });
        await useModel(loaded, true);
      }],
    ]; // prettier-ignore
    const tally = await fuzz("options", 1_200, (choices) => {
      const [name, good, call] = choices.pick(calls);
      const { options, what } = hostileOptions(choices, good);
      return { what: `${name}: ${what}`, givenBytes: 200_000, byCaller: true, run: () => call(options) };
    });
    expectBoth(tally);
  });
});
