import { EngineError } from "../errors.ts";
import type { BackendBuilder } from "../model/backend.ts";
import { Pacer } from "../model/cpu/pacer.ts";
import { quantizationError } from "../quantize/error.ts";
import { quantizeGptq } from "../quantize/gptq.ts";
import { outliersBeyond, withoutOutliers } from "../quantize/inputStatistics.ts";
import { dequantizeTensor, quantizeTensor } from "../quantize/nearest.ts";
import { staticRange } from "../quantize/observers.ts";
import { CODE_BITS } from "../quantize/formats.ts";
import { formatOf, unmatchedOverrides } from "../quantize/recipes.ts";
import type { QuantizationRecipe, QuantizationReport, QuantizedTensor, StoredBytes, TensorFormat, TensorInputReport, TensorReport } from "../types.ts";
import type { Prepared } from "./prepare.ts";
import type { ProgressMeter } from "./progress.ts";

/**
 * Streams a checkpoint into a backend, one tensor at a time: read, quantize, measure the error, hand over, drop.
 * Throws RangeError for an override that matches no matrix; EngineError quantize names the tensor.
 */
export async function quantizeInto(builder: BackendBuilder, prepared: Prepared, recipe: QuantizationRecipe, progress: ProgressMeter, signal: AbortSignal | undefined): Promise<QuantizationReport> {
  const { checkpoint } = prepared;
  const matrices = checkpoint.tensors.filter(({ kind }) => kind === "linear" || kind === "embedding");
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
  for await (const { tensor, values } of read) {
    if (tensor.kind === "position" || tensor.kind === "vector") {
      await builder.add(tensor, values);
      bytes[tensor.kind === "position" ? "embedding" : "scales"] += values.byteLength;
    } else {
      const wanted = formatOf(recipe, tensor.name, tensor.kind);
      const gram = prepared.withGram && tensor.kind === "linear" && hasCodes(wanted) ? (await prepared.withGram(tensor.name)).gram : null;
      const startMs = performance.now();
      const quantized = await named(tensor.name, () => (gram ? quantizeGptq(values, tensor.shape, wanted, gram, { activationOrder: recipe.activationOrder, rest: () => pacer.rest(signal) }) : quantizeTensor(values, tensor.shape, wanted)));
      quantizeMs += performance.now() - startMs;
      const { format, shape, storedBytes } = quantized;
      await breathe();
      const restored = dequantizeTensor(quantized);
      await breathe();
      const input = inputReport(recipe, format, tensor.name, prepared);
      tensors.push({ name: tensor.name, shape, format, bytes: storedBytes, ...quantizationError(values, restored), ...(input && { input }) });
      await breathe();
      await builder.add(tensor, quantized, input);
      const codeBytes = Math.ceil((values.length * CODE_BITS[format.type]) / 8);
      bytes[tensor.kind === "linear" ? "weights" : "embedding"] += codeBytes;
      bytes.scales += storedBytes - codeBytes;
      if (tensor.kind === "linear") {
        linearWeights += values.length;
        linearBytes += storedBytes;
      }
    }
    progress.tensorDone(++done, checkpoint.tensors.length);
    await breathe();
  }
  bytes.total = bytes.weights + bytes.embedding + bytes.scales;
  return { recipe, bytes, bitsPerWeight: (8 * linearBytes) / linearWeights, tensors, quantizeMs };
}

/** Whether a format rounds to codes that GPTQ can choose. */
function hasCodes({ type }: TensorFormat): boolean {
  return type !== "f32" && type !== "f16";
}

/** @throws EngineError naming the tensor */
async function named(name: string, quantize: () => QuantizedTensor | Promise<QuantizedTensor>): Promise<QuantizedTensor> {
  try {
    return await quantize();
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    throw new EngineError(error.code, `Tensor "${name}": ${error.message}`, { ...error.details, tensor: name }, { cause: error });
  }
}

/** What calibration did with a matrix's input; undefined where nothing. */
function inputReport({ activations = "float", observer = "minmax", outlierThreshold, equalization, smoothing = 0.5 }: QuantizationRecipe, { type }: TensorFormat, name: string, { statistics, equalized }: Prepared): TensorInputReport | undefined {
  const report: TensorInputReport = {};
  const seen = type === "int8" && activations !== "float" ? statistics.get(name) : undefined;
  if (seen && outlierThreshold !== undefined) {
    const { columns, share } = outliersBeyond(outlierThreshold, seen);
    Object.assign(report, { outlierShare: share, outlierColumns: columns.length });
  }
  if (seen && activations !== "float" && activations.ranges === "static") {
    Object.assign(report, { range: staticRange(outlierThreshold === undefined ? seen : withoutOutliers(outlierThreshold, seen), observer), observer });
  }
  if (equalized.has(name) && equalization === "smoothquant" && smoothing !== "search") report.smoothing = smoothing;
  return Object.keys(report).length > 0 ? report : undefined;
}
