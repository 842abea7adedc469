import { describe, expect, test } from "vitest";
import type { RawBlock } from "../../src/checkpoint/types.ts";
import { quantizationError } from "../../src/quantize/error.ts";
import { describeFormat } from "../../src/quantize/formats.ts";
import { packFor } from "../../src/quantize/packFor.ts";
import { type MatrixBlock, type MatrixJob, MatrixQuantizer, type QuantizedMatrix } from "../../src/quantize/matrixQuantizer.ts";
import { toHalfBits } from "../../src/quantize/half.ts";
import { assembleTensor, dequantizeTensor, quantizeTensor } from "../../src/quantize/nearest.ts";
import type { TensorFormat } from "../../src/types.ts";

const shape = [130, 100] as const;
const tensor = { name: "wte.weight", kind: "embedding", shape } as const;
const layout = { layout: "tiles", maxPartBytes: 2 ** 27 } as const;

const wave = (): Float32Array<ArrayBuffer> => Float32Array.from({ length: shape[0] * shape[1] }, (_, i) => 0.1 + Math.sin(i * 12.9898) * (1 + (Math.floor(i / shape[1]) % 5)));

/** The rows of values as a file in F32 has them, so many to a block. */
function blocksOf(values: Float32Array<ArrayBuffer>, blockRows: number): RawBlock[] {
  const [rows, columns] = shape;
  const entry = { name: "transformer.wte.weight", dtype: "F32", shape } as const;
  return Array.from({ length: Math.ceil(rows / blockRows) }, (_, i) => {
    const end = Math.min((i + 1) * blockRows, rows);
    const bytes = new Uint8Array(values.slice(i * blockRows * columns, end * columns).buffer);
    return { tensor, entry, firstRow: i * blockRows, isLast: end === rows, bytes };
  });
}

async function quantize(job: Partial<MatrixJob>, blocks: readonly MatrixBlock[]): Promise<QuantizedMatrix> {
  const quantizer = new MatrixQuantizer({ tensor, format: { type: "f32" }, layout, ...job });
  for (const block of blocks) await quantizer.add(block);
  return quantizer.finish();
}

const formats: TensorFormat[] = [
  { type: "f32" },
  { type: "f16" },
  ...(["absmax", "zeropoint"] as const).flatMap((mode) => (["tensor", "channel", { group: 32 }] as const).map((granularity) => ({ type: "int8" as const, mode, granularity }))),
  { type: "int4", mode: "zeropoint", granularity: { group: 64 } },
  { type: "nf4", block: 64 },
  { type: "nf4", block: 32, doubleQuantization: true },
];

describe("MatrixQuantizer", () => {
  test.each(formats.map((format) => [describeFormat(format), format] as const))("gives %s the very codes and errors of the whole tensor, however its rows come", async (_, format) => {
    const quantized = quantizeTensor(wave(), shape, format);
    const expected = { packed: packFor(layout, quantized), storedBytes: quantized.storedBytes, error: quantizationError(wave(), dequantizeTensor(quantized)) };
    for (const blockRows of [1, 64, 129, 130]) expect(await quantize({ format }, blocksOf(wave(), blockRows)), `${blockRows} rows`).toMatchObject(expected);
    expect(await quantize({ format }, [{ values: wave() }])).toMatchObject(expected);
  });

  test("names row and index of the tensor, not of the block, for values that no format takes", async () => {
    const large = wave();
    await quantize({ format: { type: "f16" } }, blocksOf(large, 60)); // control case
    large[70 * 100 + 7] = 1e6;
    await expect(quantize({ format: { type: "f16" } }, blocksOf(large, 60))).rejects.toThrow('Tensor "wte.weight": Weight at row 70, column 7 is 1000000; expected at most');
    large[70 * 100 + 7] = NaN;
    await expect(quantize({ format: { type: "f16" } }, blocksOf(large, 60))).rejects.toThrow('Tensor "transformer.wte.weight" holds NaN at [70, 7]; expected finite weights.');
  });

  test("keeps columns in f16 beside the codes, however the rows come, but none of a file's own codes and none that f16 cannot hold", async () => {
    const format: TensorFormat = { type: "int8", mode: "absmax", granularity: "channel" };
    const f16Columns = [3, 99];
    const codes = quantizeTensor(wave(), shape, format);
    const weights = toHalfBits(wave().filter((_, i) => f16Columns.includes(i % 100))).bits;
    const expected = assembleTensor(format, shape, { ...codes, f16Columns: { columns: Uint32Array.from(f16Columns), weights } });
    for (const blockRows of [1, 64, 130]) {
      const { packed, storedBytes, f16ColumnCount } = await quantize({ format, f16Columns }, blocksOf(wave(), blockRows));
      expect({ packed, storedBytes, f16ColumnCount }).toEqual({ packed: packFor(layout, expected), storedBytes: expected.storedBytes, f16ColumnCount: 2 });
    }
    const large = wave();
    large[3] = 1e6;
    for (const block of [{ stored: codes }, { values: large }]) expect(await quantize({ format, f16Columns }, [block])).toMatchObject({ storedBytes: codes.storedBytes, f16ColumnCount: 0 });
  });

  test("keeps the codes of a quantized file where they have the format, and quantizes what they restore where not", async () => {
    const stored = quantizeTensor(wave(), shape, { type: "nf4", block: 64 });
    const kept = await quantize({ format: stored.format }, [{ stored }]);
    expect(kept.packed).toEqual(packFor(layout, stored));
    expect(kept.error).toEqual({ mse: 0, maxAbs: 0, sqnrDb: Infinity, cosine: 1 });
    const restored = dequantizeTensor(stored);
    const again = quantizeTensor(restored, shape, { type: "int8", mode: "absmax", granularity: "channel" });
    const other = await quantize({ format: again.format }, [{ stored }]);
    expect(other.packed).toEqual(packFor(layout, again));
    expect(other.error).toEqual(quantizationError(restored, dequantizeTensor(again)));
  });
});
