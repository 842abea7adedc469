import { describe, expect, test, vi } from "vitest";
import { EngineError } from "../../src/errors.ts";
import { describeFormat } from "../../src/quantize/formats.ts";
import { quantizeGptq } from "../../src/quantize/gptq.ts";
import { factorUpper } from "../../src/quantize/linearAlgebra.ts";
import { dequantizeTensor, quantizeTensor } from "../../src/quantize/nearest.ts";
import type { TensorFormat } from "../../src/types.ts";
import { gaussian } from "../fixtures/seededCheckpoint.ts";
import { nearestOutputError, outputError, referenceGptq, referenceHessian } from "../reference/gptq.ts";
import { tolerances } from "../tolerances.ts";

type ScaledFormat = Exclude<TensorFormat, { type: "f32" | "f16" }>;
const formats: ScaledFormat[] = [
  ...(["int8", "int4"] as const).flatMap((type) =>
    (["absmax", "zeropoint"] as const).flatMap((mode) => (["tensor", "channel", { group: 32 }, { group: 128 }] as const).map((granularity) => ({ type, mode, granularity }))),
  ),
  ...(["nf4", "fp4"] as const).flatMap((type) => [{ type, block: 32 as const }, { type, block: 256 as const }, { type, block: 64 as const, doubleQuantization: true }]),
];
const named = formats.map((format) => ({ name: describeFormat(format), format }));
const int4Group: ScaledFormat = { type: "int4", mode: "zeropoint", granularity: { group: 32 } };

/** f32 [K, K]: mean x · xᵀ of rows of K values, of which neighbours are alike and some ten times as large; `dead` columns are 0. */
function gramOf(rows: number, K: number, dead: readonly number[] = []): Float32Array {
  const noise = gaussian(rows * K, 1, 0, 77);
  const x = new Float64Array(rows * K);
  for (let t = 0; t < rows; t++) {
    let state = 0;
    for (let k = 0; k < K; k++) {
      state = 0.9 * state + noise[t * K + k]!;
      x[t * K + k] = dead.includes(k) ? 0 : state * (k % 16 === 5 ? 10 : 1);
    }
  }
  const gram = new Float32Array(K * K);
  for (let i = 0; i < K; i++) {
    for (let j = 0; j < K; j++) {
      let sum = 0;
      for (let t = 0; t < rows; t++) sum += x[t * K + i]! * x[t * K + j]!;
      gram[i * K + j] = sum / rows;
    }
  }
  return gram;
}
const identity = (K: number): Float32Array => Float32Array.from({ length: K * K }, (_, i) => +(i % (K + 1) === 0));
const weightsOf = ([rows, K]: readonly [number, number]): Float32Array => gaussian(rows * K, 0.5, 0.02, 9);

describe("quantizeGptq", () => {
  test.each(named)("gives quantizeTensor's codes and scales where inputs are uncorrelated: $name", async ({ format }) => {
    const shape = [5, 300] as const;
    const values = weightsOf(shape);
    for (const activationOrder of [false, true]) {
      expect(await quantizeGptq(values, shape, format, identity(300), { activationOrder })).toEqual(quantizeTensor(values, shape, format));
    }
  });

  const cases = ([[3, 40], [2, 130], [2, 270]] as const).map((shape) => {
    const gram = gramOf(300, shape[1], shape[1] === 130 ? [0, 77] : []);
    return { shape, gram, hessians: [false, true].map((activationOrder) => referenceHessian(gram, shape[1], activationOrder)) };
  });
  test.each(named)("gives the codes and scales of the paper's algorithm: $name", async ({ format }) => {
    for (const { shape, gram, hessians } of cases) {
      const values = weightsOf(shape);
      for (const hessian of hessians) {
        const { codes, scales, zeroPoints } = await quantizeGptq(values, shape, format, gram, hessian);
        const expected = referenceGptq(values, shape, format, hessian);
        expect([...codes]).toEqual(expected.codes);
        expect([...scales]).toEqual(expected.scales);
        if (zeroPoints) expect([...zeroPoints]).toEqual(expected.zeroPoints);
      }
    }
  });

  const gram = gramOf(300, 128);
  test.each(named)("leaves a smaller error of the outputs than rounding to nearest, by the named factor: $name", async ({ format }) => {
    const shape = [16, 128] as const;
    const values = weightsOf(shape);
    const nearest = nearestOutputError(values, shape, format, gram);
    const error = outputError(values, dequantizeTensor(await quantizeGptq(values, shape, format, gram)), gram, 128);
    expect(error).toBeLessThan(tolerances.gptqGain * nearest);
    const ordered = outputError(values, dequantizeTensor(await quantizeGptq(values, shape, format, gram, { activationOrder: true })), gram, 128);
    expect(ordered).toBeLessThan(tolerances.gptqGain * nearest);
  });

  test("rounds columns that no input reaches to the nearest", async () => {
    const [rows, K] = [4, 64];
    const values = weightsOf([rows, K]);
    const format: ScaledFormat = { type: "int4", mode: "absmax", granularity: "channel" };
    const { codes } = await quantizeGptq(values, [rows, K], format, gramOf(300, K, [3, 31, 32, 63]));
    const nearest = quantizeTensor(values, [rows, K], format).codes;
    for (const k of [3, 31, 32, 63]) for (let row = 0; row < rows; row++) expect(codes[row * K + k]).toBe(nearest[row * K + k]);
    expect(codes).not.toEqual(nearest); // control case: the others moved
    expect(await quantizeGptq(values, [rows, K], format, new Float32Array(K * K))).toEqual(quantizeTensor(values, [rows, K], format));
  });

  test("works with fewer rows than columns, and with inputs of sizes from 1e-6 to 1e6", async () => {
    const shape = [4, 96] as const;
    const values = weightsOf(shape);
    for (const format of [int4Group, { type: "nf4", block: 64 } as const]) {
      const singular = gramOf(3, 96);
      expect(outputError(values, dequantizeTensor(await quantizeGptq(values, shape, format, singular)), singular, 96)).toBeLessThan(0.5 * nearestOutputError(values, shape, format, singular));
      const gram = gramOf(300, 96);
      const wide = gram.map((value, i) => value * 10 ** (((Math.floor(i / 96) % 13) - 6 + ((i % 96) % 13) - 6)));
      expect(outputError(values, dequantizeTensor(await quantizeGptq(values, shape, format, wide)), wide, 96)).toBeLessThan(nearestOutputError(values, shape, format, wide));
    }
  });

  test("adds more to the diagonal where rounding made the gram indefinite, and refuses what is far from a gram", async () => {
    const shape = [2, 40] as const;
    const values = weightsOf(shape);
    const gram = gramOf(200, 40);
    const mean = gram.reduce((sum, value, i) => (i % 41 === 0 ? sum + value / 40 : sum), 0);
    const shifted = (share: number): Float32Array => gram.map((value, i) => (i % 41 === 0 ? value - share * mean : value));
    await expect(quantizeGptq(values, shape, int4Group, shifted(0.5))).resolves.toBeDefined(); // some eigenvalues are −0.4 means
    await expect(quantizeGptq(values, shape, int4Group, gram.map((value) => -value))).rejects.toThrow("has no Cholesky factorization, even with 10 times its mean diagonal");
  });

  test("keeps f32 and f16 as quantizeTensor does", async () => {
    const values = weightsOf([2, 8]);
    for (const format of [{ type: "f32" }, { type: "f16" }] as const) expect(await quantizeGptq(values, [2, 8], format, gramOf(20, 8))).toEqual(quantizeTensor(values, [2, 8], format));
  });

  test("refuses a gram of another size or with NaN, having taken the right one", async () => {
    const values = weightsOf([2, 40]);
    const gram = gramOf(60, 40);
    await quantizeGptq(values, [2, 40], int4Group, gram); // control case
    await expect(quantizeGptq(values, [2, 40], int4Group, gram.subarray(1))).rejects.toThrow(new RangeError("gram has 1599 elements; expected 1600 for 40 columns."));
    gram[3 * 40 + 7] = NaN;
    const error = await quantizeGptq(values, [2, 40], int4Group, gram).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(EngineError);
    expect(error).toMatchObject({ code: "quantize", message: "The inputs' gram holds NaN at [3, 7]; expected finite numbers.", details: { row: 3, column: 7 } });
  });

  test("refuses weights that quantizeTensor refuses", async () => {
    const values = weightsOf([2, 40]);
    values[45] = Infinity;
    await expect(quantizeGptq(values, [2, 40], int4Group, gramOf(60, 40))).rejects.toThrow("Weight at row 1, column 5, group 2 is Infinity; expected a finite weight.");
    for (const largest of [3.4e38, -3.4e38]) {
      const equal = new Float32Array(64).fill(largest);
      const result = await quantizeGptq(equal, [1, 64], { ...int4Group, granularity: "channel" }, gramOf(60, 64)).catch((reason: unknown) => reason);
      if (!(result instanceof EngineError)) expect(dequantizeTensor(result as Awaited<ReturnType<typeof quantizeGptq>>).every(Number.isFinite)).toBe(true);
    }
  });

  test("rests while it works, stops when the rest throws, and gives the same codes however often it rests", async () => {
    const shape = [4, 40] as const;
    const values = weightsOf(shape);
    const expected = await quantizeGptq(values, shape, int4Group, gramOf(60, 40));
    let nowMs = 0;
    using _clock = vi.spyOn(performance, "now").mockImplementation(() => (nowMs += 7));
    let rests = 0;
    const rest = async (): Promise<void> => void rests++;
    expect(await quantizeGptq(values, shape, int4Group, gramOf(60, 40), { rest })).toEqual(expected);
    expect(rests).toBeGreaterThan(20);
    await expect(quantizeGptq(values, shape, int4Group, gramOf(60, 40), { rest: async () => Promise.reject(new Error("aborted")) })).rejects.toThrow("aborted");
  });
});

describe("factorUpper", () => {
  test.each([1, 2, 63, 64, 65, 150])("finds R with R · Rᵀ = H, K = %i", async (K) => {
    const gram = gramOf(2 * K, K);
    const r = Float64Array.from(gram, (value, i) => value + (i % (K + 1) === 0 ? 1 : 0));
    const h = r.slice();
    expect(await factorUpper(r, K, async () => undefined)).toBe(true);
    let worst = 0;
    for (let i = 0; i < K; i++) {
      for (let j = i; j < K; j++) {
        let sum = 0;
        for (let k = j; k < K; k++) sum += r[i * K + k]! * r[j * K + k]!;
        worst = Math.max(worst, Math.abs(sum - h[i * K + j]!) / Math.sqrt(h[i * K + i]! * h[j * K + j]!));
      }
    }
    expect(worst).toBeLessThan(tolerances.factorization);
  });
  test("says so where H is not positive definite", async () => {
    expect(await factorUpper(Float64Array.of(1, 2, 2, 4.1), 2, async () => undefined)).toBe(true); // control case
    expect(await factorUpper(Float64Array.of(1, 2, 2, 3.9), 2, async () => undefined)).toBe(false);
    expect(await factorUpper(Float64Array.of(0), 1, async () => undefined)).toBe(false);
  });
});
