import { BufferUsage } from "../gpu/constants.ts";
import type { Gpu } from "../gpu/device.ts";
import type { KernelCompiler } from "../gpu/pipeline.ts";
import { bindColumnStatistics, bindGram, columnStatisticsWords, gramStrips } from "../kernels/inputStatistics.ts";
import type { GpuMatrix } from "../kernels/matrix.ts";
import { type Op, sequence } from "../kernels/op.ts";
import { COLUMN_PADDING, padTo } from "../quantize/pack.ts";
import type { InputSums } from "./observation.ts";

const { storage, uniform, copySrc, copyDst, mapRead } = BufferUsage;

/** Where the prefill graph gives a matrix its input. */
export interface ObservedInput {
  matrix: GpuMatrix;
  /** f32 [rows, K padded] */
  x: GPUBuffer;
  /** Index of the matrix's op in the graph, or its length: in front of it x is complete. */
  op: number;
}

interface Strip {
  first: number;
  rows: number;
  y: GPUBuffer;
}

interface Tally {
  input: ObservedInput;
  op: Op;
  statistics: GPUBuffer;
  strips: Strip[];
}

/** Sums over the inputs of matrices, kept on the device until they are read; every buffer goes with destroy(). */
export class GpuObservation {
  private readonly buffers: GPUBuffer[] = [];
  private readonly tallies = new Map<string, Tally>();

  /** @param run uniform Step of the graph @param maxBytes of a buffer */
  constructor(
    private readonly gpu: Gpu,
    private readonly compiler: KernelCompiler,
    private readonly run: GPUBuffer,
    private readonly maxBytes: number,
  ) {}

  async add(name: string, input: ObservedInput, gram: boolean): Promise<void> {
    const { gpu, compiler, run } = this;
    const { matrix, x } = input;
    const K = matrix.columns;
    const bound = { run, shape: matrix.parts[0]!.shape, x };
    const statistics = this.buffer(`${name}.statistics`, columnStatisticsWords(K) * 4, storage | copySrc);
    const strips = (gram ? gramStrips(K, this.maxBytes) : []).map(({ first, rows }) => ({
      first,
      rows,
      y: this.buffer(`${name}.gram`, rows * padTo(K, COLUMN_PADDING) * 4, storage | copySrc),
      strip: this.buffer(`${name}.strip`, 16, uniform | copyDst),
    }));
    await gpu.settle();
    const ops = [await bindColumnStatistics(compiler, name, K, { ...bound, y: statistics })];
    for (const { first, rows, y, strip } of strips) {
      gpu.device.queue.writeBuffer(strip, 0, Uint32Array.of(first));
      ops.push(await bindGram(compiler, name, K, rows, { ...bound, strip, y }));
    }
    this.tallies.set(name, { input, op: sequence(ops), statistics, strips });
  }

  /** The graph as far as the last input that is seen, with the sums of each in their places. */
  within(graph: readonly Op[]): Op {
    const tallies = [...this.tallies.values()];
    const ops: Op[] = [];
    for (let index = 0, seen = 0; seen < tallies.length; index++) {
      const here = tallies.filter(({ input }) => input.op === index);
      ops.push(...here.map(({ op }) => op));
      seen += here.length;
      if (seen < tallies.length) ops.push(graph[index]!);
    }
    return sequence(ops);
  }

  /** @param rows that were run */
  async read(name: string, rows: number): Promise<InputSums> {
    const { input, statistics, strips } = this.tallies.get(name)!;
    const K = input.matrix.columns;
    const words = await this.copy(statistics);
    const gram = strips.length > 0 ? new Float32Array(K * K) : null;
    const padded = padTo(K, COLUMN_PADDING);
    for (const { first, rows, y } of strips) {
      const values = new Float32Array(await this.copy(y));
      for (let j = first; j < Math.min(first + rows, K); j++) gram!.set(values.subarray((j - first) * padded, (j - first) * padded + K), j * K);
    }
    return { rows, absmax: new Float32Array(words, 0, K), sumAbs: new Float32Array(words, 4 * K, K), histogram: new Uint32Array(words, 8 * K, columnStatisticsWords(K) - 2 * K), gram };
  }

  destroy(): void {
    for (const buffer of this.buffers.splice(0)) this.gpu.destroyBuffer(buffer);
  }

  private async copy(source: GPUBuffer): Promise<ArrayBuffer> {
    const { gpu } = this;
    const staging = gpu.createBuffer("observe.staging", source.size, mapRead | copyDst, "staging");
    try {
      await gpu.settle();
      gpu.submit("observe.read", () => undefined, (encoder) => encoder.copyBufferToBuffer(source, 0, staging, 0, source.size));
      return await gpu.read(staging, source.size);
    } finally {
      gpu.destroyBuffer(staging);
    }
  }

  private buffer(label: string, sizeBytes: number, usage: number): GPUBuffer {
    const buffer = this.gpu.createBuffer(label, sizeBytes, usage, "activations");
    this.buffers.push(buffer);
    return buffer;
  }
}
