import { isMatrix } from "../checkpoint/gpt2Weights.ts";
import { show } from "../errors.ts";
import type { Checkpoint, CheckpointTensor } from "../checkpoint/types.ts";
import { Pacer } from "../model/cpu/pacer.ts";
import { describeFormat, isRecord, oneOf, storedBytes, validateTensorFormat } from "../quantize/formats.ts";
import { dequantizeTensor } from "../quantize/nearest.ts";
import { materialize } from "../source/materialize.ts";
import { openSource } from "../source/openSource.ts";
import type { BudgetFit, FitOptions, ModelSource, TensorFormat, TensorSensitivity } from "../types.ts";
import { FitBench, FitMeter } from "./fitBench.ts";
import { Budget, type Candidate, FitSearch, int8Channel, type Item, MEASURED_POINTS } from "./fitSearch.ts";
import { openVerified } from "./openVerified.ts";
import { checkLoadOptions } from "./options.ts";

const defaultFormats: readonly TensorFormat[] = [
  { type: "f16" },
  { type: "int8", mode: "zeropoint", granularity: { group: 32 } },
  { type: "int8", mode: "zeropoint", granularity: { group: 128 } },
  { type: "int8", mode: "zeropoint", granularity: "channel" },
  int8Channel,
  { type: "int4", mode: "zeropoint", granularity: { group: 32 } },
  { type: "nf4", block: 32, doubleQuantization: true },
  { type: "nf4", block: 64, doubleQuantization: true },
];

const DEFAULT_REFINEMENTS = 8;

/**
 * Finds the recipe of least KL divergence from the f32 model within a budget of bytes, with a format for every matrix.
 * It measures each matrix in each format while the others stay f32, adds the divergences up to find the best allocations of every size, then measures
 * the best of them, their neighbours and the uniform recipes that fit, and gives the best measured: never worse, on this text, than a uniform recipe.
 * The same options on the same adapter give the same recipe. The KV cache is f32 unless named.
 * @throws TypeError or RangeError for wrong options and a budget below the smallest recipe; EngineError as loadModel; signal.reason on abort. It frees everything.
 */
export async function fitToBudget(source: ModelSource, options: FitOptions): Promise<BudgetFit> {
  const { signal, hub, fetch, integrity } = options;
  checkLoadOptions(options);
  signal?.throwIfAborted();
  const formats = checkFitOptions(options);
  const progress = new FitMeter(options.onProgress);
  const onBytes = ({ loadedBytes, totalBytes }: { loadedBytes: number; totalBytes: number | null }): void => progress.loading(loadedBytes / (totalBytes ?? Infinity) / 2);
  const checkpoint = await openVerified(openSource(source, { hub, fetch, signal }), { signal, integrity, download: (source) => materialize(source, { signal, onBytes }) });
  const items = itemsOf(checkpoint, formats, options);
  const budget = new Budget(checkpoint, items, options);
  budget.require(items.map(({ tensor, formats }) => formats.map((format) => ({ bytes: budget.counted(tensor, storedBytes(format, tensor.shape)), cost: 0 })))); // before any work
  const bench = await FitBench.open(checkpoint, options, progress);
  try {
    const { refinements = DEFAULT_REFINEMENTS } = options;
    progress.plan(items.reduce((sum, { formats }) => sum + formats.length, 0) + 2 * formats.length + MEASURED_POINTS + refinements + 1);
    const candidates = await measureSensitivity(checkpoint, items, budget, bench, options);
    const fit = await new FitSearch(candidates, budget, bench).run(refinements);
    progress.end();
    return fit;
  } finally {
    bench.dispose();
  }
}

/** @returns the formats to choose from, each once */
function checkFitOptions({ bytes, bitsPerWeight, formats = defaultFormats, embedding, maxTokens, refinements = DEFAULT_REFINEMENTS, rounding, sensitivity = [] }: FitOptions): TensorFormat[] {
  if ((bytes === undefined) === (bitsPerWeight === undefined)) throw new TypeError(`bytes is ${show(bytes)} and bitsPerWeight is ${show(bitsPerWeight)}; expected one of them.`);
  const [name, limit] = bytes === undefined ? ["bitsPerWeight", bitsPerWeight] : ["bytes", bytes];
  if (typeof limit !== "number") throw new TypeError(`${name} is ${show(limit)}; expected a number.`);
  if (!(limit > 0)) throw new RangeError(`${name} is ${limit}; expected a number above 0.`);
  if (maxTokens !== undefined && !(Number.isInteger(maxTokens) && maxTokens >= 2)) throw new RangeError(`maxTokens is ${show(maxTokens)}; expected an integer of at least 2.`);
  if (!(Number.isInteger(refinements) && refinements >= 0)) throw new RangeError(`refinements is ${show(refinements)}; expected an integer of at least 0.`);
  if (!Array.isArray(formats) || formats.length === 0) throw new TypeError(`formats is ${show(formats)}; expected an array of at least one format.`);
  for (const [i, format] of formats.entries()) validateTensorFormat(format, `formats[${i}]`);
  if (embedding !== undefined) validateTensorFormat(embedding, "embedding");
  if (rounding !== undefined) oneOf(rounding, ["nearest", "gptq"], "rounding");
  if (!Array.isArray(sensitivity)) throw new TypeError(`sensitivity is ${show(sensitivity)}; expected an array, as an earlier fit gives it.`);
  for (const [i, one] of (sensitivity as readonly unknown[]).entries()) {
    if (!isRecord(one) || typeof one.tensor !== "string" || typeof one.klDivergence !== "number") throw new TypeError(`sensitivity[${i}] is ${show(one)}; expected { tensor, format, bytes, klDivergence }.`);
    validateTensorFormat(one.format, `sensitivity[${i}].format`);
  }
  return [...new Map((formats as readonly TensorFormat[]).map((format) => [describeFormat(format), format])).values()];
}

function itemsOf(checkpoint: Checkpoint, formats: readonly TensorFormat[], { bytes, embedding = bytes === undefined ? int8Channel : undefined }: FitOptions): Item[] {
  const matrices = checkpoint.tensors.filter(isMatrix);
  return matrices.map((tensor) => ({ tensor, formats: tensor.kind === "embedding" && embedding ? [embedding] : formats }));
}

/** One pass over the checkpoint, each matrix in each of its formats; the result is in the order of the items. */
async function measureSensitivity(checkpoint: Checkpoint, items: readonly Item[], budget: Budget, bench: FitBench, { signal, sensitivity = [] }: FitOptions): Promise<Candidate[][]> {
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

async function measureOne(tensor: CheckpointTensor, values: Float32Array, format: TensorFormat, bench: FitBench): Promise<Pick<TensorSensitivity, "bytes" | "klDivergence">> {
  const quantized = await bench.quantize(tensor, values, format);
  const restored = dequantizeTensor(quantized);
  const isExact = restored.every((value, i) => value === values[i]); // f32, and f16 where the checkpoint is
  const klDivergence = isExact ? 0 : await bench.measureTensor(tensor, quantized);
  return { bytes: quantized.storedBytes, klDivergence };
}
