import { decodeBlock } from "../checkpoint/decodeBlock.ts";
import { isMatrix } from "../checkpoint/gpt2Weights.ts";
import type { Checkpoint, CheckpointTensor, RawBlock, ReadTensor } from "../checkpoint/types.ts";
import type { BackendBuilder } from "../model/backend.ts";
import { Pacer } from "../model/cpu/pacer.ts";
import { CODE_BITS, isSameFormat } from "../quantize/formats.ts";
import type { InputStatistics } from "../quantize/inputStatistics.ts";
import type { MatrixJob, QuantizedMatrix } from "../quantize/matrixQuantizer.ts";
import { formatOf, requireMatches } from "../quantize/recipes.ts";
import type { LoadOptions, QuantizationRecipe, QuantizationReport, StoredBytes, TensorFormat, TensorInputReport, TensorReport } from "../types.ts";
import type { ProgressMeter } from "./progress.ts";
import { Quantizers } from "./quantizers.ts";

/** A checkpoint made ready for a recipe. */
export interface Prepared {
  checkpoint: Checkpoint;
  /** For GPTQ: of one matrix's inputs. */
  withGram: ((name: string) => Promise<InputStatistics>) | null;
  /** Columns of an int8 matrix with int8 inputs that keep f16 weights. */
  f16Columns(name: string): number[] | undefined;
  /** What is known of a matrix's input; undefined where nothing is. coded: it becomes int8 codes */
  inputReport(name: string, coded: boolean): TensorInputReport | undefined;
}

/** For loads without calibration. storedRanges: of static inputs, by matrix, which the file brings. */
export function unprepared(checkpoint: Checkpoint, { activations = "float", observer = "minmax" }: QuantizationRecipe, storedRanges?: ReadonlyMap<string, number>): Prepared {
  const isStatic = activations !== "float" && activations.ranges === "static";
  const inputReport = (name: string, coded: boolean): TensorInputReport | undefined => {
    const range = coded && isStatic ? storedRanges?.get(name) : undefined;
    return range === undefined ? undefined : { range, observer };
  };
  return { checkpoint, withGram: null, f16Columns: () => undefined, inputReport };
}

/** What becomes of a matrix while the next ones are read. */
interface Pending {
  tensor: CheckpointTensor;
  format: TensorFormat;
  matrix: Promise<QuantizedMatrix>;
}

/** Matrices that are quantized, or wait to be handed over in the order of the file, while the next one is read. */
const MAX_PENDING = 2;

export interface QuantizeOptions {
  progress: ProgressMeter;
  signal: AbortSignal | undefined;
  quantizer?: LoadOptions["quantizer"];
}

/**
 * Streams a checkpoint into a backend: matrices are read, quantized, compared with what they were and packed, in workers where it can be; a few are on
 * their way at a time, and reach the backend in the order of the file.
 * Throws RangeError for an override that matches no matrix; EngineError quantize names the tensor, worker where a worker crashed.
 */
export async function quantizeInto(builder: BackendBuilder, prepared: Prepared, recipe: QuantizationRecipe, { progress, signal, quantizer }: QuantizeOptions): Promise<QuantizationReport> {
  const { checkpoint } = prepared;
  const matrices = checkpoint.tensors.filter(isMatrix);
  requireMatches(recipe, matrices.map(({ name }) => name));

  const bytes: StoredBytes = { weights: 0, embedding: 0, scales: 0, total: 0 };
  const tensors: TensorReport[] = [];
  const pacer = new Pacer();
  let linearWeights = 0;
  let linearBytes = 0;
  let quantizeMs = 0;
  let done = 0;
  const tensorDone = async (): Promise<void> => {
    progress.tensorDone(++done, checkpoint.tensors.length);
    if (pacer.isDue()) await pacer.rest(signal);
  };
  const handOver = async ({ tensor, format, matrix }: Pending): Promise<void> => {
    const { packed, storedBytes, f16ColumnCount, error, quantizeMs: ms } = await matrix;
    const input = prepared.inputReport(tensor.name, codesInputs(recipe, format));
    if (f16ColumnCount > 0) input!.f16Columns = f16ColumnCount;
    await builder.add(tensor, packed, input);
    tensors.push({ name: tensor.name, shape: tensor.shape, format, bytes: storedBytes, ...error, ...(input && { input }) });
    const values = tensor.shape[0] * tensor.shape[1];
    const codeBytes = Math.ceil((values * CODE_BITS[format.type]) / 8);
    bytes[tensor.kind === "linear" ? "weights" : "embedding"] += codeBytes;
    bytes.scales += storedBytes - codeBytes;
    if (tensor.kind === "linear") {
      linearWeights += values;
      linearBytes += storedBytes;
    }
    quantizeMs += ms;
    await tensorDone();
  };

  const quantizers = new Quantizers({ values: matrices.reduce((sum, { shape: [rows, columns] }) => sum + rows * columns, 0), quantizer, signal });
  const pending: Pending[] = [];
  let open: Awaited<ReturnType<Quantizers["open"]>> | null = null;
  try {
    const read = checkpoint.readBlocks({ signal, spare: quantizers.spare, onBytes: (soFar) => progress.downloaded(soFar) });
    for await (const block of read) {
      const { tensor } = block;
      if (!isMatrix(tensor)) {
        const values = "bytes" in block ? decodeBlock(block) : block.values;
        await builder.add(tensor, values);
        bytes[tensor.kind === "position" ? "embedding" : "scales"] += values.byteLength;
        await tensorDone();
        continue;
      }
      const format = formatOf(recipe, tensor.name, tensor.kind);
      open ??= await quantizers.open({ tensor, format, layout: builder.layout, f16Columns: codesInputs(recipe, format) ? prepared.f16Columns(tensor.name) : undefined, ...(await gptqOf(recipe, prepared, block, format)) });
      await open.add("bytes" in block ? block : block.stored ? { stored: block.stored } : { values: block.values });
      if ("bytes" in block && !block.isLast) continue;
      const matrix = open.finish();
      matrix.catch(() => undefined); // thrown when its turn has come
      open = null;
      pending.push({ tensor, format, matrix });
      if (pending.length > MAX_PENDING) await handOver(pending.shift()!);
    }
    for (const each of pending) await handOver(each);
  } finally {
    quantizers.dispose();
  }
  bytes.total = bytes.weights + bytes.embedding + bytes.scales;
  return { recipe, bytes, bitsPerWeight: (8 * linearBytes) / linearWeights, tensors, quantizeMs };
}

/** What GPTQ needs, where it rounds this matrix. */
async function gptqOf({ activationOrder }: QuantizationRecipe, { withGram }: Prepared, block: RawBlock | ReadTensor, format: TensorFormat): Promise<Pick<MatrixJob, "gram" | "activationOrder"> | null> {
  const { tensor } = block;
  const isStored = "stored" in block && block.stored && isSameFormat(block.stored.format, format, tensor.shape);
  if (!withGram || isStored || tensor.kind !== "linear" || !hasCodes(format)) return null;
  const { gram } = await withGram(tensor.name);
  return { gram: gram!, activationOrder };
}

/** Whether a format rounds to codes that GPTQ can choose. */
export function hasCodes({ type }: TensorFormat): boolean {
  return type !== "f32" && type !== "f16";
}

/** The inputs of an int8 matrix become codes, too. */
function codesInputs({ activations = "float" }: QuantizationRecipe, { type }: TensorFormat): boolean {
  return type === "int8" && activations !== "float";
}
