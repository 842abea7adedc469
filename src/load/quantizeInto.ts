import { isMatrix } from "../checkpoint/gpt2Weights.ts";
import { EngineError } from "../errors.ts";
import type { Checkpoint, CheckpointTensor, ReadTensor } from "../checkpoint/types.ts";
import type { BackendBuilder } from "../model/backend.ts";
import { Pacer } from "../model/cpu/pacer.ts";
import { quantizationError, type QuantizationError } from "../quantize/error.ts";
import { type GptqOptions, quantizeGptq } from "../quantize/gptq.ts";
import { type InputStatistics, outliersBeyond, withoutOutliers } from "../quantize/inputStatistics.ts";
import { dequantizeTensor, quantizeTensor } from "../quantize/nearest.ts";
import { staticRange } from "../quantize/observers.ts";
import { CODE_BITS } from "../quantize/formats.ts";
import { formatOf, unmatchedOverrides } from "../quantize/recipes.ts";
import { isSameFormat } from "../quantize/stored.ts";
import type { QuantizationRecipe, QuantizationReport, QuantizedTensor, StoredBytes, TensorFormat, TensorInputReport, TensorReport } from "../types.ts";
import type { ProgressMeter } from "./progress.ts";

/** A checkpoint made ready for a recipe. */
export interface Prepared {
  checkpoint: Checkpoint;
  /** Of its matrices' inputs, by name; empty where the recipe makes no use of them. */
  statistics: ReadonlyMap<string, InputStatistics>;
  /** For GPTQ: of one matrix's inputs. */
  withGram: ((name: string) => Promise<InputStatistics>) | null;
  /** α of the matrices that equalization scaled, by name; undefined where a search found none. */
  smoothing: ReadonlyMap<string, number | undefined>;
  /** Static ranges of inputs that the file brings, by matrix, for those without statistics. */
  storedRanges: ReadonlyMap<string, number>;
}

/** For recipes that need nothing of calibration. */
export function unprepared(checkpoint: Checkpoint, storedRanges: Prepared["storedRanges"] = new Map()): Prepared {
  return { checkpoint, statistics: new Map(), withGram: null, smoothing: new Map(), storedRanges };
}

/** Of codes that are used as they are stored. */
const NO_ERROR: QuantizationError = { mse: 0, maxAbs: 0, sqnrDb: Infinity, cosine: 1 };

/**
 * Streams a checkpoint into a backend, one tensor at a time: read, quantize, measure the error, hand over, drop.
 * Of a matrix that is stored quantized the error counts from what is stored.
 * Throws RangeError for an override that matches no matrix; EngineError quantize names the tensor.
 */
export async function quantizeInto(builder: BackendBuilder, prepared: Prepared, recipe: QuantizationRecipe, progress: ProgressMeter, signal: AbortSignal | undefined): Promise<QuantizationReport> {
  const { checkpoint } = prepared;
  const matrices = checkpoint.tensors.filter(isMatrix);
  const [unmatched] = unmatchedOverrides(recipe, matrices.map(({ name }) => name));
  if (unmatched !== undefined) throw new RangeError(`quantization.overrides has "${unmatched}", which matches no matrix of this checkpoint; names look like "${matrices[0]!.name}".`);

  const bytes: StoredBytes = { weights: 0, embedding: 0, scales: 0, total: 0 };
  const tensors: TensorReport[] = [];
  const pacer = new Pacer();
  /** The embedding of 124M takes half a second in each step; between them the page may paint. */
  const breathe = async (): Promise<void> => {
    if (pacer.isDue()) await pacer.rest(signal);
  };
  let linearWeights = 0;
  let linearBytes = 0;
  let quantizeMs = 0;
  let done = 0;
  const read = checkpoint.read({ signal, onBytes: ({ file, loadedBytes, totalBytes }) => progress.downloaded(file, loadedBytes, totalBytes) });
  for await (const reading of read) {
    const { tensor } = reading;
    if (tensor.kind === "position" || tensor.kind === "vector") {
      await builder.add(tensor, reading.values);
      bytes[tensor.kind === "position" ? "embedding" : "scales"] += reading.values.byteLength;
    } else {
      const wanted = formatOf(recipe, tensor.name, tensor.kind);
      const stored = storedAs(wanted, reading);
      const gram = prepared.withGram && !stored && tensor.kind === "linear" && hasCodes(wanted) ? (await prepared.withGram(tensor.name)).gram : null;
      const startMs = performance.now();
      const quantized = stored ?? (gram ? await gptqNamed(tensor, reading.values, wanted, gram, { activationOrder: recipe.activationOrder, rest: () => pacer.rest(signal) }) : quantizeNamed(tensor, reading.values, wanted));
      quantizeMs += performance.now() - startMs;
      const { format, shape, storedBytes } = quantized;
      await breathe();
      const restored = stored ? null : dequantizeTensor(quantized);
      await breathe();
      const input = inputReport(recipe, format, tensor.name, prepared);
      tensors.push({ name: tensor.name, shape, format, bytes: storedBytes, ...(restored ? quantizationError(reading.values, restored) : NO_ERROR), ...(input && { input }) });
      await breathe();
      await builder.add(tensor, quantized, input);
      const codeBytes = Math.ceil((quantized.codes.length * CODE_BITS[format.type]) / 8);
      bytes[tensor.kind === "linear" ? "weights" : "embedding"] += codeBytes;
      bytes.scales += storedBytes - codeBytes;
      if (tensor.kind === "linear") {
        linearWeights += quantized.codes.length;
        linearBytes += storedBytes;
      }
    }
    progress.tensorDone(++done, checkpoint.tensors.length);
    await breathe();
  }
  bytes.total = bytes.weights + bytes.embedding + bytes.scales;
  return { recipe, bytes, bitsPerWeight: (8 * linearBytes) / linearWeights, tensors, quantizeMs };
}

/** What the file stores, where that is the format asked for: its codes are used as they are. */
function storedAs(format: TensorFormat, { tensor, stored }: ReadTensor): QuantizedTensor | null {
  return stored && isSameFormat(stored.format, format, tensor.shape) ? { ...stored, format } : null;
}

/** Whether a format rounds to codes that GPTQ can choose. */
export function hasCodes({ type }: TensorFormat): boolean {
  return type !== "f32" && type !== "f16";
}

/** As quantizeTensor(), whose errors then name the tensor. */
export function quantizeNamed({ name, shape }: CheckpointTensor, values: Float32Array, format: TensorFormat): QuantizedTensor {
  try {
    return quantizeTensor(values, shape, format);
  } catch (error) {
    throw naming(name, error);
  }
}

/** As quantizeGptq(), whose errors then name the tensor. */
export async function gptqNamed({ name, shape }: CheckpointTensor, values: Float32Array, format: TensorFormat, gram: Float32Array, options: GptqOptions): Promise<QuantizedTensor> {
  try {
    return await quantizeGptq(values, shape, format, gram, options);
  } catch (error) {
    throw naming(name, error);
  }
}

function naming(name: string, error: unknown): unknown {
  if (!(error instanceof EngineError)) return error;
  return new EngineError(error.code, `Tensor "${name}": ${error.message}`, { ...error.details, tensor: name }, { cause: error });
}

/** What calibration did with a matrix's input; undefined where nothing. */
function inputReport({ activations = "float", observer = "minmax", outlierThreshold }: QuantizationRecipe, { type }: TensorFormat, name: string, { statistics, smoothing, storedRanges }: Prepared): TensorInputReport | undefined {
  const report: TensorInputReport = {};
  const codesInputs = type === "int8" && activations !== "float";
  const seen = codesInputs ? statistics.get(name) : undefined;
  if (seen && outlierThreshold !== undefined) {
    const { columns, share } = outliersBeyond(outlierThreshold, seen);
    Object.assign(report, { outlierShare: share, outlierColumns: columns.length });
  }
  if (codesInputs && activations.ranges === "static") {
    const range = seen ? staticRange(outlierThreshold === undefined ? seen : withoutOutliers(outlierThreshold, seen), observer) : storedRanges.get(name);
    if (range !== undefined) Object.assign(report, { range, observer });
  }
  const alpha = smoothing.get(name);
  if (alpha !== undefined) report.smoothing = alpha;
  return Object.keys(report).length > 0 ? report : undefined;
}
