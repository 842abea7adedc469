import { openCheckpoint } from "../checkpoint/openCheckpoint.ts";
import type { Checkpoint, CheckpointTensor } from "../checkpoint/types.ts";
import { measureRow } from "../evaluate/comparison.ts";
import { planWindows, type WindowPlan } from "../evaluate/protocols.ts";
import { checkTokens } from "../generate/options.ts";
import type { Backend, BackendBuilder, BackendOptions } from "../model/backend.ts";
import { Pacer } from "../model/cpu/pacer.ts";
import { type Allocation, allocationFrontier, allocationOf, cheapestWithin, neighbours } from "../quantize/allocate.ts";
import { describeFormat, storedBytes, validateTensorFormat } from "../quantize/formats.ts";
import { dequantizeTensor } from "../quantize/nearest.ts";
import { formatOf, presets } from "../quantize/recipes.ts";
import { materialize } from "../source/materialize.ts";
import { openSource } from "../source/openSource.ts";
import { createTokenizer } from "../tokenizer/index.ts";
import type { BudgetFit, FitOptions, FitPoint, FitProgress, ModelSource, QuantizationRecipe, TensorFormat, TensorSensitivity } from "../types.ts";
import { type BackendChoice, chooseBackend, createBuilderBeside } from "./openBackend.ts";
import { checkLoadOptions, resolveContextLength } from "./options.ts";
import { ProgressMeter } from "./progress.ts";
import { quantizeInto, quantizeNamed } from "./quantizeInto.ts";

const int8Channel: TensorFormat = { type: "int8", mode: "absmax", granularity: "channel" };
const defaultFormats: readonly TensorFormat[] = [
  { type: "f16" },
  int8Channel,
  { type: "int4", mode: "zeropoint", granularity: { group: 32 } },
  { type: "nf4", block: 32, doubleQuantization: true },
  { type: "nf4", block: 64, doubleQuantization: true },
  { type: "nf4", block: 128, doubleQuantization: true },
];
const DEFAULT_MAX_TOKENS = 512;
const DEFAULT_WINDOW_TOKENS = 256;

/** Points of the frontier that are reported, and how many of them are measured. */
const FRONTIER_POINTS = 16;
const MEASURED_POINTS = 4;
const DEFAULT_REFINEMENTS = 8;

/** Of the progress bar, what loading takes. */
const LOAD_SHARE = 0.05;

/** One matrix in one format, all others being f32. */
interface Candidate extends TensorSensitivity {
  /** What the budget counts of `bytes`. */
  budgetBytes: number;
}

/** A matrix and what it may be stored as. */
interface Item {
  tensor: CheckpointTensor;
  formats: readonly TensorFormat[];
}

/**
 * Finds the recipe of least KL divergence from the f32 model within a budget of bytes, with a format for every matrix.
 * It measures each matrix in each format while the others stay f32, adds the divergences up to find the best allocations of every size, then measures
 * the best of them, their neighbours and the uniform recipes that fit, and gives the best measured: never worse, on this text, than a uniform recipe.
 * The same options on the same adapter give the same recipe. The KV cache is f32 unless named.
 * @throws TypeError or RangeError for wrong options and a budget below the smallest recipe; EngineError as loadModel; signal.reason on abort. It frees everything.
 */
export async function fitToBudget(source: ModelSource, options: FitOptions): Promise<BudgetFit> {
  const { signal, hub, fetch } = options;
  signal?.throwIfAborted();
  checkLoadOptions(options);
  const formats = checkFitOptions(options);
  const progress = new FitMeter(options.onProgress);
  const onBytes = ({ loadedBytes, totalBytes }: { loadedBytes: number; totalBytes: number | null }): void => progress.loading(loadedBytes / (totalBytes ?? Infinity) / 2);
  const local = await materialize(openSource(source, { hub, fetch, signal }), { signal, onBytes });
  const checkpoint = await openCheckpoint(local, { signal });
  const items = itemsOf(checkpoint, formats, options);
  const budget = new Budget(checkpoint, items, options);
  budget.require(items.map(({ tensor, formats }) => formats.map((format) => ({ bytes: budget.counted(tensor, storedBytes(format, tensor.shape)), cost: 0 })))); // before any work
  const bench = await Bench.open(checkpoint, options, progress);
  try {
    const { refinements = DEFAULT_REFINEMENTS } = options;
    progress.plan(items.reduce((sum, { formats }) => sum + formats.length, 0) + 2 * formats.length + MEASURED_POINTS + refinements + 1);
    const candidates = await measureSensitivity(checkpoint, items, budget, bench, options);
    const fit = await new Search(candidates, budget, bench).run(refinements);
    progress.end();
    return fit;
  } finally {
    bench.dispose();
  }
}

/** @returns the formats to choose from, each once */
function checkFitOptions({ bytes, bitsPerWeight, formats = defaultFormats, embedding, maxTokens, refinements = DEFAULT_REFINEMENTS }: FitOptions): TensorFormat[] {
  if ((bytes === undefined) === (bitsPerWeight === undefined)) throw new TypeError(`bytes is ${bytes} and bitsPerWeight is ${bitsPerWeight}; expected one of them.`);
  const [name, limit] = bytes === undefined ? ["bitsPerWeight", bitsPerWeight] : ["bytes", bytes];
  if (typeof limit !== "number") throw new TypeError(`${name} is ${typeof limit}; expected a number.`);
  if (!(limit > 0)) throw new RangeError(`${name} is ${limit}; expected a number above 0.`);
  if (maxTokens !== undefined && !(Number.isInteger(maxTokens) && maxTokens >= 2)) throw new RangeError(`maxTokens is ${maxTokens}; expected an integer of at least 2.`);
  if (!(Number.isInteger(refinements) && refinements >= 0)) throw new RangeError(`refinements is ${refinements}; expected an integer of at least 0.`);
  if (!Array.isArray(formats) || formats.length === 0) throw new TypeError("formats is not an array of formats; expected at least one.");
  formats.forEach((format, i) => validateTensorFormat(format, `formats[${i}]`));
  if (embedding !== undefined) validateTensorFormat(embedding, "embedding");
  return [...new Map((formats as readonly TensorFormat[]).map((format) => [describeFormat(format), format])).values()];
}

function itemsOf(checkpoint: Checkpoint, formats: readonly TensorFormat[], { bytes, embedding = bytes === undefined ? int8Channel : undefined }: FitOptions): Item[] {
  const matrices = checkpoint.tensors.filter(({ kind }) => kind === "linear" || kind === "embedding");
  return matrices.map((tensor) => ({ tensor, formats: tensor.kind === "embedding" && embedding ? [embedding] : formats }));
}

/** What counts, and how much of it there may be: bytes of the whole model, or of the blocks' matrices. */
class Budget {
  readonly limitBytes: number;
  readonly linearWeights: number;
  /** Of what no recipe changes: position embedding, biases, norms. */
  readonly fixedBytes: number;

  constructor(
    checkpoint: Checkpoint,
    readonly items: readonly Item[],
    private readonly options: FitOptions,
  ) {
    const count = (tensors: readonly CheckpointTensor[]): number => tensors.reduce((sum, { shape }) => sum + shape[0] * shape[1], 0);
    this.linearWeights = count(checkpoint.tensors.filter(({ kind }) => kind === "linear"));
    this.fixedBytes = 4 * count(checkpoint.tensors.filter(({ kind }) => kind === "position" || kind === "vector"));
    const ofBits = (bitsPerWeight: number): number => Math.floor((bitsPerWeight * this.linearWeights) / 8 + 0.001); // what a recipe was reported to take must fit
    this.limitBytes = options.bytes === undefined ? ofBits(options.bitsPerWeight!) : options.bytes - this.fixedBytes;
  }

  /** Of a matrix that takes so many bytes. */
  counted({ kind }: CheckpointTensor, bytes: number): number {
    return kind === "linear" || this.options.bytes !== undefined ? bytes : 0;
  }

  /** @throws RangeError where not even the smallest choices fit */
  require(choices: readonly (readonly { bytes: number; cost: number }[])[]): void {
    const smallest = choices.reduce((sum, some) => sum + Math.min(...some.map(({ bytes }) => bytes)), 0);
    if (smallest <= this.limitBytes) return;
    const { bytes, bitsPerWeight } = this.options;
    if (bytes === undefined) throw new RangeError(`bitsPerWeight is ${bitsPerWeight}; with these formats the smallest is ${(8 * smallest) / this.linearWeights}.`);
    throw new RangeError(`bytes is ${bytes}; with these formats the smallest model takes ${smallest + this.fixedBytes}.`);
  }
}

interface BenchParts {
  checkpoint: Checkpoint;
  choice: BackendChoice;
  /** Of the candidates: the f32 model is their base. */
  backendOptions: BackendOptions & { base: Backend };
  tokens: readonly number[];
  plan: WindowPlan;
  progress: FitMeter;
  signal: AbortSignal | undefined;
}

/** The f32 model, and on the same device one candidate at a time to compare with it. */
class Bench {
  private constructor(private readonly parts: BenchParts) {}

  static async open(checkpoint: Checkpoint, options: FitOptions, progress: FitMeter): Promise<Bench> {
    const { text, signal, maxTokens = DEFAULT_MAX_TOKENS, kvCache = "f32" } = options;
    const { config } = checkpoint;
    const contextLength = resolveContextLength(options.contextLength, config);
    const tokens = (typeof text === "string" ? createTokenizer(checkpoint.tokenizerFiles, config).encode(text) : text).slice(0, maxTokens);
    checkTokens("text", tokens, config.vocabSize);
    const windowTokens = options.windowTokens ?? Math.min(DEFAULT_WINDOW_TOKENS, contextLength, Math.max(2, tokens.length));
    const plan = planWindows(tokens.length, { protocol: "disjoint", windowTokens }, contextLength);
    const choice = await chooseBackend(options, config);
    const backendOptions = { config, contextLength, kvCache };
    try {
      const loading = new ProgressMeter(({ fraction }) => progress.loading(0.5 + fraction / 2));
      const base = await build(await createBuilderBeside(choice, backendOptions), (builder) => quantizeInto(builder, checkpoint, presets.f32, loading, signal), signal);
      return new Bench({ checkpoint, choice, backendOptions: { ...backendOptions, base }, tokens, plan, progress, signal });
    } catch (error) {
      disposeChoice(choice);
      throw error;
    }
  }

  /** Of each measurement. */
  get scoredTokens(): number {
    return this.parts.plan.scoredTokens;
  }

  /** Mean KL divergence of a model that differs from the f32 one in what `fill` adds, nats per token. */
  async measure(stage: "sensitivity" | "recipes", name: string, fill: (builder: BackendBuilder) => Promise<void>): Promise<number> {
    const { choice, backendOptions, tokens, plan, progress, signal } = this.parts;
    progress.measuring(stage, name);
    const candidate = await build(await createBuilderBeside(choice, backendOptions), fill, signal);
    try {
      return (await measureRow(candidate, backendOptions.base, tokens, plan, { signal })).klDivergence.mean;
    } finally {
      candidate.dispose();
    }
  }

  measureRecipe(recipe: QuantizationRecipe): Promise<number> {
    const { checkpoint, signal } = this.parts;
    return this.measure("recipes", recipe.name!, async (builder) => {
      for await (const { tensor, values } of checkpoint.read({ signal })) {
        const { name, kind } = tensor;
        if (kind === "linear" || kind === "embedding") await builder.add(tensor, quantizeNamed(tensor, values, formatOf(recipe, name, kind)));
      }
    });
  }

  /** One of the planned measurements is done, or not needed. */
  advance(): void {
    this.parts.progress.measured();
  }

  dispose(): void {
    this.parts.backendOptions.base.dispose();
    disposeChoice(this.parts.choice);
  }
}

function disposeChoice(choice: BackendChoice): void {
  if (choice.kind === "webgpu") choice.gpu.dispose();
}

async function build(builder: BackendBuilder, fill: (builder: BackendBuilder) => Promise<unknown>, signal: AbortSignal | undefined): Promise<Backend> {
  try {
    await fill(builder);
    return await builder.finish(signal);
  } catch (error) {
    builder.abandon();
    throw error;
  }
}

/** One pass over the checkpoint, each matrix in each of its formats; the result is in the order of the items. */
async function measureSensitivity(checkpoint: Checkpoint, items: readonly Item[], budget: Budget, bench: Bench, { signal, sensitivity = [] }: FitOptions): Promise<Candidate[][]> {
  const known = new Map(sensitivity.map((one) => [`${one.tensor} ${describeFormat(one.format)}`, one]));
  const found = new Map<string, Candidate[]>();
  const pacer = new Pacer();
  for await (const { tensor, values } of checkpoint.read({ signal })) {
    const item = items.find(({ tensor: { name } }) => name === tensor.name);
    if (!item) continue;
    const candidates: Candidate[] = [];
    for (const format of item.formats) {
      const { bytes, klDivergence } = known.get(`${tensor.name} ${describeFormat(format)}`) ?? (await measureOne(tensor, values, format, bench));
      candidates.push({ tensor: tensor.name, format, bytes, klDivergence, budgetBytes: budget.counted(tensor, bytes) });
      bench.advance();
      if (pacer.isDue()) await pacer.rest(signal);
    }
    found.set(tensor.name, candidates);
  }
  return items.map(({ tensor }) => found.get(tensor.name)!);
}

async function measureOne(tensor: CheckpointTensor, values: Float32Array, format: TensorFormat, bench: Bench): Promise<Pick<TensorSensitivity, "bytes" | "klDivergence">> {
  const quantized = quantizeNamed(tensor, values, format);
  const restored = dequantizeTensor(quantized);
  const isExact = restored.every((value, i) => value === values[i]); // f32, and f16 where the checkpoint is
  const klDivergence = isExact ? 0 : await bench.measure("sensitivity", tensor.name, (builder) => builder.add(tensor, quantized));
  return { bytes: quantized.storedBytes, klDivergence };
}

/** From sensitivities to the best measured recipe. */
class Search {
  private readonly choices: { bytes: number; cost: number }[][];
  /** By their picks. */
  private readonly measured = new Map<string, { allocation: Allocation; klDivergence: number }>();

  constructor(
    private readonly candidates: readonly (readonly Candidate[])[],
    private readonly budget: Budget,
    private readonly bench: Bench,
  ) {
    this.choices = candidates.map((some) => some.map(({ budgetBytes, klDivergence }) => ({ bytes: budgetBytes, cost: klDivergence })));
  }

  async run(refinements: number): Promise<BudgetFit> {
    const { budget, choices } = this;
    budget.require(choices);
    const frontier = allocationFrontier(choices);
    await this.measure(cheapestWithin(choices, frontier, budget.limitBytes)!);
    const uniform = this.uniformAllocations().filter(({ bytes }) => bytes <= budget.limitBytes);
    for (const allocation of uniform) await this.measure(allocation);
    const shown = evenly(frontier, FRONTIER_POINTS);
    for (const allocation of evenly(shown, MEASURED_POINTS)) await this.measure(allocation);
    for (let i = 0; i < refinements; i++) {
      const next = neighbours(choices, this.best().allocation, budget.limitBytes, refinements + 1).find(({ picks }) => !this.measured.has(picks.join()));
      if (!next) break;
      await this.measure(next);
    }
    const best = this.best();
    return {
      ...this.pointOf(best.allocation),
      klDivergence: best.klDivergence,
      frontier: shown.map((allocation) => this.pointOf(allocation)),
      uniform: uniform.map((allocation) => this.pointOf(allocation)),
      sensitivity: this.candidates.flat().map(({ tensor, format, bytes, klDivergence }) => ({ tensor, format, bytes, klDivergence })),
      scoredTokens: this.bench.scoredTokens,
    };
  }

  private async measure(allocation: Allocation): Promise<void> {
    const key = allocation.picks.join();
    if (this.measured.has(key)) return;
    this.measured.set(key, { allocation, klDivergence: await this.bench.measureRecipe(this.pointOf(allocation).recipe) });
    this.bench.advance();
  }

  /** Of what was measured within the budget; the smaller where two are equal. */
  private best(): { allocation: Allocation; klDivergence: number } {
    const within = [...this.measured.values()].filter(({ allocation }) => allocation.bytes <= this.budget.limitBytes);
    return within.reduce((best, other) => (other.klDivergence < best.klDivergence || (other.klDivergence === best.klDivergence && other.allocation.bytes < best.allocation.bytes) ? other : best));
  }

  /** Each format everywhere, and in the blocks beside an int8 embedding. A matrix with a single choice keeps it. */
  private uniformAllocations(): Allocation[] {
    const { items } = this.budget;
    const indexOf = (formats: readonly TensorFormat[], format: TensorFormat): number => (formats.length === 1 ? 0 : formats.findIndex((other) => describeFormat(other) === describeFormat(format)));
    const picks = items
      .find(({ tensor }) => tensor.kind === "linear")!
      .formats.flatMap((format) => [format, int8Channel].map((embedding) => items.map(({ tensor, formats }) => indexOf(formats, tensor.kind === "linear" ? format : embedding))))
      .filter((indices) => !indices.includes(-1)); // no int8 among the formats
    return [...new Map(picks.map((indices) => [indices.join(), allocationOf(this.choices, Uint8Array.from(indices))])).values()];
  }

  private pointOf({ picks, cost }: Allocation): FitPoint {
    const { items, fixedBytes, linearWeights } = this.budget;
    const chosen = items.map(({ tensor: { name, kind, shape } }, i) => ({ ...this.candidates[i]![picks[i]!]!, name, kind, weights: shape[0] * shape[1] }));
    const linears = chosen.filter(({ kind }) => kind === "linear");
    const linear = commonestFormat(linears);
    const embedding = commonestFormat(chosen.filter(({ kind }) => kind === "embedding"));
    const overrides = chosen.filter(({ kind, format }) => describeFormat(format) !== describeFormat(kind === "linear" ? linear : embedding)).map(({ name, format }) => [name, format] as const);
    const sum = (some: readonly Candidate[]): number => some.reduce((total, { bytes }) => total + bytes, 0);
    const bytes = sum(chosen) + fixedBytes;
    const isUniform = overrides.length === 0;
    return {
      recipe: { name: isUniform ? `${describeFormat(linear)}; embedding ${describeFormat(embedding)}` : `mixed, ${bytes} bytes`, linear, embedding, ...(isUniform ? {} : { overrides: Object.fromEntries(overrides) }) },
      bytes,
      bitsPerWeight: (8 * sum(linears)) / linearWeights,
      predictedKlDivergence: cost,
      klDivergence: this.measured.get(picks.join())?.klDivergence ?? null,
    };
  }
}

/** The one that holds most weights. */
function commonestFormat(matrices: readonly { format: TensorFormat; weights: number }[]): TensorFormat {
  const weights = new Map<string, number>();
  for (const { format, weights: count } of matrices) weights.set(describeFormat(format), (weights.get(describeFormat(format)) ?? 0) + count);
  const most = Math.max(...weights.values());
  return matrices.find(({ format }) => weights.get(describeFormat(format)) === most)!.format;
}

/** `count` of the values, the first and the last among them. */
function evenly<T>(values: readonly T[], count: number): T[] {
  if (values.length <= count) return [...values];
  return Array.from({ length: count }, (_, i) => values[Math.round((i * (values.length - 1)) / (count - 1))]!);
}

/** Progress whose fraction never falls. */
class FitMeter {
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
