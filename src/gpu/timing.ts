import { BufferUsage } from "./constants.ts";
import type { Gpu } from "./device.ts";

export interface GpuTime {
  /** Of one pass, milliseconds: the median over the repeats. */
  ms: number;
  /** "timestamp": the device's own clock around the pass; "wall": from submit until the queue is idle, submission included. */
  clock: "timestamp" | "wall";
}

/** WebGPU's GPUBufferUsage.QUERY_RESOLVE. */
const QUERY_RESOLVE = 0x200;

/** Times passes on one device: with timestamp queries where it was opened with them, else by the wall clock. */
export class GpuTimer {
  private readonly querySet: GPUQuerySet | null;
  private readonly resolved: GPUBuffer;
  private readonly staging: GPUBuffer;

  constructor(private readonly gpu: Gpu) {
    const { device } = gpu;
    this.querySet = device.features.has("timestamp-query") ? device.createQuerySet({ label: "timer", type: "timestamp", count: 2 }) : null;
    this.resolved = gpu.createBuffer("timer.resolved", 16, QUERY_RESOLVE | BufferUsage.copySrc, "staging");
    this.staging = gpu.createBuffer("timer.staging", 16, BufferUsage.mapRead | BufferUsage.copyDst, "staging");
  }

  /** Runs the pass once unmeasured, then `repeats` times. */
  async time(label: string, record: (pass: GPUComputePassEncoder) => void, repeats = 5): Promise<GpuTime> {
    await this.once(label, record);
    const times: number[] = [];
    for (let i = 0; i < repeats; i++) times.push(await this.once(label, record));
    times.sort((a, b) => a - b);
    return { ms: times[times.length >> 1]!, clock: this.querySet ? "timestamp" : "wall" };
  }

  dispose(): void {
    this.querySet?.destroy();
    this.gpu.destroyBuffer(this.resolved);
    this.gpu.destroyBuffer(this.staging);
  }

  private async once(label: string, record: (pass: GPUComputePassEncoder) => void): Promise<number> {
    const { device } = this.gpu;
    const { querySet } = this;
    const encoder = device.createCommandEncoder({ label });
    const pass = encoder.beginComputePass({ label, ...(querySet && { timestampWrites: { querySet, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 } }) });
    record(pass);
    pass.end();
    if (querySet) {
      encoder.resolveQuerySet(querySet, 0, 2, this.resolved, 0);
      encoder.copyBufferToBuffer(this.resolved, 0, this.staging, 0, 16);
    }
    const startMs = performance.now();
    device.queue.submit([encoder.finish()]);
    if (!querySet) {
      await this.gpu.idle();
      return performance.now() - startMs;
    }
    const [begin, end] = new BigUint64Array(await this.gpu.read(this.staging, 16)) as unknown as [bigint, bigint];
    return Math.max(0, Number(end - begin)) / 1e6; // some drivers wrap, and some quantize to 0.1 ms
  }
}
