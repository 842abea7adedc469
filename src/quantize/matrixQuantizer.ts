import { decodeBlock } from "../checkpoint/decodeBlock.ts";
import type { CheckpointTensor, RawBlock } from "../checkpoint/types.ts";
import { EngineError } from "../errors.ts";
import type { QuantizedTensor, TensorFormat } from "../types.ts";
import { ErrorTally, type QuantizationError } from "./error.ts";
import { isSameFormat } from "./formats.ts";
import { type GptqOptions, quantizeGptq } from "./gptq.ts";
import { toHalfBits } from "./half.ts";
import { buffersOf, type PackedWeights, type WeightLayout } from "./layout.ts";
import { assembleTensor, dequantizeTensor, isRowwise, quantizeTensor, RowQuantizer, rowsOf } from "./nearest.ts";
import { packFor } from "./packFor.ts";
import { pausing } from "./pause.ts";
import { release } from "./release.ts";

/** Values that are restored together to be compared with the original ones: half a megabyte. */
const STRIP_VALUES = 2 ** 17;

/** What becomes of a matrix; plain data, which a worker can be sent. */
export interface MatrixJob {
  tensor: CheckpointTensor;
  format: TensorFormat;
  layout: WeightLayout;
  /** Rounds by GPTQ: f32 [columns, columns], mean x · xᵀ of the inputs. @default to the nearest */
  gram?: Float32Array;
  activationOrder?: boolean;
  /** Columns that keep f16 weights beside the codes, ascending; none do where a file's codes are used as they are, or where one is beyond f16. @default none */
  f16Columns?: readonly number[];
}

/** What a matrix is given as: rows of the file, all values as f32 [rows, columns], or all codes of a file that is quantized. */
export type MatrixBlock = RawBlock | { values: Float32Array<ArrayBuffer> } | { stored: QuantizedTensor };

export interface QuantizedMatrix {
  packed: PackedWeights;
  storedBytes: number;
  /** Columns that keep f16 weights. */
  f16ColumnCount: number;
  /** Of the values; of a matrix that is stored quantized, beyond what is lost already. */
  error: QuantizationError;
  quantizeMs: number;
}

/** Of codes that are used as they are stored. */
const NO_ERROR: QuantizationError = { mse: 0, maxAbs: 0, sqnrDb: Infinity, cosine: 1 };

/** Quantizes, judges and packs one matrix while its rows come in, on whatever thread it is. Blocks are given up to it. */
export class MatrixQuantizer {
  private readonly pause: () => Promise<void>;
  private readonly tally = new ErrorTally();
  private rows: RowQuantizer | null = null;
  private whole: Float32Array | null = null; // f32 [rows, columns], where rows are not quantized one by one
  private stored: QuantizedTensor | null = null;
  private kept: Float32Array | null = null; // f32 [rows, f16Columns.length]
  private quantizeMs = 0;

  /** rest: awaited every 20 ms of work, so that a page stays alive; may throw. */
  constructor(
    private readonly job: MatrixJob,
    private readonly rest?: () => Promise<void>,
  ) {
    this.pause = pausing(rest);
  }

  /** The next rows, from first to last. @returns the buffer of a RawBlock that is done with. @throws EngineError `checkpoint` as decodeBlock(), `quantize` naming the tensor */
  async add(block: MatrixBlock): Promise<ArrayBuffer | null> {
    const { tensor, format, gram } = this.job;
    const [rows, columns] = tensor.shape;
    if ("stored" in block) {
      if (isSameFormat(block.stored.format, format, tensor.shape)) this.stored = { ...block.stored, format };
      else this.keepColumns((this.whole = dequantizeTensor(block.stored)), 0);
      return null;
    }
    const [values, firstRow] = "bytes" in block ? [decodeBlock(block), block.firstRow] : [block.values, 0];
    const raw = "bytes" in block ? block.bytes.buffer : null;
    await this.pause();
    this.keepColumns(values, firstRow);
    if (values.length === rows * columns) {
      this.whole = values;
      return values.buffer === raw ? null : raw;
    }
    if (gram || !isRowwise(format)) {
      this.whole ??= new Float32Array(rows * columns);
      this.whole.set(values, firstRow * columns);
    } else {
      const quantizer = (this.rows ??= new RowQuantizer(tensor.shape, format));
      const quantized = await this.timed(() => quantizer.add(values, firstRow));
      await this.pause();
      await this.compare(values, quantized);
      release(quantized.codes);
    }
    if (values.buffer !== raw) release(values);
    return raw;
  }

  /** Once every row was added; nothing of the matrix stays here. */
  async finish(): Promise<QuantizedMatrix> {
    const tensor = this.withF16Columns(this.stored ?? this.rows?.finish() ?? (await this.quantizeWhole()));
    const error = this.stored ? NO_ERROR : this.tally.result();
    this.rows = this.stored = this.kept = null;
    await this.pause();
    const packed = packFor(this.job.layout, tensor);
    if (!buffersOf(packed).includes(tensor.codes.buffer as ArrayBuffer)) release(tensor.codes);
    return { packed, storedBytes: tensor.storedBytes, f16ColumnCount: tensor.f16Columns?.columns.length ?? 0, error, quantizeMs: this.quantizeMs };
  }

  private async quantizeWhole(): Promise<QuantizedTensor> {
    const { tensor, format, gram, activationOrder } = this.job;
    const values = this.whole!;
    this.whole = null;
    const quantized = await this.timed(() => (gram ? quantizeGptq(values, tensor.shape, format, gram, { activationOrder, rest: this.rest }) : quantizeTensor(values, tensor.shape, format)));
    await this.pause();
    await this.compare(values, quantized);
    release(values);
    return quantized;
  }

  private keepColumns(values: Float32Array, firstRow: number): void {
    const { tensor, f16Columns = [] } = this.job;
    if (f16Columns.length === 0) return;
    const [rows, columns] = tensor.shape;
    this.kept ??= new Float32Array(rows * f16Columns.length);
    for (let from = 0, to = firstRow * f16Columns.length; from < values.length; from += columns) for (const k of f16Columns) this.kept[to++] = values[from + k]!;
  }

  private withF16Columns(tensor: QuantizedTensor): QuantizedTensor {
    if (!this.kept) return tensor;
    const { bits, overflowIndex } = toHalfBits(this.kept);
    if (overflowIndex >= 0) return tensor; // what f16 cannot hold is left to the codes
    return assembleTensor(tensor.format, tensor.shape, { ...tensor, f16Columns: { columns: Uint32Array.from(this.job.f16Columns!), weights: bits } });
  }

  private async timed<T>(quantize: () => T | Promise<T>): Promise<T> {
    const startMs = performance.now();
    try {
      return await quantize();
    } catch (error) {
      throw namingTensor(this.job.tensor, error);
    } finally {
      this.quantizeMs += performance.now() - startMs;
    }
  }

  /** Strip by strip, so that the restored values of an embedding need no memory of its size. */
  private async compare(values: Float32Array, quantized: QuantizedTensor): Promise<void> {
    const [rows, columns] = quantized.shape;
    const stripRows = Math.max(1, Math.floor(STRIP_VALUES / columns));
    for (let from = 0; from < rows; from += stripRows) {
      const to = Math.min(from + stripRows, rows);
      const restored = dequantizeTensor(rowsOf(quantized, from, to));
      this.tally.add(values.subarray(from * columns, to * columns), restored);
      release(restored);
      await this.pause();
    }
  }
}

/** As quantizeTensor(), whose errors then name the tensor. */
export function quantizeNamed(tensor: CheckpointTensor, values: Float32Array, format: TensorFormat): QuantizedTensor {
  try {
    return quantizeTensor(values, tensor.shape, format);
  } catch (error) {
    throw namingTensor(tensor, error);
  }
}

/** As quantizeGptq(), whose errors then name the tensor. */
export async function gptqNamed(tensor: CheckpointTensor, values: Float32Array, format: TensorFormat, gram: Float32Array, options: GptqOptions): Promise<QuantizedTensor> {
  try {
    return await quantizeGptq(values, tensor.shape, format, gram, options);
  } catch (error) {
    throw namingTensor(tensor, error);
  }
}

function namingTensor({ name }: CheckpointTensor, error: unknown): unknown {
  if (!(error instanceof EngineError)) return error;
  return new EngineError(error.code, `Tensor "${name}": ${error.message}`, { ...error.details, tensor: name }, { cause: error });
}
