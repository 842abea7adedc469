import { headName, isMatrix } from "../checkpoint/gpt2Weights.ts";
import type { Checkpoint, CheckpointTensor } from "../checkpoint/types.ts";
import type { Backend, BackendBuilder } from "../model/backend.ts";
import { Pacer } from "../model/cpu/pacer.ts";
import type { InputStatistics } from "../quantize/inputStatistics.ts";
import { packFor } from "../quantize/packFor.ts";
import { quantizeTensor } from "../quantize/nearest.ts";
import type { QuantizationReport } from "../types.ts";
import { build } from "./openBackend.ts";
import type { ProgressMeter } from "./progress.ts";

/** More change the statistics little and take minutes on the CPU: ranges and Hessians are usually drawn from 128 windows of 2,048 of larger models, or far fewer. */
export const CALIBRATION_TOKENS = 16_384;
/** Gram matrices that exist at a time; those of five layers of GPT-2 124M. */
const GRAM_BYTES = 256 * 2 ** 20;
/** Of a run's progress, what reading the weights takes. */
const READ_SHARE = 0.3;

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

/** A model whose inputs are observed. */
export interface FloatModel {
  backend: Backend;
  /** Linear matrices and the head in the order in which the checkpoint delivers them. */
  matrices: readonly CheckpointTensor[];
  dispose(): void;
}

/** The checkpoint with its linear matrices as they are, to be observed: linear in f32, embeddings in f16. Frees the builder when it fails. */
export async function openFloat(builder: BackendBuilder, checkpoint: Checkpoint, progress: ProgressMeter, signal: AbortSignal | undefined): Promise<FloatModel> {
  const matrices: CheckpointTensor[] = [];
  const pacer = new Pacer();
  const fill = async (): Promise<void> => {
    const read = checkpoint.read({ signal, onBytes: (soFar) => progress.downloaded(soFar, READ_SHARE) });
    for await (const { tensor, values } of read) {
      await builder.add(tensor, isMatrix(tensor) ? packFor(builder.layout, quantizeTensor(values, tensor.shape, { type: tensor.kind === "linear" ? "f32" : "f16" })) : values);
      if (hasObservedInput(tensor, checkpoint)) matrices.push(tensor);
      if (pacer.isDue()) await pacer.rest(signal);
    }
  };
  const { backend } = await build(builder, fill, signal);
  return { backend, matrices, dispose: () => backend.dispose() };
}

/** A loaded model as one whose inputs are those of the checkpoint; null where its linear matrices are no floats. It stays its owner's to dispose of. */
export function observable({ backend, report: { recipe, tensors } }: { backend: Backend; report: QuantizationReport }, checkpoint: Checkpoint): FloatModel | null {
  if (recipe.linear.type !== "f32" || recipe.overrides || (recipe.activations ?? "float") !== "float") return null;
  const byName = new Map(checkpoint.tensors.map((tensor) => [tensor.name, tensor]));
  return { backend, matrices: tensors.map(({ name }) => byName.get(name)!).filter((tensor) => hasObservedInput(tensor, checkpoint)), dispose: () => undefined };
}

/** Whether a tensor is a matrix whose input is observed: linear, or the head. */
export function hasObservedInput({ name, kind }: CheckpointTensor, { config }: Checkpoint): boolean {
  return kind === "linear" || name === headName(config);
}

/**
 * What calibration tokens show of the inputs of matrices, found when it is asked for: the statistics of all matrices in one run, gram matrices in a run
 * for as many as fit GRAM_BYTES, those that come next, which take the place of the ones before. What was found stays when the model is released.
 */
export class Calibration {
  private model: Promise<FloatModel> | null = null;
  private all: Promise<Map<string, InputStatistics>> | null = null;
  private group = new Map<string, InputStatistics>();

  constructor(
    private readonly open: (progress: ProgressMeter) => Promise<FloatModel>,
    readonly windows: CalibrationWindows,
    private readonly signal: AbortSignal | undefined,
    private readonly gramBytes = GRAM_BYTES,
  ) {}

  /** Of all linear matrices and the head, by name, without grams. */
  statistics(progress: ProgressMeter): Promise<ReadonlyMap<string, InputStatistics>> {
    this.all ??= this.load(progress).then(({ matrices }) => this.observe(matrices, false, progress));
    return this.all;
  }

  /** Of one matrix, with its gram; best asked for in the order of the checkpoint. */
  async withGram(name: string, progress: ProgressMeter): Promise<InputStatistics> {
    if (!this.group.has(name)) {
      this.group.clear(); // lets go of the last before the next is made
      const { matrices } = await this.load(progress);
      this.group = await this.observe(this.groupFrom(name, matrices), true, progress);
    }
    return this.group.get(name)!;
  }

  /** Opens the model, which otherwise happens when something is asked for. */
  load(progress: ProgressMeter): Promise<FloatModel> {
    this.model ??= this.open(progress);
    return this.model;
  }

  /** Frees the model until something is asked for that was not found yet. */
  async release(): Promise<void> {
    const { model } = this;
    this.model = null;
    (await model?.catch(() => null))?.dispose(); // whoever asked for it knows why it could not be opened
  }

  private groupFrom(name: string, matrices: readonly CheckpointTensor[]): readonly CheckpointTensor[] {
    const first = matrices.findIndex((tensor) => tensor.name === name);
    let bytes = 0;
    const end = matrices.findIndex(({ shape: [, columns] }, i) => i >= first && (bytes += columns ** 2 * 4) > this.gramBytes && i > first);
    return matrices.slice(first, end === -1 ? undefined : end);
  }

  private async observe(matrices: readonly CheckpointTensor[], gram: boolean, progress: ProgressMeter): Promise<Map<string, InputStatistics>> {
    const { windows: { windows, tokens }, signal } = this;
    const { backend } = await this.load(progress);
    const onTokens = (count: number): void => progress.calibrated(count, tokens, gram ? 0 : READ_SHARE + ((1 - READ_SHARE) * count) / tokens); // grams are made while the weights stream in
    onTokens(0);
    return backend.observe(windows, matrices.map(({ name }) => name), { gram, signal, onTokens });
  }
}
