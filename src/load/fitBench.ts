import { isMatrix } from "../checkpoint/gpt2Weights.ts";
import type { Checkpoint } from "../checkpoint/types.ts";
import { measuresOf, sampleRow } from "../evaluate/comparison.ts";
import { planWindows, type WindowPlan } from "../evaluate/protocols.ts";
import { tokensOf } from "../generate/options.ts";
import type { Backend, BackendBuilder, BackendOptions } from "../model/backend.ts";
import { packFor } from "../quantize/layout.ts";
import { quantizeNamed } from "../quantize/matrixQuantizer.ts";
import { formatOf, presets } from "../quantize/recipes.ts";
import { createTokenizer } from "../tokenizer/index.ts";
import type { FitOptions, FitProgress, QuantizationRecipe } from "../types.ts";
import { type BackendChoice, build, chooseBackend, createBuilderBeside, disposeChoice } from "./openBackend.ts";
import { resolveContextLength } from "./options.ts";
import { ProgressMeter } from "./progress.ts";
import { LossCounter } from "./recovery.ts";
import { quantizeInto, unprepared } from "./quantizeInto.ts";

const DEFAULT_MAX_TOKENS = 512;
const DEFAULT_WINDOW_TOKENS = 256;
/** Of the progress bar, what loading takes. */
const LOAD_SHARE = 0.05;

/** A device with the f32 model on it. */
interface Floats {
  choice: BackendChoice;
  /** Of the candidates: the f32 model is their base. */
  backendOptions: BackendOptions & { base: Backend };
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
  private constructor(
    private readonly parts: FitBenchParts,
    private floats: Floats | null,
  ) {}

  static async open(checkpoint: Checkpoint, options: FitOptions, progress: FitMeter): Promise<FitBench> {
    const { text, signal, maxTokens = DEFAULT_MAX_TOKENS, kvCache = "f32" } = options;
    const { config } = checkpoint;
    const contextLength = resolveContextLength(options.contextLength, config);
    const tokens = tokensOf("text", text, createTokenizer(checkpoint.tokenizerFiles, config), config.vocabSize).slice(0, maxTokens);
    const windowTokens = options.windowTokens ?? Math.min(DEFAULT_WINDOW_TOKENS, contextLength, Math.max(2, tokens.length));
    const plan = planWindows(tokens.length, { protocol: "disjoint", windowTokens }, contextLength);
    const openFloats = async (): Promise<Floats> => {
      const choice = await chooseBackend(options, config);
      const backendOptions = { config, contextLength, kvCache };
      try {
        const loading = new ProgressMeter(({ fraction }) => progress.loading(0.5 + fraction / 2));
        const { backend: base } = await build(await createBuilderBeside(choice, backendOptions), (builder) => quantizeInto(builder, unprepared(checkpoint), presets.f32, { progress: loading, quantizer: options.quantizer, signal }), signal);
        return { choice, backendOptions: { ...backendOptions, base } };
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

  /** Mean KL divergence of a model that differs from the f32 one in what `fill` adds, nats per token. */
  async measure(stage: "sensitivity" | "recipes", name: string, fill: (builder: BackendBuilder) => Promise<void>): Promise<number> {
    const { openFloats, tokens, plan, progress, losses, signal } = this.parts;
    progress.measuring(stage, name);
    return losses.retry(async () => {
      const { choice, backendOptions } = (this.floats ??= await openFloats());
      let candidate: Backend | null = null;
      try {
        candidate = (await build(await createBuilderBeside(choice, backendOptions), fill, signal)).backend;
        return measuresOf(await sampleRow(candidate, backendOptions.base, tokens, plan, { signal }), null).klDivergence.mean;
      } catch (error) {
        if (losses.mayRetry(error)) this.dispose();
        throw error;
      } finally {
        candidate?.dispose();
      }
    });
  }

  measureRecipe(recipe: QuantizationRecipe): Promise<number> {
    const { checkpoint, signal } = this.parts;
    return this.measure("recipes", recipe.name!, async (builder) => {
      for await (const { tensor, values } of checkpoint.read({ signal })) {
        if (isMatrix(tensor)) await builder.add(tensor, packFor(builder.layout, quantizeNamed(tensor, values, formatOf(recipe, tensor.name, tensor.kind))));
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
