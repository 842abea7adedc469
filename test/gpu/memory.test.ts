import { describe, expect, test } from "vitest";
import { create } from "webgpu";
import { presets, type PresetName } from "../../src/index.ts";
import { Gpu } from "../../src/gpu/device.ts";
import { activationsOf } from "../../src/load/options.ts";
import { createGpuBuilder } from "../../src/model/gpu.ts";
import { planGpu } from "../../src/model/gpuBuffers.ts";
import { formatOf } from "../../src/quantize/recipes.ts";
import { seededCheckpoint, tinyCheckpoints, type TinyCheckpointName } from "../fixtures/seededCheckpoint.ts";
import { watchDevice } from "../fixtures/watchDevice.ts";
import { requireGpu } from "../gpu.ts";
import { addReferenceWeights, referenceCheckpoint } from "../reference/weights.ts";

const presetNames = Object.keys(presets) as PresetName[];

/** Dawn's null backend, which makes buffers and pipelines and runs nothing; never collected, or Dawn ends the process. */
const nullGpu = (requireGpu(), create(["backend=null"]));

describe.each(["hardware", "software"] as const)("a plan for a GPU, tuned for %s", (tuning) => {
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
