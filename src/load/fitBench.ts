import { isMatrix } from "../checkpoint/gpt2Weights.ts";
import type { Checkpoint, CheckpointTensor } from "../checkpoint/types.ts";
import { measuresOf, sampleRow } from "../evaluate/comparison.ts";
import { planWindows, shardOf, type WindowPlan } from "../evaluate/protocols.ts";
import { tokensOf } from "../generate/options.ts";
import type { Backend, BackendBuilder, BackendOptions } from "../model/backend.ts";
import { Pacer } from "../model/cpu/pacer.ts";
import { describeFormat } from "../quantize/formats.ts";
import { packFor } from "../quantize/packFor.ts";
import { gptqNamed, quantizeNamed } from "../quantize/matrixQuantizer.ts";
import { formatOf, presets } from "../quantize/recipes.ts";
import type { FitOptions, FitProgress, QuantizationRecipe, QuantizedTensor, TensorFormat } from "../types.ts";
import { Calibration, calibrationWindows, observable } from "./calibration.ts";
import { type BackendChoice, build, chooseBackend, createBuilderBeside, disposeChoice } from "./openBackend.ts";
import { resolveContextLength } from "./options.ts";
import { ProgressMeter } from "./progress.ts";
import { readTokenizer } from "./readTokenizer.ts";
import { LossCounter } from "./recovery.ts";
import { hasCodes, quantizeInto, unprepared } from "./quantizeInto.ts";

const DEFAULT_MAX_TOKENS = 512;
const DEFAULT_WINDOW_TOKENS = 256;
/** Of matrices that GPTQ rounded, kept for the recipes that they occur in: all of GPT-2 124M in five formats. */
const ROUNDED_BYTES = 512 * 2 ** 20;
/** Of the progress bar, what loading takes. */
const LOAD_SHARE = 0.05;

/** A device with the f32 model on it. */
interface Floats {
  choice: BackendChoice;
  /** Of the candidates: the f32 model is their base. */
  backendOptions: BackendOptions & { base: Backend };
  /** For GPTQ: what the whole text shows of the inputs; null where rounding is to the nearest. */
  calibration: Calibration | null;
}

interface FitBenchParts {
  checkpoint: Checkpoint;
  /** Loads the f32 model on a device of its own. */
  openFloats: () => Promise<Floats>;
  tokens: readonly number[];
  plan: WindowPlan;
  progress: FitMeter;
  losses: LossCounter;
  signal: AbortSignal | undefined;
}

/** The f32 model, and on the same device one candidate at a time to compare with it; after a loss of the device, on another. */
export class FitBench {
  /** By matrix and format. */
  private readonly rounded = new Map<string, QuantizedTensor>();
  private roundedBytes = 0;

  private constructor(
    private readonly parts: FitBenchParts,
    private floats: Floats | null,
  ) {}

  static async open(checkpoint: Checkpoint, options: FitOptions, progress: FitMeter): Promise<FitBench> {
    const { text, signal, maxTokens = DEFAULT_MAX_TOKENS, kvCache = "f32", rounding } = options;
    const { config } = checkpoint;
    const contextLength = resolveContextLength(options.contextLength, config);
    const tokens = tokensOf("text", text, await readTokenizer(checkpoint.tokenizerFiles, config, signal), config.vocabSize);
    const windowTokens = options.windowTokens ?? Math.min(DEFAULT_WINDOW_TOKENS, contextLength, Math.max(2, Math.min(maxTokens, tokens.length)));
    const whole = planWindows(tokens.length, { protocol: "disjoint", windowTokens }, contextLength);
    const count = Math.ceil(whole.windows.length / Math.max(1, Math.floor(maxTokens / windowTokens)));
    const plan = shardOf(whole, { index: 0, count });
    const runs = rounding === "gptq" ? calibrationWindows("text", tokens, contextLength) : null;
    const openFloats = async (): Promise<Floats> => {
      const choice = await chooseBackend(options, config);
      const backendOptions = { config, contextLength, kvCache };
      try {
        const loading = new ProgressMeter(({ fraction }) => progress.loading(0.5 + fraction / 2));
        const { backend: base, filled: report } = await build(await createBuilderBeside(choice, backendOptions), (builder) => quantizeInto(builder, unprepared(checkpoint, presets.f32), presets.f32, { progress: loading, quantizer: options.quantizer, signal }), signal);
        const model = observable({ backend: base, report }, checkpoint)!;
        return { choice, backendOptions: { ...backendOptions, base }, calibration: runs && new Calibration(() => Promise.resolve(model), runs, signal) };
      } catch (error) {
        disposeChoice(choice);
        throw error;
      }
    };
    const losses = new LossCounter(options);
    return new FitBench({ checkpoint, openFloats, tokens, plan, progress, losses, signal }, await losses.retry(openFloats));
  }

  /** Of each measurement. */
  get scoredTokens(): number {
    return this.parts.plan.scoredTokens;
  }

  /** A matrix in a format, rounded as the recipe of the fit will be. */
  quantize(tensor: CheckpointTensor, values: Float32Array, format: TensorFormat): Promise<QuantizedTensor> {
    return this.withFloats((floats) => this.quantizeWith(floats, tensor, values, format));
  }

  /** Mean KL divergence of a model that differs from the f32 one in one matrix, nats per token. */
  measureTensor(tensor: CheckpointTensor, quantized: QuantizedTensor): Promise<number> {
    return this.measure("sensitivity", tensor.name, (builder) => builder.add(tensor, packFor(builder.layout, quantized)));
  }

  /** Mean KL divergence, nats per token. */
  measureRecipe(recipe: QuantizationRecipe): Promise<number> {
    const { checkpoint, signal } = this.parts;
    return this.measure("recipes", recipe.name!, async (builder, floats) => {
      for await (const { tensor, values } of checkpoint.read({ signal })) {
        if (isMatrix(tensor)) await builder.add(tensor, packFor(builder.layout, await this.quantizeWith(floats, tensor, values, formatOf(recipe, tensor.name, tensor.kind))));
      }
    });
  }

  /** One of the planned measurements is done, or not needed. */
  advance(): void {
    this.parts.progress.measured();
  }

  /** A measurement after it loads the f32 model again. */
  dispose(): void {
    this.floats?.backendOptions.base.dispose();
    if (this.floats) disposeChoice(this.floats.choice);
    this.floats = null;
  }

  private async quantizeWith({ calibration }: Floats, tensor: CheckpointTensor, values: Float32Array, format: TensorFormat): Promise<QuantizedTensor> {
    if (!calibration || tensor.kind !== "linear" || !hasCodes(format)) return quantizeNamed(tensor, values, format);
    const key = `${tensor.name} ${describeFormat(format)}`;
    const known = this.rounded.get(key);
    if (known) return known;
    const { gram } = await calibration.withGram(tensor.name, new ProgressMeter(undefined));
    const pacer = new Pacer();
    const quantized = await gptqNamed(tensor, values, format, gram!, { rest: () => pacer.rest(this.parts.signal) });
    const bytes = quantized.codes.byteLength + quantized.scales.byteLength;
    if (this.roundedBytes + bytes <= ROUNDED_BYTES) {
      this.rounded.set(key, quantized);
      this.roundedBytes += bytes;
    }
    return quantized;
  }

  private measure(stage: "sensitivity" | "recipes", name: string, fill: (builder: BackendBuilder, floats: Floats) => Promise<void>): Promise<number> {
    const { tokens, plan, progress, signal } = this.parts;
    progress.measuring(stage, name);
    return this.withFloats(async (floats) => {
      const { choice, backendOptions } = floats;
      let candidate: Backend | null = null;
      try {
        candidate = (await build(await createBuilderBeside(choice, backendOptions), (builder) => fill(builder, floats), signal)).backend;
        return measuresOf(await sampleRow(candidate, backendOptions.base, tokens, plan, { signal }), null).klDivergence.mean;
      } finally {
        candidate?.dispose();
      }
    });
  }

  /** Work beside the f32 model, which is loaded again where its device was lost. */
  private withFloats<T>(work: (floats: Floats) => Promise<T>): Promise<T> {
    const { openFloats, losses } = this.parts;
    return losses.retry(async () => {
      try {
        return await work((this.floats ??= await openFloats()));
      } catch (error) {
        if (losses.mayRetry(error)) this.dispose();
        throw error;
      }
    });
  }
}

/** Progress whose fraction never falls. */
export class FitMeter {
  #fraction = 0;
  #done = 0;
  #total = Infinity;
  #state: Pick<FitProgress, "stage" | "name"> = { stage: "load", name: "" };

  constructor(private readonly onProgress: FitOptions["onProgress"]) {}

  /** fraction: 0…1 of loading the f32 model. */
  loading(fraction: number): void {
    this.#report(LOAD_SHARE * fraction);
  }

  plan(measurements: number): void {
    this.#total = measurements;
  }

  measuring(stage: "sensitivity" | "recipes", name: string): void {
    this.#state = { stage, name };
    this.#report(this.#fraction);
  }

  measured(): void {
    this.#done = Math.min(this.#done + 1, this.#total);
    this.#report(LOAD_SHARE + ((1 - LOAD_SHARE) * this.#done) / this.#total);
  }

  end(): void {
    this.#report(1);
  }

  #report(fraction: number): void {
    this.#fraction = Math.max(this.#fraction, fraction);
    this.onProgress?.({ ...this.#state, fraction: this.#fraction });
  }
}
