import { BufferUsage } from "../gpu/constants.ts";
import type { Gpu } from "../gpu/device.ts";
import { type GemvShape, KernelCompiler } from "../gpu/pipeline.ts";
import { bindGemv } from "../kernels/linear.ts";
import { uploadMatrix, type GpuMatrix } from "../kernels/matrix.ts";
import { COLUMN_PADDING, packedLayout, type PackedMatrix, padTo } from "../quantize/pack.ts";
import type { MatrixKind } from "./knownAnswers.ts";

/** The first guess comes first: another must be clearly faster to replace it. */
const SHAPES: readonly GemvShape[] = ([8, 16, 32] as const).flatMap((stripes) => ([2, 1, 4] as const).map((rowTiles) => ({ stripes, rowTiles })));
/** A shape must save so much of the time to be preferred: below it, noise chooses. */
const CLEAR_GAIN = 0.05;
/** Outputs of a measured product, and products of one submit. */
const N = 2048;
const REPEATS = 50;
const ROUNDS = 3;

const { storage, uniform, copyDst } = BufferUsage;

/** Milliseconds of some work, done `REPEATS` times. */
export type Clock = (gpu: Gpu, record: (pass: GPUComputePassEncoder) => void) => Promise<number>;

const wallClock: Clock = async (gpu, record) => {
  const startMs = performance.now();
  gpu.submit("tuning", record);
  await gpu.idle();
  return performance.now() - startMs;
};

const measured = new Map<string, Promise<GemvShape>>();

/**
 * The shape of gemv that takes least time over one product with each kind of matrix, measured once per adapter and page. About half a second on a real
 * adapter; never called for a software one, where a measurement says nothing about a GPU.
 */
export function tunedGemv(gpu: Gpu, adapter: string, kinds: readonly MatrixKind[], clock: Clock = wallClock): Promise<GemvShape> {
  const key = JSON.stringify([adapter, kinds]);
  let shape = measured.get(key);
  if (!shape) {
    shape = measure(gpu, kinds, clock);
    shape.catch(() => measured.delete(key)); // a lost device; the next may do better
    measured.set(key, shape);
  }
  return shape;
}

async function measure(gpu: Gpu, kinds: readonly MatrixKind[], clock: Clock): Promise<GemvShape> {
  const buffers: GPUBuffer[] = [];
  const buffer = (sizeBytes: number, usage: number = storage): GPUBuffer => {
    buffers.push(gpu.createBuffer("tuning", sizeBytes, usage | copyDst, "activations"));
    return buffers.at(-1)!;
  };
  try {
    const run = buffer(16, uniform);
    gpu.device.queue.writeBuffer(run, 0, Uint32Array.of(0, 1, 0, 1));
    const matrices: GpuMatrix[] = [];
    for (const { format, columns, activations, outlierThreshold } of kinds) {
      const layout = packedLayout({ format, shape: [N, columns] }, gpu.maxBindingBytes);
      const parts = layout.parts.map((part) => ({ ...part, codes: new Uint32Array(part.codeBytes / 4), scales: new Uint32Array(part.scaleBytes / 4) }));
      const packed: PackedMatrix = { layout: "tiles", ...layout, format, parts };
      const matrix = await uploadMatrix(gpu, "tuning", packed, "activations", { yStride: N, biasBase: 0, epsilon: 1, activations, outlierThreshold });
      for (const { shape, codes, scales } of matrix.parts) buffers.push(shape, codes, scales);
      matrices.push(matrix);
    }
    const [x, aux, residual, y] = [buffer(4 * padTo(Math.max(...kinds.map(({ columns }) => columns)), COLUMN_PADDING)), buffer(16), buffer(16), buffer(4 * N)];
    const candidates = await Promise.all(
      SHAPES.map(async (gemv) => {
        const compiler = new KernelCompiler(gpu, { gemv });
        return { gemv, ops: await Promise.all(matrices.map((matrix) => bindGemv(compiler, "tuning", matrix, "none", { run, x, aux, residual, y }))), bestMs: Infinity };
      }),
    );
    for (let round = 0; round <= ROUNDS; round++) {
      for (const candidate of candidates) {
        const ms = await clock(gpu, (pass) => {
          for (let i = 0; i < REPEATS; i++) for (const op of candidate.ops) op.record(pass, 1);
        });
        if (round > 0) candidate.bestMs = Math.min(candidate.bestMs, ms); // the first compiles, on some drivers
      }
    }
    await gpu.settle(); // a lost device takes no time at all
    return candidates.reduce((best, each) => (each.bestMs < best.bestMs * (1 - CLEAR_GAIN) ? each : best)).gemv;
  } finally {
    for (const each of buffers) gpu.destroyBuffer(each);
  }
}
