import type { Checkpoint, CheckpointTensor } from "../checkpoint/types.ts";
import { type Allocation, allocationFrontier, allocationOf, cheapestWithin, neighbours } from "../quantize/allocate.ts";
import { describeFormat } from "../quantize/formats.ts";
import type { BudgetFit, FitOptions, FitPoint, TensorFormat, TensorSensitivity } from "../types.ts";
import type { FitBench } from "./fitBench.ts";

export const int8Channel: TensorFormat = { type: "int8", mode: "absmax", granularity: "channel" };

/** Points of the frontier that are reported, and how many of them are measured. */
const FRONTIER_POINTS = 16;
export const MEASURED_POINTS = 4;

/** One matrix in one format, all others being f32. */
export interface Candidate extends TensorSensitivity {
  /** What the budget counts of `bytes`. */
  budgetBytes: number;
}

/** A matrix and what it may be stored as. */
export interface Item {
  tensor: CheckpointTensor;
  formats: readonly TensorFormat[];
}

/** What counts, and how much of it there may be: bytes of the whole model, or of the blocks' matrices. */
export class Budget {
  readonly limitBytes: number;
  readonly linearWeights: number;
  /** Of what no recipe changes: position embedding, biases, norms. */
  readonly fixedBytes: number;

  constructor(
    checkpoint: Checkpoint,
    readonly items: readonly Item[],
    readonly options: FitOptions,
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
    if (bytes === undefined) throw new RangeError(`bitsPerWeight is ${bitsPerWeight}; expected at least ${(8 * smallest) / this.linearWeights}, the smallest with these formats.`);
    throw new RangeError(`bytes is ${bytes}; expected at least ${smallest + this.fixedBytes}, the smallest model with these formats.`);
  }
}

/** From sensitivities to the best measured recipe. */
export class FitSearch {
  private readonly choices: { bytes: number; cost: number }[][];
  /** By their picks. */
  private readonly measured = new Map<string, { allocation: Allocation; klDivergence: number }>();

  constructor(
    private readonly candidates: readonly (readonly Candidate[])[],
    private readonly budget: Budget,
    private readonly bench: FitBench,
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
    const { items, fixedBytes, linearWeights, options: { rounding } } = this.budget;
    const chosen = items.map(({ tensor: { name, kind, shape } }, i) => ({ ...this.candidates[i]![picks[i]!]!, name, kind, weights: shape[0] * shape[1] }));
    const linears = chosen.filter(({ kind }) => kind === "linear");
    const linear = commonestFormat(linears);
    const embedding = commonestFormat(chosen.filter(({ kind }) => kind === "embedding"));
    const overrides = chosen.filter(({ kind, format }) => describeFormat(format) !== describeFormat(kind === "linear" ? linear : embedding)).map(({ name, format }) => [name, format] as const);
    const sum = (some: readonly Candidate[]): number => some.reduce((total, { bytes }) => total + bytes, 0);
    const bytes = sum(chosen) + fixedBytes;
    const isUniform = overrides.length === 0;
    return {
      recipe: { name: isUniform ? `${describeFormat(linear)}; embedding ${describeFormat(embedding)}` : `mixed, ${bytes} bytes`, linear, embedding, ...(isUniform ? {} : { overrides: Object.fromEntries(overrides) }), ...(rounding && { rounding }) },
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
