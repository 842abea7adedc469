import type { KernelCompiler } from "../gpu/pipeline.ts";
import { encodingConstants, type GpuMatrix } from "./matrix.ts";
import { dispatchOp, type Op } from "./op.ts";
import { kernels } from "./sources.ts";

/** How the next token is chosen; the values that switch a step off are the neutral ones. */
export interface SamplingOptions {
  /** 0 is greedy. */
  temperature: number;
  /** vocabSize or more: no limit. */
  topK: number;
  /** 1: no limit. */
  topP: number;
  /** 0: no limit. */
  minP: number;
  /** 1: none. */
  repetitionPenalty: number;
  frequencyPenalty: number;
  presencePenalty: number;
  /** A safe integer. */
  seed: number;
}

export interface SamplingBuffers {
  /** Uniform Step. */
  run: GPUBuffer;
  /** Uniform Sampling, SAMPLING_BYTES. */
  sampling: GPUBuffer;
  /** f32 [V padded to 4] */
  logits: GPUBuffer;
  /** u32 [V padded to 4]: what tokenCounts() gives, then counted up. */
  counts: GPUBuffer;
  /** f32 [positions, C padded] */
  wpe: GPUBuffer;
  /** What the head's gemv left there; null: the logits are read instead. */
  candidates: GPUBuffer | null;
  /** [draws][SAMPLE_BYTES], see readSample() */
  y: GPUBuffer;
  /** f32 [C padded], of the next step */
  x: GPUBuffer;
}

export const SAMPLING_BYTES = 48;
export const SAMPLE_BYTES = 16;

/** Beyond these, f32 loses what the f64 of the CPU's sampler keeps. */
const TEMPERATURES = { least: 1e-3, greatest: 1e3 };
const GREATEST_PENALTY = 1e6;
const SEEN_IN_PROMPT = 2 ** 31;

/** Whether the sample kernel chooses as the CPU's sampler does, but for what rounding to f32 decides. */
export function fitsSampling({ temperature, repetitionPenalty, frequencyPenalty, presencePenalty }: SamplingOptions, wte: GpuMatrix): boolean {
  const { least, greatest } = TEMPERATURES;
  return (
    wte.parts.length === 1 &&
    wte.rows < 2 ** 24 &&
    (temperature === 0 || (temperature >= least && temperature <= greatest)) &&
    Math.max(repetitionPenalty, 1 / repetitionPenalty, Math.abs(frequencyPenalty), Math.abs(presencePenalty)) <= GREATEST_PENALTY
  );
}

export function hasPenalties({ repetitionPenalty, frequencyPenalty, presencePenalty }: SamplingOptions): boolean {
  return repetitionPenalty !== 1 || frequencyPenalty !== 0 || presencePenalty !== 0;
}

/** Words of the uniform Sampling; first: the position of the first token to be sampled. */
export function samplingWords(options: SamplingOptions, vocabSize: number, first: number): Uint32Array<ArrayBuffer> {
  const { seed, topK, topP, minP, temperature, repetitionPenalty, frequencyPenalty, presencePenalty } = options;
  const words = new Uint32Array(SAMPLING_BYTES / 4);
  const share = topP === 1 ? 0 : Math.max(1, Math.min(Math.round(topP * 2 ** 32), 2 ** 32 - 1));
  words.set([seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0, first, vocabSize, Math.min(topK, vocabSize), share]);
  words[8] = Number(hasPenalties(options));
  const values = new Float32Array(words.buffer);
  values.set([Math.max(Math.log(minP), -3e38), temperature], 6);
  values.set([repetitionPenalty, frequencyPenalty, presencePenalty], 9);
  return words;
}

/** u32 [V padded to 4]: the tokens of the prompt marked, those of the output counted. */
export function tokenCounts(prompt: readonly number[], vocabSize: number, output: readonly number[] = []): Uint32Array<ArrayBuffer> {
  const counts = new Uint32Array(Math.ceil(vocabSize / 4) * 4);
  for (const id of prompt) counts[id] = SEEN_IN_PROMPT;
  for (const id of output) counts[id]!++;
  return counts;
}

/** A token and its natural log-probability under the model's own distribution, NaN or ±∞ where a logit of the row was. */
export function readSample(samples: ArrayBuffer, index: number): { id: number; logProb: number } {
  const [id] = new Uint32Array(samples, index * SAMPLE_BYTES, 1) as unknown as [number];
  const [, logit, max, sum] = new Float32Array(samples, index * SAMPLE_BYTES, 4) as unknown as [number, number, number, number];
  return { id, logProb: logit - max - Math.log(sum) };
}

/** Samples from a row of logits, notes the token at its index among the draws, and embeds it for the next step. wte: in one part */
export async function bindSampling(compiler: KernelCompiler, wte: GpuMatrix, { run, sampling, logits, counts, wpe, candidates, y, x }: SamplingBuffers): Promise<Op> {
  const kernel = await compiler.compile(candidates ? kernels.sampleCandidates : kernels.sample, { ...encodingConstants(wte.encoding), CANDIDATES: candidates !== null, ROLLED: compiler.variants.tuning === "software" });
  const [part] = wte.parts as [GpuMatrix["parts"][number]];
  const group = kernel.bind("sample", [run, sampling, part.shape, logits, part.codes, part.scales, wpe, counts, y, x, ...(candidates ? [candidates] : [])]);
  return dispatchOp(kernel, group, () => [1]);
}
