import { describe, expect, test } from "vitest";
import { inspectQuantization, inspectTensor, inspectTensorInWorker, loadModel, type ModelSource, quantizationError, dequantizeTensor, type QuantizationRecipe, type QuantizedTensor, quantizeTensor, readTensor, type TensorFormat } from "../../src/index.ts";
import type { LoadedModel } from "../../src/load/model.ts";
import { NF4_CODES } from "../../src/quantize/formats.ts";
import { gaussian, seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";
import { pairedWorker } from "../fixtures/workerPair.ts";
import { referenceCheckpoint } from "../reference/weights.ts";

const int4Channel: TensorFormat = { type: "int4", mode: "absmax", granularity: "channel" };

describe("inspectQuantization", () => {
  // Row 0 has scale 1 and rounds 3.5 to 4 (half to even); row 1 has scale 2 and loses nothing.
  const values = Float32Array.of(7, -7, 3.5, 0, 14, 2, 0, -4);
  const inspection = inspectQuantization(values, [2, 4], int4Channel, { bins: 3 });

  test("counts weights before and after on common edges", () => {
    expect([...inspection.histogram.edges]).toEqual([-7, 0, 7, 14]);
    expect([...inspection.histogram.before]).toEqual([2, 4, 2]);
    expect([...inspection.histogram.after]).toEqual([2, 4, 2]);
    const wide = inspectQuantization(Float32Array.of(0, 15.5, 31), [1, 3], { type: "int4", mode: "zeropoint", granularity: "tensor" }, { bins: 2 });
    expect(wide.histogram.edges[2]).toBe(31);
    const grown = inspectQuantization(Float32Array.of(-1, 0.2), [1, 2], { type: "int4", mode: "zeropoint", granularity: "tensor" }); // −1 is no multiple of 0.08
    expect(grown.histogram.edges[0]).toBeLessThan(-1);
    expect(grown.histogram.after.reduce((sum, count) => sum + count)).toBe(2);
  });

  test("gives the bits per weight, scales included, and the error that quantizationError() gives", () => {
    expect(inspection.bitsPerWeight).toBe(12); // 4 bytes of codes and 8 of scales for 8 weights
    expect(inspection.error).toEqual(quantizationError(values, dequantizeTensor(quantizeTensor(values, [2, 4], int4Channel))));
  });

  test("counts the codes and their entropy", () => {
    const { codes } = inspection;
    expect([...codes!.values]).toEqual(Array.from({ length: 16 }, (_, i) => i - 8));
    //                               −8 −7 −6 −5 −4 −3 −2 −1  0  1  2  3  4  5  6  7
    expect([...codes!.counts]).toEqual([0, 1, 0, 0, 0, 0, 1, 0, 2, 1, 0, 0, 1, 0, 0, 2]);
    expect(codes!.entropyBits).toBe(2.5); // 2 · ¼ · 2 + 4 · ⅛ · 3
    expect(codes!.storedBits).toBe(4);
  });

  test("gives the levels of the group with the largest error, and the weights on each", () => {
    const { grid } = inspection;
    expect(grid).toMatchObject({ start: 0, end: 4, mse: 0.0625, scale: 1, zeroPoint: 0 });
    expect([...grid!.levels]).toEqual(Array.from({ length: 16 }, (_, i) => i - 8));
    expect([...grid!.counts]).toEqual([0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1]);
  });

  test("shifts the levels by the zero point, and takes the codebook's for NF4", () => {
    const ramp = Float32Array.from({ length: 16 }, (_, i) => i);
    const shifted = inspectQuantization(ramp, [1, 16], { type: "int4", mode: "zeropoint", granularity: { group: 32 } }).grid!;
    expect(shifted).toMatchObject({ zeroPoint: -8, scale: 1 });
    expect([...shifted.levels]).toEqual([...ramp]);
    const nf4 = inspectQuantization(ramp, [1, 16], { type: "nf4", block: 32, doubleQuantization: true }).grid!;
    expect([...nf4.levels]).toEqual([...NF4_CODES.map((code) => code * 15)]);
  });

  test.each<[name: string, format: TensorFormat, bits: 4 | 8]>([
    ["int8 per tensor", { type: "int8", mode: "zeropoint", granularity: "tensor" }, 8],
    ["int8 in groups", { type: "int8", mode: "absmax", granularity: { group: 64 } }, 8],
    ["FP4", { type: "fp4", block: 32 }, 4],
  ])("finds every restored weight of the worst group among its levels under %s", (_, format, bits) => {
    const weights = gaussian(3 * 100, 0.1, 0.01, 7);
    const restored = dequantizeTensor(quantizeTensor(weights, [3, 100], format));
    const { grid, codes } = inspectQuantization(weights, [3, 100], format);
    expect(grid!.levels).toHaveLength(2 ** bits);
    const counts = new Map<number, number>();
    for (const value of restored.subarray(grid!.start, grid!.end)) counts.set(value, (counts.get(value) ?? 0) + 1);
    for (const [level, count] of counts) expect(grid!.counts[grid!.levels.indexOf(level)]).toBe(count);
    expect(codes!.entropyBits).toBeLessThanOrEqual(bits);
  });

  test("has no codes and no grid for f16 and f32", () => {
    expect(inspectQuantization(values, [2, 4], { type: "f16" })).toMatchObject({ codes: null, grid: null, bitsPerWeight: 16, error: { mse: 0 } });
  });

  test("gives largest magnitude, root mean square and error of each row and column", () => {
    expect([...inspection.rows.absmax]).toEqual([7, 14]);
    expect([...inspection.rows.rms]).toEqual([Math.sqrt((49 + 49 + 12.25) / 4), Math.sqrt((196 + 4 + 16) / 4)].map(Math.fround));
    expect([...inspection.rows.mse]).toEqual([0.0625, 0]);
    expect([...inspection.columns.absmax]).toEqual([14, 7, 3.5, 4]);
    expect([...inspection.columns.mse]).toEqual([0, 0, 0.125, 0]);
  });

  test("names as outliers the rows and columns beyond outlierFactor times the median, by their largest weight or by all of them", () => {
    const weights = new Float32Array(20 * 20).fill(0.1);
    for (let row = 0; row < 20; row++) weights[row * 20 + 13] = 0.5; // a column of large weights
    weights[4 * 20 + 6] = 9; // a single one
    const { rows, columns } = inspectQuantization(weights, [20, 20], int4Channel);
    expect(columns.outliers).toEqual([6, 13]);
    expect(rows.outliers).toEqual([4]);
    expect(inspectQuantization(weights, [20, 20], int4Channel, { outlierFactor: 6 }).columns.outliers).toEqual([6]);
  });

  test.each<[what: string, options: object, error: typeof TypeError | typeof RangeError]>([
    ["no bins", { bins: 0 }, RangeError],
    ["an outlierFactor of 1", { outlierFactor: 1 }, RangeError],
    ["an outlierFactor that is no number", { outlierFactor: "6" }, TypeError],
  ])("rejects %s, having accepted none", (_, options, error) => {
    expect(() => inspectQuantization(values, [2, 4], int4Channel, options)).toThrow(error);
  });
});

describe("readTensor", () => {
  const files = seededCheckpoint(tinyCheckpoints.fullVocabulary);
  const { weights } = referenceCheckpoint(files);

  test.each(["h.1.mlp.c_proj.weight", "transformer.h.1.mlp.c_proj.weight"])("gives %s as [outputs, inputs]", async (name) => {
    const { name: found, shape, values } = await readTensor(files, name);
    expect([found, shape]).toEqual(["h.1.mlp.c_proj.weight", [64, 256]]);
    expect(values).toEqual(Float32Array.from(weights.get(found)!.values));
  });

  test("lists close names where there is none such", async () => {
    await expect(readTensor(files, "h.1.mlp.c_prj.weight")).rejects.toMatchObject({ code: "checkpoint", details: { close: ["h.1.mlp.c_proj.weight", "h.1.mlp.c_fc.weight", "h.1.mlp.c_proj.bias"] } });
    await expect(readTensor(files, "wpe")).rejects.toThrow(/wpe\.weight/);
  });

  test("throws TypeError for a name that is none, and signal.reason after an abort", async () => {
    await expect(readTensor(files, "")).rejects.toThrow(TypeError);
    for (const [option, value] of [["signal", {}], ["onProgress", 5]] as const) await expect(readTensor(files, "ln_f.bias", { [option]: value })).rejects.toThrow(new RegExp(`^${option} is `));
    await expect(readTensor(files as ModelSource, "wpe.weight", { signal: AbortSignal.abort("enough") })).rejects.toBe("enough");
  });
});

describe("inspectTensor", () => {
  const files = seededCheckpoint({ nLayer: 1, nHead: 2, nEmbd: 12, nPositions: 24, vocabSize: 97, seed: 800 });
  const calibration = Array.from({ length: 120 }, (_, i) => (i * i * 13 + 7) % 97);
  const name = "h.0.mlp.c_fc.weight";
  const gptq: QuantizationRecipe = { linear: int4Channel, rounding: "gptq" };
  const options = { backend: "cpu", quantizer: "inline", quantization: gptq, calibration } as const;

  test("is inspectQuantization() of the tensor in the recipe's format for it", async () => {
    const { values, shape } = await readTensor(files, name);
    const recipe = { linear: { type: "f16" }, overrides: { "*.c_fc.weight": int4Channel } } as const;
    expect(await inspectTensor(files, `transformer.${name}`, { quantization: recipe, bins: 9 })).toEqual({ name, rounding: "nearest", ...inspectQuantization(values, shape, int4Channel, { bins: 9 }) });
    expect(await inspectTensor(files, "wte.weight", { quantization: recipe })).toMatchObject({ format: { type: "f16" }, grid: null });
  });

  test("shows the codes that GPTQ chose, where the recipe rounds by it alone, the same behind a worker", async () => {
    using model = await loadModel(files, options);
    const tensor = (await (model as LoadedModel).readTensor(name)) as QuantizedTensor;
    const { values } = await readTensor(files, name);
    const inspection = await inspectTensor(files, name, options);
    expect(inspection).toMatchObject({ rounding: "gptq", format: int4Channel, error: quantizationError(values, dequantizeTensor(tensor)) });
    expect(inspection.error.mse).toBeGreaterThan((await inspectTensor(files, name, { ...options, quantization: { linear: int4Channel } })).error.mse); // of the weights; of what they multiply it is less
    const worker = pairedWorker();
    expect(await inspectTensorInWorker(files, name, { ...options, worker })).toEqual(inspection);
    expect(worker.terminations).toBe(1);
    for (const [other, recipe] of [["wte.weight", gptq], [name, { ...gptq, equalization: "awq" }]] as const) {
      expect(await inspectTensor(files, other, { ...options, quantization: recipe })).toMatchObject({ rounding: "nearest" });
    }
  });

  test("refuses a vector, a recipe whose calibration is missing, and ends when aborted", async () => {
    await expect(inspectTensor(files, "ln_f.weight", { quantization: "int8" })).rejects.toMatchObject({ code: "checkpoint", message: expect.stringContaining("is a vector") as string });
    await expect(inspectTensor(files, name, { quantization: gptq })).rejects.toThrow("calibration is missing");
    await expect(inspectTensor(files, name, { signal: AbortSignal.abort("enough") })).rejects.toBe("enough");
  });
});
