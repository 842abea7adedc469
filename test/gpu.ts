import { test } from "vitest";
import { create, globals } from "webgpu";
import { Gpu } from "../src/gpu/device.ts";
import { watchDevice } from "./fixtures/watchDevice.ts";

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

/** The engine's views of each device of a gpuTest. */
const openedOn = new WeakMap<GPUDevice, Gpu[]>();
const open = Gpu.open.bind(Gpu);
Gpu.open = async (options) => {
  const gpu = await open(options);
  openedOn.get(gpu.device)?.push(gpu);
  return gpu;
};

const errorScopes: readonly GPUErrorFilter[] = ["validation", "out-of-memory", "internal"];

/** A test with a device of its own, which fails on any WebGPU error, caught by a scope or not, and where the bytes that are live at its end are not those that the engine counts. */
export const gpuTest = test.extend<GpuFixture>({
  // Vitest reads the names that a fixture needs from its first parameter, which must be a pattern.
  gpu: async ({}, use) => use(requireGpu()),
  adapter: async ({ gpu: _gpu }, use) => use(await requireAdapter()),
  device: async ({ adapter }, use) => {
    const device = await adapter.requestDevice({ label: "test" });
    const errors: string[] = [];
    const watch = watchDevice(device);
    const opened: Gpu[] = [];
    openedOn.set(device, opened);
    device.addEventListener("uncapturederror", (event) => errors.push(event.error.message));
    for (const filter of errorScopes) device.pushErrorScope(filter);
    await use(device);
    for (const filter of [...errorScopes].reverse()) {
      const error = await device.popErrorScope();
      if (error !== null) errors.push(`${filter}: ${error.message}`);
    }
    const countedBytes = opened.reduce((sum, { memory }) => sum + memory.total, 0);
    if (opened.length > 0 && watch.liveBytes !== countedBytes) errors.push(`${watch.liveBytes} bytes are live on the device; the engine counts ${countedBytes}.`);
    device.destroy();
    if (errors.length > 0) throw new Error(`WebGPU reported ${errors.length} error(s):\n${errors.join("\n")}`);
  },
});
