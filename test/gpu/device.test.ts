import { describe, expect, test } from "vitest";
import { EngineError } from "../../src/errors.ts";
import { BufferUsage } from "../../src/gpu/constants.ts";
import { Gpu, isFallbackAdapter } from "../../src/gpu/device.ts";
import { KernelCompiler, type KernelSource } from "../../src/gpu/pipeline.ts";
import { gpuTest, requireAdapter, requireGpu } from "../gpu.ts";

const { storage, copySrc, copyDst, mapRead } = BufferUsage;
const MIB = 2 ** 20;
/** WebGPU's default limits. */
const DEFAULT_BINDING_BYTES = 128 * MIB;
const DEFAULT_BUFFER_BYTES = 256 * MIB;

/** y[i] = N · i. f32 y [64]; one workgroup. */
function countingKernel(name: string, value = "f32(N * i)"): KernelSource {
  const wgsl = ["@group(0) @binding(0) var<storage, read_write> y: array<f32>;", "@compute @workgroup_size(64)", "fn main(@builtin(local_invocation_index) i: u32) {", `  y[i] = ${value};`, "}"].join("\n");
  return { name, wgsl, pieces: {}, bindings: ["write"] };
}

const open = (device: GPUDevice): Promise<Gpu> => Gpu.open({ device, largestTensorBytes: 0 });

/** A device that the test itself may break. */
async function openOwn(): Promise<GPUDevice> {
  return (await requireAdapter()).requestDevice({ label: "broken" });
}

/** A GPU with an adapter of the given limits, which notes what limits it is asked for and gives a plain device. */
function adapterWith(limits: { maxStorageBufferBindingSize: number; maxBufferSize: number }): { gpu: GPU; asked: Record<string, number>[] } {
  const asked: Record<string, number>[] = [];
  const adapter = {
    limits,
    features: new Set(),
    info: { vendor: "test", architecture: "", device: "", description: "" },
    requestDevice: async ({ requiredLimits }: GPUDeviceDescriptor) => {
      asked.push(requiredLimits as Record<string, number>);
      return openOwn();
    },
  };
  return { gpu: { requestAdapter: async () => adapter } as unknown as GPU, asked };
}

/** Its content, through a staging buffer. */
async function readBack(gpu: Gpu, buffer: GPUBuffer, sizeBytes = buffer.size): Promise<Uint8Array> {
  const staging = gpu.createBuffer("staging", sizeBytes, mapRead | copyDst, "staging");
  gpu.submit("copy", () => {}, (encoder) => encoder.copyBufferToBuffer(buffer, 0, staging, 0, staging.size)); // prettier-ignore
  const bytes = new Uint8Array(await gpu.read(staging, sizeBytes));
  gpu.destroyBuffer(staging);
  return bytes;
}

describe("Gpu.open", () => {
  test.each([
    // largest tensor, the adapter's binding and buffer limits, what is asked for
    [0, 2048 * MIB, 2048 * MIB, DEFAULT_BINDING_BYTES, DEFAULT_BUFFER_BYTES],
    [DEFAULT_BINDING_BYTES, 2048 * MIB, 2048 * MIB, DEFAULT_BINDING_BYTES, DEFAULT_BUFFER_BYTES],
    [154_389_504, 2048 * MIB, 2048 * MIB, 154_389_504, DEFAULT_BUFFER_BYTES], // GPT-2 124M's wte in f32
    [154_389_505, 2048 * MIB, 2048 * MIB, 154_389_760, DEFAULT_BUFFER_BYTES], // a multiple of 256
    [300 * MIB, 2048 * MIB, 2048 * MIB, 300 * MIB, 300 * MIB],
    [300 * MIB, DEFAULT_BINDING_BYTES, 2048 * MIB, DEFAULT_BINDING_BYTES, 300 * MIB],
    [4096 * MIB, 1024 * MIB, 2048 * MIB, 1024 * MIB, 2048 * MIB],
  ])("for a tensor of %i bytes on an adapter of %i and %i asks for bindings of %i and buffers of %i bytes", async (largestTensorBytes, binding, buffer, wantedBinding, wantedBuffer) => {
    const { gpu, asked } = adapterWith({ maxStorageBufferBindingSize: binding, maxBufferSize: buffer });
    const opened = await Gpu.open({ gpu, largestTensorBytes });
    const wanted = { maxStorageBufferBindingSize: wantedBinding, maxBufferSize: wantedBuffer };
    expect(asked).toEqual([wanted]);
    expect(opened.summary([]).limits).toEqual(wanted);
    opened.dispose();
  });
  test("gives a device with those limits on this adapter", async () => {
    const { limits } = await requireAdapter();
    for (const largestTensorBytes of [1, DEFAULT_BINDING_BYTES, 192 * MIB]) {
      const gpu = await Gpu.open({ gpu: requireGpu(), largestTensorBytes });
      const binding = Math.max(DEFAULT_BINDING_BYTES, Math.min(limits.maxStorageBufferBindingSize, largestTensorBytes));
      expect(gpu.device.limits.maxStorageBufferBindingSize).toBe(binding);
      expect(gpu.maxBindingBytes).toBe(binding);
      gpu.dispose();
    }
  });
  test("rejects as unsupported where there is no adapter, or one that gives no device", async () => {
    const cause = new Error("too many devices");
    const { gpu } = adapterWith({ maxStorageBufferBindingSize: DEFAULT_BINDING_BYTES, maxBufferSize: DEFAULT_BUFFER_BYTES });
    (await Gpu.open({ gpu, largestTensorBytes: 0 })).dispose(); // control case
    const none = { requestAdapter: async () => null } as unknown as GPU;
    await expect(Gpu.open({ gpu: none, largestTensorBytes: 0 })).rejects.toMatchObject({ code: "unsupported", details: { available: true } });
    const adapter = (await gpu.requestAdapter())!;
    const refusing = { requestAdapter: async () => ({ ...adapter, requestDevice: () => Promise.reject(cause) }) } as unknown as GPU;
    const requiredLimits = { maxStorageBufferBindingSize: DEFAULT_BINDING_BYTES, maxBufferSize: DEFAULT_BUFFER_BYTES };
    await expect(Gpu.open({ gpu: refusing, largestTensorBytes: 0 })).rejects.toMatchObject({ code: "unsupported", message: 'The adapter "test" gave no device: too many devices', details: { requiredLimits }, cause });
  });
});

describe("isFallbackAdapter", () => {
  const plain = { vendor: "", architecture: "", device: "", description: "" };
  test.each([
    [{ vendor: "google", architecture: "swiftshader", device: "0xc0de", description: "SwiftShader Device (Subzero)" }, true],
    [{ vendor: "mesa", architecture: "", device: "", description: "llvmpipe (LLVM 19.1.7, 256 bits)" }, true],
    [{ vendor: "microsoft", architecture: "", device: "0x8c", description: "Microsoft Basic Render Driver" }, true],
    [{ ...plain, isFallbackAdapter: true }, true],
    [{ ...plain, isFallbackAdapter: false }, false],
    [plain, false],
    [{ vendor: "nvidia", architecture: "lovelace", device: "0x2684", description: "NVIDIA GeForce RTX 4090" }, false],
    [{ vendor: "apple", architecture: "metal-3", device: "", description: "Apple M2" }, false],
    [{ vendor: "intel", architecture: "gen-12lp", device: "", description: "" }, false],
  ])("of %j is %s", (info, expected) => {
    expect(isFallbackAdapter(info as GPUAdapterInfo)).toBe(expected);
  });
  test("believes the mark that older browsers put on the adapter itself", () => {
    const info = { ...plain, vendor: "google" } as GPUAdapterInfo;
    expect(isFallbackAdapter(info, { isFallbackAdapter: true } as unknown as GPUAdapter)).toBe(true);
    expect(isFallbackAdapter(info, { isFallbackAdapter: false } as unknown as GPUAdapter)).toBe(false);
  });
});

describe("Gpu's ledger", () => {
  gpuTest("counts live bytes by purpose in multiples of 16, and keeps the peak", async ({ device }) => {
    const gpu = await open(device);
    const none = { weights: 0, embedding: 0, scales: 0, kvCache: 0, activations: 0, staging: 0, total: 0, peakBytes: 0 };
    expect(gpu.memory).toEqual(none);
    const weights = gpu.createBuffer("w", 100, storage, "weights");
    const cache = gpu.createBuffer("kv", 48, storage, "kvCache");
    gpu.createBuffer("one", 1, storage, "weights");
    expect(gpu.memory).toEqual({ ...none, weights: 112 + 16, kvCache: 48, total: 176, peakBytes: 176 });
    gpu.destroyBuffer(weights);
    gpu.destroyBuffer(cache);
    expect(gpu.memory).toEqual({ ...none, weights: 16, total: 16, peakBytes: 176 });
    gpu.createBuffer("x", 32, storage, "activations");
    expect(gpu.memory).toEqual({ ...none, weights: 16, activations: 32, total: 48, peakBytes: 176 });
    expect(gpu.counts.buffers).toBe(4);
    await gpu.settle();
    gpu.dispose();
    expect(gpu.memory).toEqual({ ...none, peakBytes: 176 });
  });
  gpuTest("takes a buffer out once, however often it is destroyed", async ({ device }) => {
    const gpu = await open(device);
    const [first] = ["a", "b"].map((label) => gpu.createBuffer(label, 64, storage, "scales"));
    gpu.destroyBuffer(first!);
    gpu.destroyBuffer(first!);
    expect(gpu.memory).toMatchObject({ scales: 64, total: 64 });
    gpu.dispose();
  });
  gpuTest("leaves buffers alone that are not its own", async ({ device }) => {
    const gpu = await open(device);
    const foreign = device.createBuffer({ size: 16, usage: copySrc | copyDst });
    gpu.destroyBuffer(foreign);
    device.queue.writeBuffer(foreign, 0, Uint32Array.of(7));
    expect([...new Uint32Array((await readBack(gpu, foreign)).buffer)]).toEqual([7, 0, 0, 0]);
    foreign.destroy();
    gpu.dispose();
  });
  gpuTest("refuses a buffer beyond maxBufferSize, naming it, the bytes needed and those allowed", async ({ device }) => {
    const gpu = await open(device);
    const { maxBufferSize } = device.limits;
    gpu.createBuffer("h0.mlp", 1024, storage, "weights"); // control case
    const size = maxBufferSize + 16;
    expect(() => gpu.createBuffer("h1.mlp", maxBufferSize + 1, storage, "weights")).toThrow(
      expect.objectContaining({
        code: "outOfMemory",
        message: `Buffer "h1.mlp" needs ${size} bytes; this device allows ${maxBufferSize} (maxBufferSize).`,
        details: { label: "h1.mlp", size, maxBufferSize },
      }),
    );
    expect(gpu.memory.total).toBe(1024);
    expect(gpu.counts.buffers).toBe(1);
    gpu.dispose();
  });
  test("reports memory that the driver does not have in settle(), with the buffer's name", async () => {
    const device = await openOwn();
    const gpu = await open(device);
    gpu.createBuffer("fits", 32, storage, "weights");
    await gpu.settle(); // control case
    // No driver here runs out of memory on demand, so the device's error scopes say that it did.
    Object.assign(device, { pushErrorScope: () => {}, popErrorScope: async () => ({ message: "no room" }) });
    gpu.createBuffer("wte", 64, storage, "embedding");
    await expect(gpu.settle()).rejects.toMatchObject({ code: "outOfMemory", message: 'The GPU has no room for buffer "wte" of 64 bytes: no room', details: { label: "wte", size: 64 } });
    gpu.dispose();
    device.destroy();
  });
});

describe("Gpu.upload and Gpu.read", () => {
  gpuTest.for([4, 1020, 4 * MIB, 4 * MIB + 4, 9 * MIB + 12, 37 * MIB + 20])("an upload of %i bytes, from within a larger array, reads back the same", async (sizeBytes, { device }) => {
    const gpu = await open(device);
    const words = Uint32Array.from({ length: sizeBytes / 4 + 3 }, (_, i) => Math.imul(i, 2654435761));
    const source = words.subarray(2, 2 + sizeBytes / 4);
    const buffer = gpu.createBuffer("target", sizeBytes, storage | copySrc | copyDst, "weights");
    await gpu.upload(buffer, source);
    const found = await readBack(gpu, buffer);
    expect(found.length).toBe(buffer.size);
    expect(Buffer.compare(found.subarray(0, sizeBytes), new Uint8Array(source.buffer, source.byteOffset, sizeBytes))).toBe(0);
    expect(found.subarray(sizeBytes).every((byte) => byte === 0)).toBe(true);
    gpu.dispose();
  });
  gpuTest("an aborted upload rejects with the signal's own reason", async ({ device }) => {
    const gpu = await open(device);
    const source = new Uint8Array(36 * MIB);
    const buffer = gpu.createBuffer("target", source.length, storage | copyDst, "weights");
    await gpu.upload(buffer, source, new AbortController().signal); // control case
    const reason = { why: "the user left" };
    await expect(gpu.upload(buffer, source, AbortSignal.abort(reason))).rejects.toBe(reason);
    gpu.dispose();
  });
  gpuTest("read gives exactly the bytes asked for, as often as wanted", async ({ device }) => {
    const gpu = await open(device);
    const staging = gpu.createBuffer("staging", 16, mapRead | copyDst, "staging");
    await gpu.upload(staging, Uint8Array.from({ length: 16 }, (_, i) => i + 1));
    for (const sizeBytes of [1, 3, 4, 7, 16]) {
      const bytes = await gpu.read(staging, sizeBytes);
      expect([...new Uint8Array(bytes)]).toEqual(Array.from({ length: sizeBytes }, (_, i) => i + 1));
    }
    gpu.dispose();
  });
  gpuTest("a read that dispose() interrupts rejects as disposed", async ({ device }) => {
    const gpu = await open(device);
    const staging = gpu.createBuffer("staging", 16, mapRead | copyDst, "staging");
    expect((await gpu.read(staging, 4)).byteLength).toBe(4); // control case
    const reading = gpu.read(staging, 4);
    gpu.dispose();
    await expect(reading).rejects.toMatchObject({ code: "disposed" });
  });
});

describe("Gpu.dispose and a lost device", () => {
  gpuTest("dispose is idempotent and leaves the caller's device alive", async ({ device }) => {
    const gpu = await open(device);
    const buffer = gpu.createBuffer("x", 16, storage, "activations");
    gpu.dispose();
    gpu.dispose();
    gpu.destroyBuffer(buffer);
    const next = await open(device); // control case: the device still works
    expect([...(await readBack(next, next.createBuffer("y", 16, storage | copySrc, "activations")))]).toEqual(new Array<number>(16).fill(0));
    next.dispose();
  });
  test("dispose destroys a device of its own, and that is no loss", async () => {
    const gpu = await Gpu.open({ gpu: requireGpu(), largestTensorBytes: 0 });
    gpu.dispose();
    gpu.dispose();
    expect((await gpu.device.lost).reason).toBe("destroyed");
    expect(await Promise.race([gpu.lost, Promise.resolve("not lost")])).toBe("not lost");
    expect(() => gpu.throwFailure()).not.toThrow();
  });
  test("a device that goes away resolves lost, and settle and read reject with the same error", async () => {
    const device = await openOwn();
    const gpu = await open(device);
    const staging = gpu.createBuffer("staging", 16, mapRead | copyDst, "staging");
    await gpu.settle(); // control case
    device.destroy();
    const lost = await gpu.lost;
    expect(lost).toBeInstanceOf(EngineError);
    expect(lost).toMatchObject({ code: "deviceLost", details: { reason: "destroyed" } });
    await expect(gpu.settle()).rejects.toBe(lost);
    await expect(gpu.read(staging, 4)).rejects.toBe(lost);
    gpu.dispose();
  });
  test("what WebGPU reports late surfaces in settle() with its kind", async () => {
    const device = await openOwn();
    const gpu = await open(device);
    await gpu.settle(); // control case
    device.createBuffer({ label: "wrong", size: 16, usage: 0x3 }); // MAP_READ goes with COPY_DST alone
    await device.queue.onSubmittedWorkDone();
    await expect(gpu.settle()).rejects.toMatchObject({ code: "shader", message: expect.stringContaining("wrong") as string, details: { kind: "GPUValidationError" } });
    gpu.dispose();
    device.destroy();
  });
});

describe("KernelCompiler.compile", () => {
  gpuTest("a mistake in WGSL rejects with line and column, beside the same kernel without it", async ({ device }) => {
    const gpu = await open(device);
    const compiler = new KernelCompiler(gpu);
    await compiler.compile(countingKernel("right"), { N: 3 }); // control case
    const mistaken = await compiler.compile(countingKernel("wrong", "f32(M * i)"), { N: 3 }).catch((error: unknown) => error);
    expect(mistaken).toBeInstanceOf(EngineError);
    // The constant is line 1; the kernel's fourth line is line 5, and M stands behind `  y[i] = f32(`.
    expect(mistaken).toMatchObject({ code: "shader", details: { kernel: 'wrong {"N":3}', line: 5, column: 14 } });
    expect((mistaken as EngineError).message).toMatch(/^Kernel wrong \{"N":3\} did not compile: line 5:14: .*M.* in "y\[i\] = f32\(M \* i\);"$/s);
    expect((mistaken as EngineError).cause).toBeInstanceOf(Error);
    await gpu.settle(); // the mistake is the compile's alone
    gpu.dispose();
  });
  gpuTest("a kernel that asks for more workgroup memory than there is rejects with its name", async ({ device }) => {
    const gpu = await open(device);
    const compiler = new KernelCompiler(gpu);
    const source = (name: string): KernelSource => {
      const { wgsl, ...rest } = countingKernel(name, "f32(shared_words[i] + N * i)");
      return { ...rest, wgsl: `var<workgroup> shared_words: array<u32, WORDS>;\n${wgsl}` };
    };
    await compiler.compile(source("fits"), { N: 1, WORDS: 64 }); // control case
    await expect(compiler.compile(source("large"), { N: 1, WORDS: 4097 })).rejects.toMatchObject({ code: "shader", details: { kernel: 'large {"N":1,"WORDS":4097}' } });
    gpu.dispose();
  });
  gpuTest("shares compiles in flight and afterwards, across all users of the device, and counts each once", async ({ device }) => {
    const [first, second] = [await open(device), await open(device)];
    const [a, b, c] = [new KernelCompiler(first), new KernelCompiler(first), new KernelCompiler(second)];
    const source = countingKernel("shared");
    const kernels = await Promise.all([a.compile(source, { N: 2 }), a.compile(source, { N: 2 }), b.compile(source, { N: 2 }), c.compile(source, { N: 2 })]);
    expect(new Set(kernels).size).toBe(1);
    expect(await c.compile(source, { N: 2 })).toBe(kernels[0]);
    expect(first.counts.pipelines).toBe(1);
    expect(second.counts.pipelines).toBe(0);
    const other = await c.compile(source, { N: 3 }); // control case: other constants are another kernel
    expect(other).not.toBe(kernels[0]);
    expect([first.counts.pipelines, second.counts.pipelines]).toEqual([1, 1]);
    first.dispose();
    second.dispose();
  });
  gpuTest("a kernel runs with the constants it was compiled for, on whole buffers and on ranges", async ({ device }) => {
    const gpu = await open(device);
    const compiler = new KernelCompiler(gpu);
    const y = gpu.createBuffer("y", 1024, storage | copySrc, "activations");
    const [triple, fivefold] = await Promise.all([3, 5].map((N) => compiler.compile(countingKernel("counting"), { N })));
    const groups = [triple!.bind("whole", [y]), fivefold!.bind("range", [{ buffer: y, offset: 512, size: 256 }])] as const;
    gpu.submit("run", (pass) => {
      for (const [kernel, group] of [[triple!, groups[0]], [fivefold!, groups[1]]] as const) {
        pass.setPipeline(kernel.pipeline);
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(1);
      }
    });
    const found = new Float32Array((await readBack(gpu, y)).buffer);
    expect([...found]).toEqual(Array.from({ length: 256 }, (_, i) => (i < 64 ? 3 * i : i >= 128 && i < 192 ? 5 * (i - 128) : 0)));
    expect(gpu.counts.submits).toBe(2);
    gpu.dispose();
  });
});
