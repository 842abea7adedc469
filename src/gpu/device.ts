import { EngineError, throwIfAborted } from "../errors.ts";
import { BufferUsage, MAP_MODE_READ } from "./constants.ts";
import type { AdapterSummary, MemoryReport } from "../types.ts";

/** What a buffer is for; the keys of MemoryReport. */
export type MemoryPurpose = "weights" | "embedding" | "scales" | "kvCache" | "activations" | "staging";

export interface GpuOptions {
  gpu?: GPU;
  /** A device of the caller's; it is not destroyed by dispose(). */
  device?: GPUDevice;
  /** Size of the largest single tensor in bytes: limits are raised up to it where the adapter allows, tensors above are split. */
  largestTensorBytes: number;
}

/** What makes buffers: a Gpu, or CountedBuffers in its place. */
export interface BufferMaker {
  createBuffer(label: string, sizeBytes: number, usage: GPUBufferUsageFlags, purpose: MemoryPurpose): GPUBuffer;
}

/** Bytes of a buffer that is asked for with so many. */
function bufferBytes(sizeBytes: number): number {
  return Math.max(16, Math.ceil(sizeBytes / 16) * 16);
}

/** Takes the place of a Gpu where buffers are only to be counted. */
export class CountedBuffers implements BufferMaker {
  /** In the order in which they were asked for. */
  readonly buffers: { label: string; size: number; purpose: MemoryPurpose; isMapped: boolean }[] = [];

  createBuffer(label: string, sizeBytes: number, usage: GPUBufferUsageFlags, purpose: MemoryPurpose): GPUBuffer {
    const buffer = { label, size: bufferBytes(sizeBytes), purpose, isMapped: (usage & BufferUsage.mapRead) > 0 };
    this.buffers.push(buffer);
    return buffer as unknown as GPUBuffer;
  }
}

/** Small pieces let the driver copy while we convert the next; large ones would double the peak. */
const UPLOAD_SLICE_BYTES = 4 * 2 ** 20;
/** Bytes on their way to or from the device before we wait for it, so that staging memory stays bounded. */
const STAGED_BYTES = 32 * 2 ** 20;

/** What kernels have variants for; each is used where the adapter has it. */
export const OPTIONAL_FEATURES: readonly GPUFeatureName[] = ["subgroups"];

/** How often we ask a waiting browser to look. */
const NUDGE_MS = 4;

/** Node has none before 21. */
function globalNavigator(): Navigator | undefined {
  return globalThis.navigator;
}

/** `requestAdapter` of the given or the global GPU; null where there is none. */
export async function findAdapter(gpu: GPU | undefined): Promise<GPUAdapter | null> {
  const found = gpu ?? globalNavigator()?.gpu;
  return (await found?.requestAdapter({ powerPreference: "high-performance" })) ?? null;
}

/** Software adapters say so, or (older browsers) show it in their name. */
export function isFallbackAdapter(info: GPUAdapterInfo, adapter?: GPUAdapter): boolean {
  const marked = info.isFallbackAdapter || (adapter as { isFallbackAdapter?: boolean } | undefined)?.isFallbackAdapter;
  return Boolean(marked) || /swiftshader|llvmpipe|basic render/i.test(`${info.vendor} ${info.architecture} ${info.device} ${info.description}`);
}

/**
 * One device with its ledger: every buffer of the engine is created and destroyed here, so live bytes are exact.
 * Errors that WebGPU reports later (out of memory, validation, a lost device) surface in settle() as EngineError.
 */
export class Gpu implements BufferMaker {
  /** Resolves when the device is lost and was not disposed by us. */
  readonly lost: Promise<EngineError>;
  /** Counted for tests: a generation creates no buffer and no pipeline. */
  readonly counts = { buffers: 0, pipelines: 0, submits: 0 };
  /** Whether WGSL has dot4I8Packed here: a property of the browser, not of the adapter. */
  readonly hasDot4: boolean;
  /** Live buffers and what each is for. */
  private readonly ledger = new Map<GPUBuffer, MemoryPurpose>();
  private readonly pending: Promise<void>[] = [];
  private readonly limits: Record<string, number>;
  private failure: EngineError | null = null;
  /** A buffer that there was no room for, until somebody is told. */
  private shortage: EngineError | null = null;
  private peak = 0;
  private disposed = false;

  private constructor(
    readonly device: GPUDevice,
    private readonly ownsDevice: boolean,
    private readonly info: GPUAdapterInfo,
    /** A software adapter. */
    readonly isFallback: boolean,
    requestedLimits: Record<string, number>,
    gpu: GPU | undefined,
  ) {
    this.hasDot4 = Boolean((gpu ?? globalNavigator()?.gpu)?.wgslLanguageFeatures?.has("packed_4x8_integer_dot_product"));
    this.limits = requestedLimits;
    this.lost = new Promise((resolve) => {
      void device.lost.then((lost) => {
        if (this.disposed) return;
        this.failure = new EngineError("deviceLost", `The GPU device was lost (${lost.reason || "unknown"}): ${lost.message || "no message"}`, { reason: lost.reason, message: lost.message });
        resolve(this.failure);
      });
    });
    device.addEventListener("uncapturederror", this.onUncapturedError);
  }

  /**
   * Requests a device with the default limits, raised only for what the model needs.
   * @throws EngineError unsupported, where there is no adapter or it gives no device.
   */
  static async open({ gpu, device, largestTensorBytes }: GpuOptions): Promise<Gpu> {
    if (device) {
      const info = device.adapterInfo ?? ({ vendor: "", architecture: "", device: "", description: "" } as GPUAdapterInfo);
      const { maxStorageBufferBindingSize, maxBufferSize } = device.limits;
      return new Gpu(device, false, info, isFallbackAdapter(info), { maxStorageBufferBindingSize, maxBufferSize }, gpu);
    }
    const adapter = await findAdapter(gpu).catch((cause: unknown) => {
      if (cause instanceof TypeError) throw cause; // what was given is no GPU
      throw new EngineError("unsupported", `The search for a WebGPU adapter failed: ${(cause as Error).message}`, {}, { cause });
    });
    if (!adapter) throw new EngineError("unsupported", "No WebGPU adapter was found; expected navigator.gpu or the gpu option to give one.", { available: (gpu ?? globalThis.navigator?.gpu) !== undefined });
    const wanted = Math.ceil(largestTensorBytes / 256) * 256;
    const requiredLimits = {
      maxStorageBufferBindingSize: Math.max(134_217_728, Math.min(adapter.limits.maxStorageBufferBindingSize, wanted)),
      maxBufferSize: Math.max(268_435_456, Math.min(adapter.limits.maxBufferSize, wanted)),
    };
    try {
      const requiredFeatures = OPTIONAL_FEATURES.filter((feature) => adapter.features.has(feature));
      const opened = await adapter.requestDevice({ label: "nibble", requiredLimits, requiredFeatures });
      return new Gpu(opened, true, adapter.info, isFallbackAdapter(adapter.info, adapter), requiredLimits, gpu);
    } catch (cause) {
      throw new EngineError("unsupported", `The adapter "${adapter.info.description || adapter.info.vendor}" gave no device: ${(cause as Error).message}`, { requiredLimits }, { cause });
    }
  }

  /** Largest part of a tensor that one binding may hold, bytes. */
  get maxBindingBytes(): number {
    return Math.min(this.device.limits.maxStorageBufferBindingSize, this.device.limits.maxBufferSize);
  }

  /** Lanes that every subgroup of the device has at least, as far as kernels make use of them; 1 where it has no subgroups. */
  get subgroupLanes(): 1 | 4 | 8 {
    const lanes = this.device.features.has("subgroups") ? (this.info.subgroupMinSize ?? 1) : 1;
    return lanes >= 8 ? 8 : lanes >= 4 ? 4 : 1;
  }

  summary(notices: readonly string[]): AdapterSummary {
    const { vendor, architecture, description } = this.info;
    const features = OPTIONAL_FEATURES.filter((feature) => this.device.features.has(feature));
    return { backend: "webgpu", vendor, architecture, description, isFallback: this.isFallback, features, limits: this.limits, notices };
  }

  get memory(): MemoryReport {
    const report: MemoryReport = { weights: 0, embedding: 0, scales: 0, kvCache: 0, activations: 0, staging: 0, total: 0, peakBytes: this.peak };
    for (const [buffer, purpose] of this.ledger) {
      report[purpose] += buffer.size;
      report.total += buffer.size;
    }
    return report;
  }

  /** A zeroed buffer of at least 16 bytes, entered in the ledger. Out of memory surfaces in the next settle(). */
  createBuffer(label: string, sizeBytes: number, usage: GPUBufferUsageFlags, purpose: MemoryPurpose): GPUBuffer {
    const size = bufferBytes(sizeBytes);
    const { maxBufferSize } = this.device.limits;
    if (size > maxBufferSize) throw new EngineError("outOfMemory", `Buffer "${label}" needs ${size} bytes; this device allows ${maxBufferSize} (maxBufferSize).`, { label, size, maxBufferSize });
    this.device.pushErrorScope("out-of-memory");
    const buffer = this.device.createBuffer({ label, size, usage });
    const scope = this.device.popErrorScope();
    this.pending.push(
      scope.then(
        (error) => {
          if (error) this.shortage ??= new EngineError("outOfMemory", `The GPU has no room for buffer "${label}" of ${size} bytes: ${error.message}`, { label, size });
        },
        () => undefined, // the device is lost; settle() says so
      ),
    );
    this.counts.buffers++;
    this.ledger.set(buffer, purpose);
    this.peak = Math.max(this.peak, this.memory.total);
    return buffer;
  }

  destroyBuffer(buffer: GPUBuffer): void {
    if (this.ledger.delete(buffer)) buffer.destroy();
  }

  /** Copies bytes to the start of a buffer in slices, waiting for the queue now and then so that staging stays bounded. */
  async upload(buffer: GPUBuffer, source: ArrayBufferView, signal?: AbortSignal): Promise<void> {
    const bytes = new Uint8Array(source.buffer as ArrayBuffer, source.byteOffset, source.byteLength);
    let sinceWait = 0;
    for (let offset = 0; offset < bytes.length; offset += UPLOAD_SLICE_BYTES) {
      const slice = bytes.subarray(offset, Math.min(bytes.length, offset + UPLOAD_SLICE_BYTES));
      this.device.queue.writeBuffer(buffer, offset, slice);
      sinceWait += slice.length;
      if (sinceWait >= STAGED_BYTES) {
        await this.idle();
        if (signal?.aborted) throw signal.reason;
        sinceWait = 0;
      }
    }
  }

  /** Records one compute pass and submits it. */
  submit(label: string, record: (pass: GPUComputePassEncoder, encoder: GPUCommandEncoder) => void, after?: (encoder: GPUCommandEncoder) => void): void {
    const encoder = this.device.createCommandEncoder({ label });
    const pass = encoder.beginComputePass({ label });
    record(pass, encoder);
    pass.end();
    after?.(encoder);
    this.device.queue.submit([encoder.finish()]);
    this.counts.submits++;
  }

  /** Maps a MAP_READ buffer, copies its first `sizeBytes` out, unmaps. */
  async read(staging: GPUBuffer, sizeBytes: number): Promise<ArrayBuffer> {
    try {
      await this.nudged(staging.mapAsync(MAP_MODE_READ, 0, Math.ceil(sizeBytes / 4) * 4));
    } catch (cause) {
      if (this.disposed) throw new EngineError("disposed", "The model was disposed while it was at work.");
      await this.settle();
      throw new EngineError("deviceLost", `Reading back "${staging.label}" failed: ${(cause as Error).message}`, { label: staging.label }, { cause });
    }
    let copy: ArrayBuffer;
    try {
      copy = staging.getMappedRange(0, Math.ceil(sizeBytes / 4) * 4).slice(0, sizeBytes);
    } finally {
      staging.unmap();
    }
    await this.settle();
    return copy;
  }

  /** A copy of a whole buffer, which was created with copySrc, by way of a staging buffer that lives as long. */
  async download(buffer: GPUBuffer, signal?: AbortSignal): Promise<ArrayBuffer> {
    const bytes = new Uint8Array(buffer.size);
    const sliceBytes = Math.min(buffer.size, STAGED_BYTES);
    const staging = this.createBuffer(`${buffer.label}.download`, sliceBytes, BufferUsage.mapRead | BufferUsage.copyDst, "staging");
    try {
      await this.settle();
      for (let offset = 0; offset < bytes.length; offset += sliceBytes) {
        throwIfAborted(signal);
        if (this.disposed) throw new EngineError("disposed", "The model was disposed while it was at work.");
        const length = Math.min(sliceBytes, bytes.length - offset);
        const encoder = this.device.createCommandEncoder({ label: "download" });
        encoder.copyBufferToBuffer(buffer, offset, staging, 0, length);
        this.device.queue.submit([encoder.finish()]);
        bytes.set(new Uint8Array(await this.read(staging, length)), offset);
      }
      return bytes.buffer;
    } finally {
      this.destroyBuffer(staging);
    }
  }

  /** Waits until what was submitted is done. */
  idle(): Promise<unknown> {
    return this.nudged(this.device.queue.onSubmittedWorkDone());
  }

  /** Waits for the queue's work; Firefox looks for it only every 100 ms, unless something is submitted. */
  private async nudged<T>(work: Promise<T>): Promise<T> {
    const nudge = setInterval(() => this.device.queue.submit([]), NUDGE_MS);
    try {
      return await work;
    } finally {
      clearInterval(nudge);
    }
  }

  /** Waits for what WebGPU reports late. @throws EngineError outOfMemory, shader or deviceLost */
  async settle(): Promise<void> {
    while (this.pending.length > 0) await Promise.all(this.pending.splice(0));
    this.throwFailure();
  }

  /** A lost or failed device fails every call; a buffer without room only the one that hears of it first. */
  throwFailure(): void {
    const { shortage } = this;
    this.shortage = null;
    if (shortage) throw shortage;
    if (this.failure) throw this.failure;
  }

  /** Does work that makes buffers to stay, and destroys them when it fails. */
  async keeping<T>(work: () => Promise<T>): Promise<T> {
    const earlier = new Set(this.ledger.keys());
    try {
      return await work();
    } catch (error) {
      for (const buffer of this.ledger.keys()) if (!earlier.has(buffer)) this.destroyBuffer(buffer);
      throw error;
    }
  }

  /** Destroys every buffer of the ledger, and the device if it is ours. Idempotent. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.device.removeEventListener("uncapturederror", this.onUncapturedError);
    for (const buffer of this.ledger.keys()) buffer.destroy();
    this.ledger.clear();
    if (this.ownsDevice) this.device.destroy();
  }

  private readonly onUncapturedError = (event: GPUUncapturedErrorEvent): void => {
    const kind = event.error.constructor.name;
    this.failure ??= new EngineError(kind === "GPUOutOfMemoryError" ? "outOfMemory" : "shader", `The GPU reported ${kind}: ${event.error.message}`, { kind });
  };
}
