import { median } from "./statistics.ts";

const COPY_BYTES = 64 * 2 ** 20;
const COPIES = 5;

const copyWgsl = /* wgsl */ `
@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> copy: array<vec4<u32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.y * groups.x * 64 + id.x;
  if (i < arrayLength(&source)) {
    copy[i] = source[i];
  }
}
`;

/** Bytes per second that a plain copy kernel moves between two buffers of 64 MiB, reads and writes both counted; the median of five runs. */
export async function gpuCopyBandwidth(gpu: GPU): Promise<number> {
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (adapter === null) throw new Error("No WebGPU adapter to measure the copy bandwidth of.");
  const device = await adapter.requestDevice({ label: "bandwidth" });
  const createBuffer = (): GPUBuffer => device.createBuffer({ label: "bandwidth", size: COPY_BYTES, usage: 128 /* STORAGE */ });
  const module = device.createShaderModule({ label: "bandwidth", code: copyWgsl });
  const pipeline = await device.createComputePipelineAsync({ label: "bandwidth", layout: "auto", compute: { module } });
  const entries = [createBuffer(), createBuffer()].map((buffer, binding) => ({ binding, resource: { buffer } }));
  const bindGroup = device.createBindGroup({ label: "bandwidth", layout: pipeline.getBindGroupLayout(0), entries });
  // Many copies in one submit, so that the way to the device and back is a small part of it.
  const copy = async (count: number): Promise<number> => {
    const startMs = performance.now();
    const encoder = device.createCommandEncoder({ label: "bandwidth" });
    const pass = encoder.beginComputePass({ label: "bandwidth" });
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, bindGroup);
    for (let i = 0; i < count; i++) pass.dispatchWorkgroups(1024, COPY_BYTES / 16 / 64 / 1024);
    pass.end();
    device.queue.submit([encoder.finish()]);
    await device.queue.onSubmittedWorkDone();
    return performance.now() - startMs;
  };
  await copy(1);
  const count = Math.max(1, Math.min(64, Math.round(100 / (await copy(1)))));
  const ms: number[] = [];
  for (let i = 0; i < COPIES; i++) ms.push(await copy(count));
  device.destroy();
  return (2 * COPY_BYTES * count * 1000) / median(ms);
}

/** The same of one thread that copies one array into another. */
export function cpuCopyBandwidth(): number {
  const source = new Uint8Array(COPY_BYTES).fill(1);
  const target = new Uint8Array(COPY_BYTES);
  const ms = Array.from({ length: COPIES + 1 }, () => {
    const startMs = performance.now();
    target.set(source);
    return performance.now() - startMs;
  });
  return (2 * COPY_BYTES * 1000) / median(ms.slice(1));
}
