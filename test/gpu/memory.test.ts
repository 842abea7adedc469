import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { create } from "webgpu";
import { compareQuantizations, EngineError, exportSafetensors, loadModel, presets, type PresetName } from "../../src/index.ts";
import { Gpu } from "../../src/gpu/device.ts";
import { activationsOf } from "../../src/load/options.ts";
import { createGpuBuilder } from "../../src/model/gpu.ts";
import { planGpu } from "../../src/model/gpuBuffers.ts";
import { formatOf } from "../../src/quantize/recipes.ts";
import { Choices } from "../fuzz/choices.ts";
import { FailingAllocations } from "../fixtures/failingAllocations.ts";
import { LosingGpu } from "../fixtures/losingGpu.ts";
import { seededCheckpoint, tinyCheckpoints, type TinyCheckpointName } from "../fixtures/seededCheckpoint.ts";
import { type DeviceCounts, watchDevice } from "../fixtures/watchDevice.ts";
import { adapterName, requireAdapter, requireGpu } from "../gpu.ts";
import { addReferenceWeights, referenceCheckpoint } from "../reference/weights.ts";

const presetNames = Object.keys(presets) as PresetName[];

/** Dawn's null backend, which makes buffers and pipelines and runs nothing; never collected, or Dawn ends the process. */
const nullGpu = (requireGpu(), create(["backend=null"]));

const onSwiftShader = (await adapterName()) === "swiftshader";

describe.skipIf(onSwiftShader).each(["hardware", "software"] as const)("a plan for a GPU, tuned for %s", (tuning) => {
  test.each<[TinyCheckpointName, readonly PresetName[], readonly ("f32" | "f16" | "int8")[], maxPartBytes: number]>([
    ["width2", presetNames, ["f32"], Infinity],
    ["oneLayer", presetNames, ["f16", "int8"], Infinity],
    ["width100", presetNames, ["f16"], 20_000], // wte in several parts
    ["context300", presetNames, ["int8"], Infinity],
    ["fullVocabulary", ["int4"], ["f16"], Infinity],
  ])("of %s is what is allocated, to the byte, and what the loaded model reports", async (name, tested, kvCaches, maxPartBytes) => {
    const { config, weights } = referenceCheckpoint(seededCheckpoint(tinyCheckpoints[name]));
    for (const preset of tested) {
      if (name === "width2" && /zeropoint|int4/.test(preset)) continue; // two values to a row: zero points beyond int8
      const recipe = presets[preset];
      for (const kvCache of kvCaches) {
        const gpu = await Gpu.open({ gpu: nullGpu, largestTensorBytes: 0 });
        const watch = watchDevice(gpu.device);
        const variants = { tuning, gemv: { stripes: 8, rowTiles: 2 } } as const;
        const options = { config, contextLength: config.nPositions - 1, kvCache, ...activationsOf(recipe) };
        const builder = createGpuBuilder(gpu, { ...options, variants, maxPartBytes });
        await addReferenceWeights(builder, weights, recipe);
        const { memory: { peakBytes, ...memory }, dispose } = await builder.finish().then((backend) => ({ memory: backend.memory, dispose: () => backend.dispose() }));
        const limits = { maxBufferSize: gpu.device.limits.maxBufferSize, maxStorageBufferBindingSize: Math.min(maxPartBytes, gpu.device.limits.maxStorageBufferBindingSize) };
        expect(planGpu(options, (tensor) => formatOf(recipe, tensor.name, tensor.kind as "linear"), { limits, variants }).memory, preset).toEqual(memory);
        expect([watch.liveBytes, peakBytes]).toEqual([memory.total, memory.total]);
        dispose();
        expect(watch.liveBytes).toBe(0);
      }
    }
  });
});

/** On SwiftShader the kernels alone would take half a minute to compile. */
describe.skipIf(onSwiftShader)("a GPU that runs out of memory", () => {
  const files = seededCheckpoint(tinyCheckpoints.oneLayer);
  const quantization = "int8";
  /** One for all tests, which compiles their kernels once. */
  let device: GPUDevice;
  let watch: DeviceCounts;
  let allocations: FailingAllocations;

  beforeAll(async () => {
    device = await (await requireAdapter()).requestDevice();
    watch = watchDevice(device);
    allocations = new FailingAllocations(device);
    device.addEventListener("uncapturederror", (event) => event.preventDefault()); // what is bound to a buffer without room
  });
  afterAll(() => device.destroy());

  /** What work throws. @throws Error where it is no `outOfMemory` with the label and size of the buffer that failed */
  async function shortage(left: number, work: () => Promise<unknown>): Promise<EngineError | null> {
    Object.assign(allocations, { left, failed: null });
    const error = await work().then(() => null, (error: unknown) => error as EngineError); // prettier-ignore
    allocations.left = Infinity;
    if (!allocations.failed) {
      if (error) throw error;
      return null;
    }
    const { label, size } = allocations.failed;
    expect(error, label).toBeInstanceOf(EngineError);
    expect(error).toMatchObject({ code: "outOfMemory", message: `The GPU has no room for buffer "${label}" of ${size} bytes: no room`, details: { label, size } });
    return error;
  }

  test("at any allocation of a load ends it with `outOfMemory`, the buffer and its size; nothing stays, and the next load works", async () => {
    let logits: Float32Array | undefined;
    const load = async (): Promise<void> => {
      using model = await loadModel(files, { backend: "webgpu", device, quantization });
      logits = await model.logits([1, 2, 3]);
    };
    const failed: string[] = [];
    for (const _ of ["with the kernels' known answers", "without, since a device is asked once"]) {
      for (let left = 1; ; left++) {
        const error = await shortage(left, load);
        if (!error) break;
        failed.push(error.details.label as string);
        expect(watch.liveBytes, failed.at(-1)).toBe(0);
      }
    }
    expect(failed.length).toBeGreaterThan(80);
    expect(failed).toEqual(expect.arrayContaining(["h.0.attn.c_attn.codes", "known answer", "h.0.kv", "x", "steps", "samples.staging2"]));
    const other = await loadModel(files, { backend: "webgpu", gpu: requireGpu(), quantization });
    expect(await other.logits([1, 2, 3])).toEqual(logits); // on a device that never failed
    other.dispose();
  });

  test("leaves nothing, over 100 loads that find no room, generate, leave a loop early or are aborted", async () => {
    const random = new Choices(100);
    const controllers = Array.from({ length: 100 }, () => new AbortController());
    const endings = new Map<string, number>();
    for (const [i, controller] of controllers.entries()) {
      const abortAt = i % 4 === 2 ? random.below(30) / 30 : Infinity;
      allocations.left = i % 4 === 3 ? 1 + random.below(30) : Infinity;
      let ending = "disposed";
      try {
        using model = await loadModel(files, { backend: "webgpu", device, quantization, signal: controller.signal, onProgress: ({ fraction }) => void (fraction >= abortAt && controller.abort("enough")) });
        expect(model.memory.total).toBe(watch.liveBytes);
        for await (const _ of model.generate([1, 2], { maxTokens: 4, signal: controller.signal })) if (i % 4 === 1) break;
      } catch (error) {
        ending = error === "enough" ? "aborted" : (error as EngineError).code;
      }
      allocations.left = Infinity;
      endings.set(ending, (endings.get(ending) ?? 0) + 1);
      expect(watch.liveBytes).toBe(0);
    }
    expect(Object.fromEntries(endings)).toEqual({ disposed: 50, aborted: 25, outOfMemory: 25 });
  });

  test("at an allocation of a device of its own destroys that, and the next load takes another from the same adapter", async () => {
    const gpu = new LosingGpu();
    gpu.onDevice = (device, count) => void (count === 1 && (new FailingAllocations(device).left = 3));
    await expect(loadModel(files, { backend: "webgpu", gpu: gpu.gpu, quantization })).rejects.toMatchObject({ code: "outOfMemory" });
    expect((await gpu.devices[0]!.lost).reason).toBe("destroyed");
    expect(gpu.counts.liveBytes).toBe(0);
    using model = await loadModel(files, { backend: "webgpu", gpu: gpu.gpu, quantization });
    expect(model.memory.total).toBe(gpu.counts.liveBytes);
  });

  test("at what is made on first use fails that call alone: the model goes on, and the call works when there is room", async () => {
    using model = await loadModel(files, { backend: "webgpu", device, quantization });
    const exported = async (): Promise<void> => void (await new Response(exportSafetensors(model) as ReadableStream<Uint8Array<ArrayBuffer>>).arrayBuffer());
    for (const [call, counts] of [[() => model.tokenLogProbs([1, 2, 3]), 5], [exported, 1]] as const) {
      let before = watch.liveBytes;
      for (let left = 1; left <= counts; left++) {
        expect(await shortage(left, call)).not.toBeNull();
        expect([watch.liveBytes, model.memory.total]).toEqual([before, before]);
        expect((await model.complete([1, 2], { maxTokens: 2, temperature: 0 })).newTokens).toBe(2);
      }
      await call();
      before = watch.liveBytes;
      await call(); // control case: nothing more is made that stays
      expect([watch.liveBytes, model.memory.total]).toEqual([before, before]);
    }
  });

  test("anywhere in a comparison gives a row with the error, or ends it where it is the baseline's, and nothing stays", async () => {
    const labels = new Set<string>();
    const gptq = { ...presets.int8, name: "gptq", rounding: "gptq" } as const;
    const compare = async (): Promise<void> => {
      for await (const { error } of compareQuantizations(files, { text: [1, 2, 3, 4, 5, 6, 7, 8, 9], recipes: [gptq], calibration: [5, 6, 7, 8], backend: "webgpu", device, windowTokens: 8 })) {
        if (error) throw error;
      }
    };
    await compare();
    for (let left = 1; ; left += 6) {
      const error = await shortage(left, compare);
      expect(watch.liveBytes).toBe(0);
      if (!error) break;
      labels.add(error.details.label as string);
    }
    expect([...labels].filter((label) => /^compare|statistics|observe/.test(label)).length).toBeGreaterThan(1);
    expect(labels.size).toBeGreaterThan(10);
  });
});
