import { headName } from "../checkpoint/gpt2Weights.ts";
import type { Checkpoint, CheckpointTensor } from "../checkpoint/types.ts";
import type { Backend, BackendBuilder } from "../model/backend.ts";
import { Pacer } from "../model/cpu/pacer.ts";
import type { InputStatistics } from "../quantize/inputStatistics.ts";
import { quantizeTensor } from "../quantize/nearest.ts";
import type { ProgressMeter } from "./progress.ts";

/** More change the statistics little and take minutes on the CPU: ranges and Hessians are usually drawn from 128 windows of 2,048 of larger models, or far fewer. */
export const CALIBRATION_TOKENS = 16_384;
/** Gram matrices that exist at a time; those of five layers of GPT-2 124M. */
const GRAM_BYTES = 256 * 2 ** 20;

export interface CalibrationWindows {
  /** All of one length. */
  windows: readonly (readonly number[])[];
  /** In all windows. */
  tokens: number;
  /** A sentence where tokens were left out. */
  notices: readonly string[];
}

/** Cuts calibration tokens into windows, whole ones unless there is only one. @throws RangeError for fewer than 2 tokens, naming the option */
export function calibrationWindows(option: string, tokens: readonly number[], contextLength: number): CalibrationWindows {
  if (tokens.length < 2) throw new RangeError(`${option} has ${tokens.length} tokens; expected at least 2.`);
  const length = Math.min(contextLength, tokens.length, CALIBRATION_TOKENS);
  const count = Math.floor(Math.min(tokens.length, CALIBRATION_TOKENS) / length);
  const windows = Array.from({ length: count }, (_, i) => tokens.slice(i * length, (i + 1) * length));
  const used = count * length;
  return { windows, tokens: used, notices: used < tokens.length ? [`Calibration ran the first ${used} of ${tokens.length} tokens, in windows of ${length}.`] : [] };
}

export interface FloatModel {
  backend: Backend;
  /** Linear matrices and the head in the order in which the checkpoint delivers them. */
  matrices: readonly CheckpointTensor[];
}

/** The checkpoint with its linear matrices as they are, to be observed: linear in f32, embeddings in f16. Frees the builder when it fails. */
export async function openFloat(builder: BackendBuilder, checkpoint: Checkpoint, progress: ProgressMeter, signal: AbortSignal | undefined): Promise<FloatModel> {
  const matrices: CheckpointTensor[] = [];
  const head = headName(checkpoint.config);
  const pacer = new Pacer();
  try {
    const read = checkpoint.read({ signal, onBytes: ({ file, loadedBytes, totalBytes }) => progress.downloaded(file, loadedBytes, totalBytes) });
    for await (const { tensor, values } of read) {
      const { kind, shape } = tensor;
      const isMatrix = kind === "linear" || kind === "embedding";
      await builder.add(tensor, isMatrix ? quantizeTensor(values, shape, { type: kind === "linear" ? "f32" : "f16" }) : values);
      if (kind === "linear" || tensor.name === head) matrices.push(tensor);
      if (pacer.isDue()) await pacer.rest(signal);
    }
    return { matrices, backend: await builder.finish(signal) };
  } catch (error) {
    builder.abandon();
    throw error;
  }
}

/**
 * What calibration tokens show of the inputs of matrices, found when it is asked for: the statistics of all matrices in one run, gram matrices in a
 * run for as many as fit GRAM_BYTES, those that come next, which take the place of the ones before. Needs the backend only while something is missing.
 */
export class Calibration {
  private all: Promise<Map<string, InputStatistics>> | null = null;
  private group: Map<string, InputStatistics> = new Map();

  /** @param model whose matrices will be asked for, grams best in their order */
  constructor(
    private readonly model: FloatModel,
    private readonly windows: CalibrationWindows,
    private readonly progress: ProgressMeter,
    private readonly signal: AbortSignal | undefined,
    private readonly gramBytes = GRAM_BYTES,
  ) {}

  /** @param name of a linear matrix or the head @throws what Backend.observe() does */
  async statistics(name: string, { gram }: { gram: boolean }): Promise<InputStatistics> {
    if (!gram) {
      this.all ??= this.observe(this.model.matrices, false);
      return (await this.all).get(name)!;
    }
    if (!this.group.has(name)) {
      this.group = new Map(); // lets go of the last before the next is made
      this.group = await this.observe(this.groupFrom(name), true);
    }
    return this.group.get(name)!;
  }

  private groupFrom(name: string): CheckpointTensor[] {
    const { matrices } = this.model;
    const first = matrices.findIndex((tensor) => tensor.name === name);
    let bytes = 0;
    const end = matrices.findIndex(({ shape: [, columns] }, i) => i >= first && (bytes += columns ** 2 * 4) > this.gramBytes && i > first);
    return matrices.slice(first, end === -1 ? undefined : end);
  }

  private observe(tensors: readonly CheckpointTensor[], gram: boolean): Promise<Map<string, InputStatistics>> {
    const { model: { backend }, windows: { windows, tokens }, progress, signal } = this;
    const onTokens = (count: number): void => progress.calibrated(count, tokens, gram ? 0 : count / tokens); // grams are made while the weights stream in
    onTokens(0);
    return backend.observe(windows, tensors.map(({ name }) => name), { gram, signal, onTokens });
  }
}
