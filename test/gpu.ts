import { test } from "vitest";
import { create, globals } from "webgpu";

const kept = globalThis as typeof globalThis & { nibbleTestGpu?: GPU };

/** Dawn's GPU, one for the whole process and never collected: Dawn ends the process when it is. */
export function requireGpu(): GPU {
  if (kept.nibbleTestGpu === undefined) {
    Object.assign(globalThis, globals);
    kept.nibbleTestGpu = create([]);
  }
  return kept.nibbleTestGpu;
}

/** An adapter, or an error that says which driver was looked for. A GPU test without one fails; it is never skipped. */
export async function requireAdapter(): Promise<GPUAdapter> {
  const adapter = await requireGpu().requestAdapter();
  if (adapter !== null) return adapter;
  const driver = process.env.VK_DRIVER_FILES ?? "none found";
  throw new Error(`No WebGPU adapter (NIBBLE_GPU=${process.env.NIBBLE_GPU ?? ""}, Vulkan driver: ${driver}); run node test/setup/environment.mjs.`);
}

/** "lavapipe", "swiftshader", or "hardware": tests choose the size of their shapes by it (SwiftShader is 20 to 60 times slower). */
export async function adapterName(): Promise<"lavapipe" | "swiftshader" | "hardware"> {
  const { architecture, description, device } = (await requireAdapter()).info;
  const text = `${architecture} ${description} ${device}`.toLowerCase();
  return text.includes("swiftshader") ? "swiftshader" : text.includes("llvmpipe") || text.includes("lavapipe") ? "lavapipe" : "hardware";
}

export interface GpuFixture {
  gpu: GPU;
  adapter: GPUAdapter;
  /** Fresh for each test, with default limits and no features; destroyed after it. */
  device: GPUDevice;
}

const errorScopes: readonly GPUErrorFilter[] = ["validation", "out-of-memory", "internal"];

/** A test with a device of its own, which fails on any WebGPU error, caught by a scope or not. */
export const gpuTest = test.extend<GpuFixture>({
  // Vitest reads the names that a fixture needs from its first parameter, which must be a pattern.
  gpu: async ({}, use) => use(requireGpu()),
  adapter: async ({ gpu: _gpu }, use) => use(await requireAdapter()),
  device: async ({ adapter }, use) => {
    const device = await adapter.requestDevice({ label: "test" });
    const errors: string[] = [];
    device.addEventListener("uncapturederror", (event) => errors.push(event.error.message));
    for (const filter of errorScopes) device.pushErrorScope(filter);
    await use(device);
    for (const filter of [...errorScopes].reverse()) {
      const error = await device.popErrorScope();
      if (error !== null) errors.push(`${filter}: ${error.message}`);
    }
    device.destroy();
    if (errors.length > 0) throw new Error(`WebGPU reported ${errors.length} error(s):\n${errors.join("\n")}`);
  },
});
