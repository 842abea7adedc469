import { EngineError } from "../errors.ts";
import { BufferUsage } from "../gpu/constants.ts";
import type { BufferMaker, Gpu } from "../gpu/device.ts";
import type { KernelCompiler } from "../gpu/pipeline.ts";
import type { GpuMatrix } from "../kernels/matrix.ts";
import type { Op } from "../kernels/op.ts";
import { bindSampling, fitsSampling, hasPenalties, readSample, SAMPLE_BYTES, SAMPLING_BYTES, samplingWords, tokenCounts, type SamplingOptions } from "../kernels/sampling.ts";
import type { SampledToken } from "./backend.ts";

/** Tokens of one submit at most: more would save nothing, and hold a stop or an abort back. */
const BATCH_TOKENS = 8;
/** How long a batch may take, as measured: on a slow device a batch is one token. */
const BATCH_MS = 100;
/** Batches submitted and not read: while one comes back the next runs, and one more waits, so that the device never does. */
const BATCHES_IN_FLIGHT = 3;

/** WebGPU's default minUniformBufferOffsetAlignment. */
const STEP_STRIDE_BYTES = 256;
/** Where the Step of a prefill's head lies: behind those of a batch. */
export const HEAD_STEP_BYTES = BATCH_TOKENS * STEP_STRIDE_BYTES;
export const STEPS_BYTES = HEAD_STEP_BYTES + STEP_STRIDE_BYTES;

const { storage, uniform, copySrc, copyDst, mapRead } = BufferUsage;

/** What is written when a generation starts, and while it runs. */
export interface LoopBuffers {
  /** Uniform Sampling. */
  sampling: GPUBuffer;
  /** u32 [V padded to 4] */
  counts: GPUBuffer;
  /** See CandidateBuffers; null where the head leaves none. */
  candidates: GPUBuffer | null;
  /** [draws][SAMPLE_BYTES] */
  samples: GPUBuffer;
  /** [BATCH_TOKENS][SAMPLE_BYTES] each */
  ring: readonly GPUBuffer[];
}

export function createLoopBuffers(gpu: BufferMaker, vocabSize: number, contextLength: number, candidateBytes: number): LoopBuffers {
  return {
    sampling: gpu.createBuffer("sampling", SAMPLING_BYTES, uniform | copyDst, "activations"),
    counts: gpu.createBuffer("sampling.counts", tokenCounts([], vocabSize).byteLength, storage | copyDst, "activations"),
    candidates: candidateBytes > 0 ? gpu.createBuffer("sampling.candidates", candidateBytes, storage, "activations") : null,
    samples: gpu.createBuffer("samples", (contextLength + 1) * SAMPLE_BYTES, storage | copySrc, "activations"),
    ring: Array.from({ length: BATCHES_IN_FLIGHT }, (_, i) => gpu.createBuffer(`samples.staging${i}`, BATCH_TOKENS * SAMPLE_BYTES, mapRead | copyDst, "staging")),
  };
}

/** What the loop drives: the model's graph and the buffers at its two ends. */
export interface DecodeGraph {
  vocabSize: number;
  contextLength: number;
  wte: GpuMatrix;
  /** f32 [positions, C padded] */
  wpe: GPUBuffer;
  /** f32 [rows, C padded]: the residual stream, whose row 0 takes the sampled token. */
  x: GPUBuffer;
  /** f32 [V padded] */
  logits: GPUBuffer;
  /** Uniform Steps, STEPS_BYTES. */
  steps: GPUBuffer;
  /** Submits tokens at positions start, start + 1, … up to their last logits; `finish` and `after` join the last submit. */
  prefill(tokens: readonly number[], start: number, signal: AbortSignal | undefined, finish?: (pass: GPUComputePassEncoder) => void, after?: (encoder: GPUCommandEncoder) => void): Promise<void>;
  /** Words of the Step of one token at a position. */
  step(position: number): readonly number[];
  /** Records one token at a position from x to the logits. */
  recordToken(pass: GPUComputePassEncoder, position: number, stepBytes: number): void;
  /** Throws where the backend was disposed or the device failed. */
  assertUsable(): void;
}

/** A batch on its way. */
interface Batch {
  count: number;
  /** [count][SAMPLE_BYTES] */
  samples: Promise<ArrayBuffer>;
}

/** Decodes without leaving the device: every sample is the input of the next step, and only ids and log-probabilities come back, some batches late. */
export class DecodeLoop {
  private readonly stepWords = new Uint32Array(HEAD_STEP_BYTES / 4);
  /** Measured over the last batches, of any generation. */
  private tokenMs = Infinity;
  private lastReadMs = 0;
  /** Until what a loop that was left early had on its way has come back: a buffer that waits to be mapped cannot be copied to. */
  private cleared: Promise<unknown> = Promise.resolve();

  private constructor(
    private readonly gpu: Gpu,
    private readonly graph: DecodeGraph,
    private readonly sample: Op,
    private readonly buffers: LoopBuffers,
  ) {}

  static async build(gpu: Gpu, compiler: KernelCompiler, graph: DecodeGraph, buffers: LoopBuffers): Promise<DecodeLoop> {
    const { wte, wpe, x, logits, steps } = graph;
    const sample = await bindSampling(compiler, wte, { ...buffers, run: steps, logits, wpe, y: buffers.samples, x });
    return new DecodeLoop(gpu, graph, sample, buffers);
  }

  /** Whether these options lead to the CPU sampler's tokens here. */
  fits(options: SamplingOptions): boolean {
    return fitsSampling(options, this.graph.wte);
  }

  /** See Backend.decode. What is on its way when the iteration is left early, the next one waits for. */
  async *run(prompt: readonly number[], options: SamplingOptions, limit: number, signal: AbortSignal | undefined, drawn: readonly number[]): AsyncGenerator<SampledToken, void, undefined> {
    const { gpu, graph } = this;
    const { sampling, counts, samples, ring } = this.buffers;
    const { queue } = gpu.device;
    const last = Math.min(limit, graph.contextLength - prompt.length + 1);
    const inFlight: Batch[] = [];
    let batches = 0;
    let submitted = drawn.length;
    let read = drawn.length;
    const follow = (count: number, measured: boolean): void => {
      const staging = ring[batches++ % ring.length]!;
      submitted += count;
      inFlight.push({ count, samples: this.read(staging, count, measured) });
    };
    const copy = (encoder: GPUCommandEncoder, count: number): void => {
      encoder.copyBufferToBuffer(samples, submitted * SAMPLE_BYTES, ring[batches % ring.length]!, 0, count * SAMPLE_BYTES);
    };
    const topUp = (): void => {
      while (inFlight.length < BATCHES_IN_FLIGHT && submitted < last) {
        const count = Math.max(1, Math.min(BATCH_TOKENS, Math.floor(BATCH_MS / this.tokenMs), last - submitted));
        const first = prompt.length + submitted - 1; // the position of the token sampled last
        for (let i = 0; i < count; i++) this.stepWords.set(graph.step(first + i), (i * STEP_STRIDE_BYTES) / 4);
        queue.writeBuffer(graph.steps, 0, this.stepWords, 0, (count * STEP_STRIDE_BYTES) / 4);
        gpu.submit("decode", (pass) => {
          for (let i = 0; i < count; i++) {
            graph.recordToken(pass, first + i, i * STEP_STRIDE_BYTES);
            this.sample.record(pass, 1, i * STEP_STRIDE_BYTES);
          }
        }, (encoder) => copy(encoder, count));
        follow(count, true);
      }
    };

    try {
      await this.cleared;
      graph.assertUsable();
      queue.writeBuffer(sampling, 0, samplingWords(options, graph.vocabSize, prompt.length));
      if (hasPenalties(options)) queue.writeBuffer(counts, 0, tokenCounts(prompt, graph.vocabSize, drawn));
      for (let i = 0; i <= drawn.length; i++) {
        const [tokens, start] = i === 0 ? [prompt, 0] : [[drawn[i - 1]!], prompt.length + i - 1]; // one by one, as they were drawn: kernels for many round otherwise
        if (i === drawn.length) {
          await graph.prefill(tokens, start, signal, (pass) => this.sample.record(pass, 1), (encoder) => copy(encoder, 1));
        } else {
          await graph.prefill(tokens, start, signal);
          await gpu.idle(); // the queue stays short
        }
      }
      follow(1, false);
      topUp();
      for (let batch = inFlight.shift(); batch; batch = inFlight.shift()) {
        const bytes = await batch.samples;
        signal?.throwIfAborted();
        topUp();
        for (let i = 0; i < batch.count; i++) {
          signal?.throwIfAborted();
          graph.assertUsable();
          const { id, logProb } = readSample(bytes, i);
          if (!Number.isFinite(logProb)) {
            const position = prompt.length + read - 1;
            throw new EngineError("shader", `The logits after position ${position} give a log-probability of ${logProb}; expected finite numbers.`, { position, value: logProb });
          }
          read++;
          yield { id, logProb, top: [] };
        }
      }
    } finally {
      // Not unmapped before that: Firefox 153 crashes where a buffer is mapped again, to another size, before it has noticed.
      this.cleared = Promise.allSettled(inFlight.map(({ samples }) => samples));
    }
  }

  private read(staging: GPUBuffer, count: number, measured: boolean): Promise<ArrayBuffer> {
    const submittedMs = performance.now();
    const samples = this.gpu.read(staging, count * SAMPLE_BYTES).then((bytes) => {
      const nowMs = performance.now();
      // Half of the last value at least: of two that come back together the second seems to have taken no time.
      if (measured) this.tokenMs = Math.max((nowMs - Math.max(submittedMs, this.lastReadMs)) / count, this.tokenMs === Infinity ? 0 : this.tokenMs / 2);
      this.lastReadMs = nowMs;
      return bytes;
    });
    samples.catch(() => undefined); // when the loop is left early, nobody waits for it
    return samples;
  }
}
