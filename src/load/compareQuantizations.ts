import { isMatrix } from "../checkpoint/gpt2Weights.ts";
import type { Checkpoint } from "../checkpoint/types.ts";
import { EngineError, show } from "../errors.ts";
import { emptyRow, measuresOf, sampleRow } from "../evaluate/comparison.ts";
import { scoredBytes as countScoredBytes, tokenByteLengths } from "../evaluate/perplexity.ts";
import { planWindows, shardOf } from "../evaluate/protocols.ts";
import { tokensOf } from "../generate/options.ts";
import type { Backend } from "../model/backend.ts";
import { requireMatches, resolveRecipe } from "../quantize/recipes.ts";
import { materialize } from "../source/materialize.ts";
import { openSource } from "../source/openSource.ts";
import type { CompareOptions, Comparison, ComparisonRow, ComparisonRun, CompareProgress, ModelSource, PresetName, QuantizationRecipe, QuantizationReport } from "../types.ts";
import { Calibration, calibrationWindows, type FloatModel, observable, openFloat } from "./calibration.ts";
import { hashedWhileRead, identifyTokens } from "./identity.ts";
import { build, chooseBackend, createBuilderBeside, disposeChoice } from "./openBackend.ts";
import { openVerified } from "./openVerified.ts";
import { activationsOf, checkLoadOptions, requireCalibration, resolveContextLength, resolveKvCache } from "./options.ts";
import { quantizeCalibrated } from "./prepare.ts";
import { ProgressMeter } from "./progress.ts";
import { readTokenizer } from "./readTokenizer.ts";
import { LossCounter } from "./recovery.ts";
import { ENGINE_VERSION } from "./version.ts";

/** Of a row's progress bar, what loading takes. */
const LOAD_SHARE = 0.2;
/** Enough to time, little enough not to matter beside the scoring. */
const TIMED_PREFILL_TOKENS = 128;
const TIMED_DECODE_TOKENS = 4;

/** Of the text, what shows the share of LLM.int8()'s outliers where no calibration does. */
const OUTLIER_TOKENS = 2048;

/** Of loading the first row, what the download takes. */
const DOWNLOAD_SHARE = 0.5;

interface Entry {
  name: string;
  recipe: QuantizationRecipe;
}

interface Loaded {
  backend: Backend;
  report: QuantizationReport;
}

/** A device with the baseline on it, and room for one more. */
interface Bench {
  baseline: Loaded;
  open(recipe: QuantizationRecipe, progress: ProgressMeter): Promise<Loaded>;
  dispose(): void;
}

/**
 * Measures one checkpoint under several recipes on the same tokens, one row after the other, the baseline first.
 * The checkpoint is downloaded once. Baseline and candidate are resident together, so that distributions are compared without storing logits.
 * A recipe that cannot run gives a row with `error`; a baseline that cannot run ends the comparison. When the device is lost, unless the caller brought
 * it, the baseline is loaded again on another, and the row at work starts again.
 * @throws TypeError or RangeError for wrong options; EngineError as loadModel; signal.reason on abort. Leaving the loop frees everything.
 */
export async function* compareQuantizations(source: ModelSource, options: CompareOptions): AsyncGenerator<ComparisonRow, Comparison> {
  checkLoadOptions(options);
  const { signal, hub, fetch, integrity, beforeWindow, shard = null, samples: keepsSamples = shard !== null } = options;
  signal?.throwIfAborted();
  const entries = namedEntries(options);
  for (const { recipe } of entries) requireCalibration(recipe, options.calibration);
  const meter = new CompareMeter(entries, options.onProgress);
  const onBytes = ({ loadedBytes, totalBytes }: { loadedBytes: number; totalBytes: number | null }): void => meter.report({ fraction: (LOAD_SHARE * DOWNLOAD_SHARE * loadedBytes) / (totalBytes ?? Infinity) });
  const checkpoint = await openVerified(openSource(source, { hub, fetch, signal }), { signal, integrity, download: (source) => materialize(source, { signal, onBytes }) });
  const { config } = checkpoint;
  const matrices = checkpoint.tensors.filter(isMatrix).map(({ name }) => name);
  for (const { name, recipe } of entries) namingRecipe(name, () => requireMatches(recipe, matrices));
  const contextLength = resolveContextLength(options.contextLength, config);
  const tokenizer = await readTokenizer(checkpoint.tokenizerFiles, config, signal);
  const tokens = tokensOf("text", options.text, tokenizer, config.vocabSize);
  const whole = planWindows(tokens.length, options, contextLength);
  const plan = shard ? shardOf(whole, shard) : whole;
  const scoredBytes = typeof options.text === "string" ? countScoredBytes(plan, tokenByteLengths(tokens, tokenizer)) : null;
  const hashed = hashedWhileRead(checkpoint);

  const calibrationTokens = options.calibration === undefined ? null : tokensOf("calibration", options.calibration, tokenizer, config.vocabSize);
  const observed = calibrationWindows(calibrationTokens ? "calibration" : "text", calibrationTokens ?? tokens.slice(0, OUTLIER_TOKENS), contextLength);

  const openBench = async (loading: ProgressMeter): Promise<Bench> => {
    const choice = await chooseBackend(options, config);
    /** The baseline where its inputs are the checkpoint's, so that the tokens need no model of their own. */
    let floatModel: FloatModel | null = null;
    const openModel = async (floats: Checkpoint, progress: ProgressMeter): Promise<FloatModel> => openFloat(await createBuilderBeside(choice, { config, contextLength, kvCache: "f32" }), floats, progress, signal);
    const observation = new Calibration(async (progress) => floatModel ?? openModel(checkpoint, progress), observed, signal);
    const open = async (recipe: QuantizationRecipe, progress: ProgressMeter): Promise<Loaded> => {
      const builder = await createBuilderBeside(choice, { config, contextLength, kvCache: resolveKvCache(options.kvCache, recipe), ...activationsOf(recipe), notices: calibrationTokens ? observed.notices : [] });
      const calibration = calibrationTokens || floatModel ? observation : null; // of the text itself only where that loads no other model
      const read = hashed.sha256() === null ? hashed.checkpoint : checkpoint;
      const { filled: report, backend } = await build(builder, () => quantizeCalibrated(builder, read, recipe, { calibration, reportsOnly: !calibrationTokens, openModel, progress, quantizer: options.quantizer, signal }), signal);
      return { report, backend };
    };
    try {
      const baseline = await open(entries[0]!.recipe, loading);
      floatModel = observable(baseline, checkpoint);
      return { baseline, open, dispose: () => (baseline.backend.dispose(), disposeChoice(choice)) };
    } catch (error) {
      disposeChoice(choice);
      throw error;
    }
  };

  let bench = null as Bench | null; // measure() changes it
  const losses = new LossCounter(options);
  const measure = async (row: number): Promise<ComparisonRow> => {
    const { name, recipe } = entries[row]!;
    const progress = new ProgressMeter(({ fraction }) => meter.report({ fraction: LOAD_SHARE * fraction }));
    bench ??= await openBench(row === 0 ? progress : new ProgressMeter(undefined));
    const { baseline } = bench;
    let candidate: Loaded | null = null;
    try {
      const { backend, report } = row === 0 ? baseline : (candidate = await bench.open(recipe, progress));
      const samples = await sampleRow(backend, candidate && baseline.backend, tokens, plan, {
        signal,
        beforeWindow,
        onProgress: ({ scoredTokens, totalTokens, perplexity }) =>
          meter.report({ stage: "score", scoredTokens, perplexity, fraction: LOAD_SHARE + ((1 - LOAD_SHARE) * scoredTokens) / totalTokens }),
      });
      const speed = await measureSpeed(backend, tokens.slice(0, Math.max(0, Math.min(TIMED_PREFILL_TOKENS, contextLength - TIMED_DECODE_TOKENS - 1))), signal);
      const { bytes, bitsPerWeight, quantizeMs, tensors } = report;
      return { name, recipe, bytes, bitsPerWeight, ...measuresOf(samples, scoredBytes), quantizeMs, ...speed, tensors, ...(keepsSamples ? { samples } : {}) };
    } catch (error) {
      if (losses.mayRetry(error)) {
        bench.dispose();
        bench = null;
        throw error;
      }
      if (signal?.aborted || !(error instanceof EngineError) || row === 0) throw error;
      return emptyRow(name, recipe, error);
    } finally {
      candidate?.backend.dispose();
    }
  };

  /** Once the baseline was measured. */
  const describeRun = async (): Promise<ComparisonRun> => ({
    protocol: plan.protocol,
    windowTokens: plan.windowTokens,
    strideTokens: plan.strideTokens,
    windows: plan.windows.length,
    scoredTokens: plan.scoredTokens,
    scoredBytes,
    shard,
    model: { source: checkpoint.description, config, sha256: hashed.sha256()! },
    text: await identifyTokens(tokens),
    calibration: calibrationTokens && (await identifyTokens(calibrationTokens)),
    kvCache: options.kvCache ?? null,
    engineVersion: ENGINE_VERSION,
    adapter: losses.noticed(bench!.baseline.backend.adapter),
  });

  const rows: ComparisonRow[] = [];
  try {
    for (const row of entries.keys()) {
      meter.startRow(row, plan.scoredTokens);
      rows.push(await losses.retry(() => measure(row)));
      if (row === 0) options.onStart?.({ ...(await describeRun()), plannedRows: entries.length });
      yield rows.at(-1)!;
    }
    return { rows, ...(await describeRun()) };
  } finally {
    bench?.dispose();
  }
}

/** The progress of the row at work; its fraction never falls. */
class CompareMeter {
  #state: CompareProgress;

  constructor(
    private readonly entries: readonly Entry[],
    private readonly onProgress: CompareOptions["onProgress"],
  ) {
    this.#state = this.#initial(0, 0);
  }

  startRow(row: number, totalTokens: number): void {
    const { fraction } = this.#state;
    this.#state = this.#initial(row, totalTokens);
    this.report({ fraction: row === 0 ? fraction : 0 }); // the download counts for the first row
  }

  report(change: Partial<CompareProgress>): void {
    this.#state = { ...this.#state, ...change, fraction: Math.max(this.#state.fraction, change.fraction ?? 0) };
    this.onProgress?.(this.#state);
  }

  #initial(row: number, totalTokens: number): CompareProgress {
    return { name: this.entries[row]!.name, row, rows: this.entries.length, stage: "load", fraction: 0, scoredTokens: 0, totalTokens, perplexity: null };
  }
}

/** Baseline first, then the recipes in their order; a recipe named like the baseline is the baseline and stands once. */
function namedEntries({ recipes, baseline = "f32" }: CompareOptions): Entry[] {
  if (!Array.isArray(recipes)) throw new TypeError(`recipes is ${show(recipes)}; expected an array of preset names or recipes with a name.`);
  const entries: Entry[] = [];
  const add = (given: PresetName | QuantizationRecipe): void => {
    const name = typeof given === "string" ? given : given?.name;
    if (typeof name !== "string" || name === "") throw new TypeError("A recipe has no name; expected a preset name or a recipe with a name.");
    const recipe = namingRecipe(name, () => resolveRecipe(given));
    const first = entries[0];
    if (first && name === first.name) return;
    if (entries.some((entry) => entry.name === name)) throw new TypeError(`recipes has two recipes named ${show(name)}; expected names to differ.`);
    entries.push({ name, recipe });
  };
  add(baseline);
  for (const given of recipes as readonly (PresetName | QuantizationRecipe)[]) add(given);
  return entries;
}

/** What the check gives; its errors then name the recipe. */
function namingRecipe<T>(name: string, check: () => T): T {
  try {
    return check();
  } catch (error) {
    const { message } = error as Error;
    throw error instanceof RangeError ? new RangeError(`Recipe ${show(name)}: ${message}`) : new TypeError(`Recipe ${show(name)}: ${message}`);
  }
}

/** Tokens per second of prefill (all prompt tokens until the logits are here) and of decode, warmed up. */
async function measureSpeed(backend: Backend, prompt: readonly number[], signal: AbortSignal | undefined): Promise<Pick<ComparisonRow, "prefillTokensPerSecond" | "decodeTokensPerSecond">> {
  if (prompt.length === 0) return { prefillTokensPerSecond: NaN, decodeTokensPerSecond: NaN }; // a context too short to time
  await backend.forward(prompt.slice(0, 2), 0, signal); // the kernels' first run is not what a user sees
  const startMs = performance.now();
  await backend.forward(prompt, 0, signal);
  const prefillMs = performance.now() - startMs;
  await backend.forward([prompt[0]!], prompt.length, signal); // which token is decoded does not change the time
  const decodeStartMs = performance.now();
  for (let i = 1; i <= TIMED_DECODE_TOKENS; i++) await backend.forward([prompt[0]!], prompt.length + i, signal);
  const decodeMs = performance.now() - decodeStartMs;
  return { prefillTokensPerSecond: (1000 * prompt.length) / prefillMs, decodeTokensPerSecond: (1000 * TIMED_DECODE_TOKENS) / decodeMs };
}
