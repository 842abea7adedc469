import { describe, expect } from "vitest";
import { Gpu } from "../../src/gpu/device.ts";
import { adapterName, gpuTest } from "../gpu.ts";

describe("gpuTest", () => {
  gpuTest("gives a device of its own that passes when nothing goes wrong", ({ device }) => {
    const buffer = device.createBuffer({ size: 16, usage: GPUBufferUsage.STORAGE });
    expect(buffer.size).toBe(16);
  });
  gpuTest.fails("fails a test that causes a validation error", ({ device }) => {
    device.createBuffer({ size: 16, usage: 0xffff_ffff });
  });
  gpuTest.fails("fails a test whose shader does not compile", ({ device }) => {
    device.createShaderModule({ code: "fn main( {" });
  });
  gpuTest.fails("fails a test that leaves more bytes on the device than the engine counts", async ({ device }) => {
    await Gpu.open({ device, largestTensorBytes: 0 });
    device.createBuffer({ size: 16, usage: GPUBufferUsage.STORAGE });
  });
  gpuTest("runs on the driver that NIBBLE_GPU asks for", async () => {
    const wanted = process.env.NIBBLE_GPU;
    const name = await adapterName();
    if (wanted === "lavapipe" || wanted === "swiftshader") expect(name).toBe(wanted);
    else expect(["lavapipe", "swiftshader", "hardware"]).toContain(name);
  });
});
