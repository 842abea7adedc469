import { describe, expect } from "vitest";
import { Gpu } from "../../src/gpu/device.ts";
import { KernelCompiler } from "../../src/gpu/pipeline.ts";
import { GpuTimer } from "../../src/gpu/timing.ts";
import { gpuTest } from "../gpu.ts";

const LOOPS = `
@group(0) @binding(0) var<uniform> loops: vec4<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  var x = f32(id.x);
  for (var i = 0u; i < loops.x; i++) { x = fract(x * 1.7 + 0.3); }
  y[id.x & 63u] = x;
}`;

describe("GpuTimer", () => {
  gpuTest("finds a pass of 10,000 times the work to take longer, by timestamps and by the wall clock", async ({ gpu: webgpu }) => {
    for (const requiredFeatures of [["timestamp-query"], []] as GPUFeatureName[][]) {
      const device = await (await webgpu.requestAdapter())!.requestDevice({ requiredFeatures });
      const gpu = await Gpu.open({ device, largestTensorBytes: 0 });
      const kernel = await new KernelCompiler(gpu).compile({ name: "loops", wgsl: LOOPS, pieces: {}, bindings: ["uniform", "write"] }, {});
      const y = gpu.createBuffer("y", 256, GPUBufferUsage.STORAGE, "activations");
      const timer = new GpuTimer(gpu);
      const time = async (count: number) => {
        const loops = gpu.createBuffer("loops", 16, GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST, "activations");
        await gpu.upload(loops, Uint32Array.of(count));
        const group = kernel.bind("loops", [loops, y]);
        return timer.time("loops", (pass) => {
          pass.setPipeline(kernel.pipeline);
          pass.setBindGroup(0, group);
          pass.dispatchWorkgroups(64);
        });
      };
      const [little, much] = [await time(10), await time(100_000)];
      expect(little.clock).toBe(requiredFeatures.length > 0 ? "timestamp" : "wall");
      expect(much.ms).toBeGreaterThan(2 * little.ms);
      timer.dispose();
      gpu.dispose();
      device.destroy();
    }
  });
});
