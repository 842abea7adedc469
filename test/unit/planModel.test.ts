import { describe, expect, test } from "vitest";
import { EngineError, loadModel, planModel, presets, type Gpt2Config, type LoadOptions, type PresetName } from "../../src/index.ts";
import { activationsOf } from "../../src/load/options.ts";
import { createCpuBuilder } from "../../src/model/cpu.ts";
import { planCpu } from "../../src/model/cpu/plan.ts";
import { planGpu } from "../../src/model/gpuBuffers.ts";
import { formatOf } from "../../src/quantize/recipes.ts";
import { embeddedModel } from "../fixtures/embeddedModel.ts";
import { startHubServer } from "../fixtures/hubServer.ts";
import { seededCheckpoint, tinyCheckpoints, type TinyCheckpointName } from "../fixtures/seededCheckpoint.ts";
import { addReferenceWeights, referenceCheckpoint } from "../reference/weights.ts";

const names = Object.keys(presets) as PresetName[];
const kvCaches = ["f32", "f16", "int8"] as const;
const tiny = (name: TinyCheckpointName): ReturnType<typeof seededCheckpoint> => seededCheckpoint(tinyCheckpoints[name]);
const gpt2: Gpt2Config = { nLayer: 12, nHead: 12, nEmbd: 768, nInner: 3072, nPositions: 1024, vocabSize: 50257, layerNormEpsilon: 1e-5, activation: "gelu_new", scaleAttnWeights: true, scaleAttnByInverseLayerIdx: false, tieWordEmbeddings: true, bosTokenId: null, eosTokenId: null };

/** Two values to a row: their zero points fit int8 only where one of them is negative. */
const wide = (checkpoint: string, preset: string): boolean => checkpoint === "width2" && /zeropoint|int4/.test(preset);

/** Every ArrayBuffer that can be reached from an object, WebAssembly memories included. */
function reachableBuffers(from: unknown, found = new Set<ArrayBufferLike>(), seen = new Set<unknown>()): Set<ArrayBufferLike> {
  if (typeof from !== "object" || from === null || seen.has(from)) return found;
  seen.add(from);
  if (from instanceof WebAssembly.Memory) found.add(from.buffer);
  else if (ArrayBuffer.isView(from)) found.add(from.buffer);
  else for (const value of from instanceof Map || from instanceof Set ? [...from.values()] : Object.values(from)) reachableBuffers(value, found, seen);
  return found;
}

describe.each([true, false])("a plan for the CPU, with SIMD %s", (simd) => {
  test.each<[TinyCheckpointName, readonly PresetName[], readonly (typeof kvCaches)[number][]]>([
    ["width2", names, kvCaches],
    ["oneLayer", names, kvCaches],
    ["width100", names, ["f16"]],
    ["context300", names, ["int8"]],
    ["fullVocabulary", ["int4"], ["f16"]],
  ])("of %s is what is allocated, to the byte, and what the loaded model reports", async (name, tested, caches) => {
    const { config, weights } = referenceCheckpoint(tiny(name));
    for (const preset of tested.filter((preset) => !wide(name, preset))) {
      const recipe = presets[preset];
      for (const kvCache of caches) {
        const options = { config, contextLength: config.nPositions - 1, kvCache, ...activationsOf(recipe) };
        const load = async () => {
          const builder = createCpuBuilder({ ...options, simd });
          await addReferenceWeights(builder, weights, recipe);
          return builder.finish();
        };
        const [backend, other] = [await load(), await load()];
        const { peakBytes, ...memory } = backend.memory;
        expect(planCpu(options, (tensor) => formatOf(recipe, tensor.name, tensor.kind as "linear"), simd), preset).toEqual({ memory, shortages: [] });
        expect(peakBytes).toBe(memory.total);
        const shared = reachableBuffers(other); // tables
        const own = [...reachableBuffers(backend)].filter((buffer) => !shared.has(buffer));
        const nestedOffsets = preset === "nf4-dq" && !simd ? 4 * 4 * config.nLayer : 0; // numbers, which are stored but in no array
        expect(own.reduce((sum, buffer) => sum + buffer.byteLength, 0) + nestedOffsets, preset).toBe(memory.total);
        backend.dispose();
        expect(reachableBuffers((backend as unknown as { buffers: unknown }).buffers).size).toBe(0);
      }
    }
  });
});

describe("planModel", () => {
  test.each<[string, LoadOptions]>([
    ["the defaults", {}],
    ["NF4 with double quantization and a shorter context", { quantization: "nf4-dq", contextLength: 100 }],
    ["LLM.int8() with an int8 cache", { quantization: "llm-int8", kvCache: "int8" }],
  ])("of the embedded model with %s is what loadModel makes", async (_, options) => {
    const files = await embeddedModel();
    const plan = await planModel(files, { backend: "cpu", ...options });
    using model = await loadModel(files, { backend: "cpu", ...options });
    const { peakBytes: _peak, ...memory } = model.memory;
    expect(plan).toMatchObject({ backend: "cpu", recipe: model.quantization.recipe, contextLength: options.contextLength ?? 256, memory, shortages: [], fittingPresets: names, fittingContextLength: 256, downloadBytes: files["model.safetensors"]!.length });
    expect(memory.weights + memory.embedding + memory.scales).toBeGreaterThanOrEqual(model.quantization.bytes.total - 4 * 192 * (256 - plan.contextLength));
  }, 60_000);

  test("takes a config alone, which tells of no download", async () => {
    const { memory, downloadBytes, recipe, kvCache } = await planModel(gpt2, { backend: "cpu" });
    expect({ downloadBytes, recipe, kvCache }).toEqual({ downloadBytes: null, recipe: presets.int8, kvCache: "f16" });
    expect(memory.weights).toBe(12 * 12 * 768 ** 2);
    expect((await planModel(gpt2, { backend: "cpu", quantization: "nf4" })).memory.weights).toBe(6 * 12 * 768 ** 2);
  });

  test("says what does not fit, with the bytes, and which presets and what context would; loadModel then rejects before it reads a weight", async () => {
    const large = { ...gpt2, nLayer: 1, nPositions: 1_000_000 };
    const options = { backend: "cpu", kvCache: "f32" } as const;
    const plan = await planModel(large, options);
    const { fittingContextLength } = plan;
    expect(plan.shortages).toEqual([{ what: "the memory of the WebAssembly loops", needBytes: expect.any(Number) as number, limitBytes: 2 ** 32 - 65536, limit: "WebAssembly.Memory" }]);
    expect(plan.fittingPresets).toEqual([]);
    expect((await planModel(large, { ...options, contextLength: fittingContextLength! })).shortages).toEqual([]); // control case
    expect((await planModel(large, { ...options, contextLength: fittingContextLength! + 1 })).shortages).toHaveLength(1);

    const xl = { ...gpt2, nLayer: 48, nHead: 25, nEmbd: 1600, nInner: 6400, nPositions: 3000 };
    const { fittingPresets, shortages } = await planModel(xl, { ...options, quantization: "f32" });
    expect([shortages.length, fittingPresets.includes("f32"), fittingPresets.includes("int8")]).toEqual([1, false, true]);

    const { "config.json": config } = seededCheckpoint({ ...tinyCheckpoints.oneLayer, nEmbd: 12, nPositions: 1 });
    const json = { ...(JSON.parse(new TextDecoder().decode(config)) as object), n_embd: 768, n_head: 12, n_positions: 1_000_000 };
    let isRead = false;
    const weights = new (class extends Blob {
      override stream(): ReturnType<Blob["stream"]> {
        isRead = true;
        return super.stream();
      }
    })([new Uint8Array(64)]);
    const error = await loadModel({ "config.json": new TextEncoder().encode(JSON.stringify(json)), "model.safetensors": weights }, { ...options, quantization: "int8" }).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(EngineError);
    expect(error).toMatchObject({ code: "outOfMemory", message: expect.stringMatching(/^The model does not fit: the memory of the WebAssembly loops needs \d+ bytes; this engine allows 4294901760 \(WebAssembly\.Memory\)\. What would fit: a contextLength of \d+\.$/) as string, details: { limitBytes: 2 ** 32 - 65536, fittingPresets: [] } });
    expect(isRead).toBe(false);
  });

  test("learns the size of the weights from the server, and closes the transfer that told it", async () => {
    const files = tiny("oneLayer");
    const hub = await startHubServer({ repositories: { "acme/tiny": files } });
    hub.failures.set("model.safetensors", { stalls: [0] });
    const { downloadBytes, memory } = await planModel("acme/tiny", { hub, backend: "cpu", quantization: "nf4" });
    await hub.dropped;
    expect([downloadBytes, hub.openTransfers]).toEqual([files["model.safetensors"].length, 0]);
    expect(memory).toEqual((await planModel(files, { backend: "cpu", quantization: "nf4" })).memory);
    await hub.close();
  });

  test("rejects what loadModel rejects", async () => {
    await expect(planModel(gpt2, { backend: "cpu", contextLength: 1025 })).rejects.toThrow(RangeError);
    await expect(planModel(gpt2, { backend: "gpu" as "cpu" })).rejects.toThrow(TypeError);
    await expect(planModel({ "model.safetensors": new Uint8Array(8) }, { backend: "cpu" })).rejects.toMatchObject({ code: "checkpoint" });
    const reason = new Error("enough");
    await expect(planModel(gpt2, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});

describe("a plan for WebGPU", () => {
  const planned = (limits: { maxBufferSize: number; maxStorageBufferBindingSize: number }, contextLength: number) =>
    planGpu({ config: { ...gpt2, nPositions: contextLength }, contextLength, kvCache: "f32" }, () => ({ type: "f32" }), { limits, variants: { tuning: "hardware", gemv: { stripes: 8, rowTiles: 2 } } });
  const defaults = { maxBufferSize: 2 ** 28, maxStorageBufferBindingSize: 2 ** 27 };

  test("splits matrices at the limit and names each buffer that cannot be split, once for all layers", () => {
    expect(planned(defaults, 1024).shortages).toEqual([]); // control case: wte is larger than a binding
    const kvBytes = 2 * 768 * 4 * 50_000;
    expect(planned(defaults, 50_000).shortages).toEqual([
      { what: 'buffer "wpe"', needBytes: kvBytes / 2, limitBytes: 2 ** 27, limit: "maxStorageBufferBindingSize" },
      { what: 'buffer "h.0.kv"', needBytes: kvBytes, limitBytes: 2 ** 28, limit: "maxBufferSize" },
    ]);
    expect(planned({ maxBufferSize: 2 ** 30, maxStorageBufferBindingSize: 2 ** 29 }, 50_000).shortages).toEqual([]);
  });
});
