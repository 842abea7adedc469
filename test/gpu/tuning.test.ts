import { describe, expect } from "vitest";
import { Gpu } from "../../src/gpu/device.ts";
import { tunedGemv, type Clock } from "../../src/model/tuning.ts";
import type { MatrixKind } from "../../src/model/knownAnswers.ts";
import { gpuTest } from "../gpu.ts";

const kinds: readonly MatrixKind[] = [
  { format: { type: "nf4", block: 64 }, columns: 64, activations: "float" },
  { format: { type: "int8", mode: "absmax", granularity: "channel" }, columns: 256, activations: "int8" },
];
const SHAPES = 9;

/** A clock by which the shapes take `times`, in the order in which they are tried; records what it is given once each. */
function clockOf(times: readonly number[]): { clock: Clock; calls: () => number } {
  let calls = 0;
  const clock: Clock = async (gpu, record) => {
    if (calls < SHAPES) gpu.submit("tuning", record);
    const ms = times[calls++ % SHAPES]!;
    await gpu.idle();
    return ms;
  };
  return { clock, calls: () => calls };
}

describe("tunedGemv", () => {
  gpuTest("takes the shape that is fastest, measures an adapter once, and frees what it measured with", async ({ device }) => {
    const gpu = await Gpu.open({ device, largestTensorBytes: 0 });
    const { clock, calls } = clockOf([9, 9, 9, 9, 5, 9, 9, 9, 9]);
    expect(await tunedGemv(gpu, "fifth", kinds, clock)).toEqual({ stripes: 16, rowTiles: 1 });
    const { buffers } = gpu.counts;
    expect(gpu.memory.total).toBe(0);
    expect(calls()).toBe(4 * SHAPES);
    expect(await tunedGemv(gpu, "fifth", kinds, clock)).toEqual({ stripes: 16, rowTiles: 1 });
    expect([calls(), gpu.counts.buffers]).toEqual([4 * SHAPES, buffers]);
    await tunedGemv(gpu, "another", kinds, clock);
    expect(calls()).toBe(8 * SHAPES);
    await gpu.settle();
  });
  gpuTest("keeps the first guess where nothing is clearly faster", async ({ device }) => {
    const gpu = await Gpu.open({ device, largestTensorBytes: 0 });
    expect(await tunedGemv(gpu, "noisy", kinds, clockOf([100, 97, 99, 98, 96, 101, 98, 97, 99]).clock)).toEqual({ stripes: 8, rowTiles: 2 });
    expect(await tunedGemv(gpu, "clear", kinds, clockOf([100, 97, 99, 98, 90, 101, 98, 97, 99]).clock)).toEqual({ stripes: 16, rowTiles: 1 }); // control case
  });
  gpuTest("forgets a measurement that failed", async ({ device }) => {
    const gpu = await Gpu.open({ device, largestTensorBytes: 0 });
    const broken = new Error("lost");
    await expect(tunedGemv(gpu, "broken", kinds, () => Promise.reject(broken))).rejects.toBe(broken);
    expect(gpu.memory.total).toBe(0);
    expect(await tunedGemv(gpu, "broken", kinds, clockOf([5, 9, 9, 9, 9, 9, 9, 9, 9]).clock)).toEqual({ stripes: 8, rowTiles: 2 });
  });
});
