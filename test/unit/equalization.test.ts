import { describe, expect, test, vi } from "vitest";
import { openCheckpoint } from "../../src/checkpoint/openCheckpoint.ts";
import type { Checkpoint } from "../../src/checkpoint/types.ts";
import { EngineError } from "../../src/errors.ts";
import { awqFactor, equalized, findFactors, searchSmoothQuantFactor, smoothQuantFactor } from "../../src/quantize/equalization.ts";
import type { InputStatistics } from "../../src/quantize/inputStatistics.ts";
import { dequantizeTensor, quantizeTensor } from "../../src/quantize/nearest.ts";
import { presets } from "../../src/quantize/recipes.ts";
import { openSource } from "../../src/source/openSource.ts";
import type { QuantizationRecipe, TensorFormat } from "../../src/types.ts";
import { gaussian, seededCheckpoint, type SeededCheckpointOptions, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";
import { inputStatistics, referenceLogits, type ReferenceTensor, type ReferenceWeights, roundHalfToEven } from "../reference/gpt2.ts";
import { outputError } from "../reference/gptq.ts";
import { referenceInputs } from "../reference/observation.ts";
import { tolerances } from "../tolerances.ts";

const open = (options: SeededCheckpointOptions): Promise<Checkpoint> => openCheckpoint(openSource(seededCheckpoint(options)));

async function weightsOf(checkpoint: Checkpoint): Promise<ReferenceWeights> {
  const weights = new Map<string, ReferenceTensor>();
  for await (const { tensor, values } of checkpoint.read()) weights.set(tensor.name, { shape: tensor.shape, values });
  return weights;
}

/** The oracle's statistics in the engine's types; rows: lists of one or more rows of K values. */
function referenceStatistics(rows: readonly ArrayLike<number>[], K: number): InputStatistics & { gram: Float32Array } {
  const { rows: count, absmax, meanAbs, histogram, gram } = inputStatistics(rows.flatMap((row) => Array.from(row)), K);
  return { rows: count, absmax: Float32Array.from(absmax), meanAbs: Float32Array.from(meanAbs), histogram: Uint32Array.from(histogram), gram: Float32Array.from(gram) };
}

const tokensOf = (vocabSize: number, count: number): number[] => Array.from({ length: count }, (_, i) => (i * 7919 + 13) % vocabSize);

/** A factor from 0.1 to 10 for every matrix that may have one. */
function randomFactors({ tensors }: Checkpoint): Map<string, Float32Array> {
  const sites = tensors.filter(({ name }) => /(c_attn|attn\.c_proj|c_fc)\.weight$/.test(name));
  return new Map(sites.map(({ name, shape }, i) => [name, gaussian(shape[1], 0.5, 0, 40 + i).map((x) => 10 ** Math.max(-1, Math.min(1, x)))]));
}

/** The largest difference of logits over the largest logit. */
async function logitDifference(original: Checkpoint, other: Checkpoint): Promise<number> {
  const { config } = original;
  const tokens = tokensOf(config.vocabSize, Math.min(config.nPositions, 12));
  const expected = referenceLogits(config, await weightsOf(original), tokens);
  const actual = referenceLogits(config, await weightsOf(other), tokens);
  const largest = expected.reduce((max, logit) => Math.max(max, Math.abs(logit)), 0);
  return actual.reduce((max, logit, i) => Math.max(max, Math.abs(logit - expected[i]!)), 0) / largest;
}

const small = { nLayer: 2, nHead: 2, nEmbd: 32, nPositions: 64, vocabSize: 101 };
const variants: Readonly<Record<string, SeededCheckpointOptions>> = {
  width2: tinyCheckpoints.width2,
  width100: tinyCheckpoints.width100,
  oneLayer: tinyCheckpoints.oneLayer,
  context300: tinyCheckpoints.context300,
  "scores not scaled": { ...small, scaleAttnWeights: false },
};

describe("equalized", () => {
  test.each(Object.keys(variants))("leaves the function of the model alone: %s", async (name) => {
    const checkpoint = await open(variants[name]!);
    expect(await logitDifference(checkpoint, equalized(checkpoint, randomFactors(checkpoint)))).toBeLessThan(tolerances.equalizedLogit);
  });

  test.each(["h.0.attn.c_attn.weight", "h.1.attn.c_proj.weight", "h.1.mlp.c_fc.weight"])("multiplies the columns of %s, and does so without touching the function", async (name) => {
    const checkpoint = await open(small);
    const factor = randomFactors(checkpoint).get(name)!;
    const view = equalized(checkpoint, new Map([[name, factor]]));
    const before = (await weightsOf(checkpoint)).get(name)!.values;
    const after = (await weightsOf(view)).get(name)!.values;
    expect([...after]).toEqual([...before].map((weight, i) => Math.fround(weight * factor[i % 32]!)));
    expect(await logitDifference(checkpoint, view)).toBeLessThan(tolerances.equalizedLogit);
  });

  test("passes on what no factor concerns, to the bit", async () => {
    const checkpoint = await open(small);
    const view = equalized(checkpoint, new Map([["h.1.attn.c_proj.weight", new Float32Array(32).fill(2)]]));
    expect(view).toMatchObject({ config: checkpoint.config, description: checkpoint.description, tensors: checkpoint.tensors });
    const [before, after] = [await weightsOf(checkpoint), await weightsOf(view)];
    const changed = [...before].filter(([name, { values }]) => values.some((value, i) => value !== after.get(name)!.values[i])).map(([name]) => name);
    expect(changed.sort()).toEqual(["h.1.attn.c_attn.bias", "h.1.attn.c_attn.weight", "h.1.attn.c_proj.weight"]);
    expect(await weightsOf(equalized(checkpoint, new Map()))).toEqual(before);
  });

  test("refuses factors of other matrices, lengths and values, having taken right ones", async () => {
    const checkpoint = await open(small);
    const factor = new Float32Array(32).fill(2);
    equalized(checkpoint, new Map([["h.0.mlp.c_fc.weight", factor]])); // control case
    for (const name of ["h.0.mlp.c_proj.weight", "h.2.mlp.c_fc.weight", "wte.weight"]) {
      expect(() => equalized(checkpoint, new Map([[name, factor]]))).toThrow(`factors has "${name}", which no scale can pass to`);
    }
    expect(() => equalized(checkpoint, new Map([["h.0.mlp.c_fc.weight", factor.subarray(1)]]))).toThrow(new RangeError('The factor of "h.0.mlp.c_fc.weight" has 31 elements; expected 32.'));
    for (const bad of [0, -1, NaN, Infinity]) {
      expect(() => equalized(checkpoint, new Map([["h.0.mlp.c_fc.weight", factor.with(3, bad)]]))).toThrow(new RangeError(`The factor of "h.0.mlp.c_fc.weight" is ${bad} at 3; expected finite numbers above 0.`));
    }
  });
});

const isFactor = (factor: Float32Array): boolean => factor.every((s) => s >= Math.fround(1e-5) && s <= 1e5);

/** 500 rows of K inputs, neighbours alike; column 5 of every 16 is 30 times as large. */
function inputsOf(K: number, outlier = 30): Float64Array[] {
  const noise = gaussian(500 * K, 1, 0, 21);
  return Array.from({ length: 500 }, (_, t) => {
    let state = 0;
    return Float64Array.from({ length: K }, (_, k) => (state = 0.5 * state + noise[t * K + k]!) * (k % 16 === 5 ? outlier : 1));
  });
}

describe("smoothQuantFactor", () => {
  test("is max|x|^α / max|w|^(1 − α), column by column", () => {
    const weights = Float32Array.of(1, -4, 0.25, 0.5, 2, -0.5);
    const absmax = Float32Array.of(16, 1, 4);
    expect([...smoothQuantFactor(weights, [2, 3], { absmax }, 0.5)]).toEqual([4, 1 / 2, 2 / Math.SQRT1_2].map(Math.fround));
    expect([...smoothQuantFactor(weights, [2, 3], { absmax }, 1)]).toEqual([16, 1, 4]);
    expect([...smoothQuantFactor(weights, [2, 3], { absmax }, 0)]).toEqual([1, 1 / 4, 2]);
  });
  test("is 1 for columns without inputs or weights, and finite and positive whatever it is given", () => {
    const weights = Float32Array.of(0, 1, 1e-30, 1e30, 1, 1);
    const factor = smoothQuantFactor(weights, [1, 6], { absmax: Float32Array.of(1, 0, 1e30, 1e-30, NaN, Infinity) }, 0.5);
    expect([...factor]).toEqual([1, 1, 1e5, Math.fround(1e-5), 1, 1e5]);
  });
});

describe("searchSmoothQuantFactor", () => {
  const shape = [40, 48] as const;
  const weights = gaussian(40 * 48, 0.3, 0, 31);
  const format: TensorFormat = { type: "int8", mode: "absmax", granularity: "channel" };
  const rows = inputsOf(48);
  const statistics = referenceStatistics(rows, 48);

  /** Σ over rows and outputs of (W x − W'' x'')², both operands rounded to int8: the whole thing done. */
  function trueError(factor: Float32Array): number {
    const restored = dequantizeTensor(quantizeTensor(weights.map((w, i) => w * factor[i % 48]!), shape, format));
    const step = Math.max(...statistics.absmax.map((x, k) => x / factor[k]!)) / 127;
    let error = 0;
    for (const x of rows) {
      const rounded = x.map((value, k) => roundHalfToEven(value / factor[k]! / step) * step);
      for (let n = 0; n < 40; n++) {
        let difference = 0;
        for (let k = 0; k < 48; k++) difference += weights[n * 48 + k]! * x[k]! - restored[n * 48 + k]! * rounded[k]!;
        error += difference ** 2;
      }
    }
    return error;
  }

  test("finds a factor whose error is close to the best α's, and far below the error without one", async () => {
    const { factor, alpha } = await searchSmoothQuantFactor(weights, shape, format, statistics);
    expect(isFactor(factor)).toBe(true);
    expect(factor).toEqual(smoothQuantFactor(weights, shape, statistics, alpha!));
    const errors = Array.from({ length: 13 }, (_, i) => trueError(smoothQuantFactor(weights, shape, statistics, 0.3 + 0.05 * i)));
    expect(trueError(factor)).toBeLessThan(tolerances.searchedError * Math.min(...errors));
    expect(trueError(factor)).toBeLessThan(0.2 * trueError(new Float32Array(48).fill(1)));
  });
  test("is all ones where inputs and weights are of one size", async () => {
    const alike = referenceStatistics(rows.map((row) => row.map(Math.sign)), 48);
    expect(await searchSmoothQuantFactor(weights.map(Math.sign), shape, format, alike)).toEqual({ factor: new Float32Array(48).fill(1) });
  });
});

describe("awqFactor", () => {
  const shape = [48, 64] as const;
  const weights = gaussian(48 * 64, 0.3, 0, 33);
  const statistics = referenceStatistics(inputsOf(64), 64);
  const errorUnder = (factor: Float32Array, format: TensorFormat): number => {
    const restored = dequantizeTensor(quantizeTensor(weights.map((w, i) => w * factor[i % 64]!), shape, format));
    return outputError(weights, restored.map((w, i) => w / factor[i % 64]!), statistics.gram, 64);
  };

  test.each([{ type: "int4", mode: "zeropoint", granularity: { group: 32 } }, { type: "int4", mode: "absmax", granularity: "channel" }, { type: "nf4", block: 64 }] as const)(
    "is the power of the mean magnitudes with the least error of the outputs: %o",
    async (format) => {
      const { meanAbs } = statistics;
      const factors = Array.from({ length: 21 }, (_, i) => {
        const s = Array.from(meanAbs, (mean) => mean ** (i / 20));
        const middle = Math.sqrt(Math.max(...s) * Math.min(...s));
        return Float32Array.from(s, (value) => value / middle);
      });
      const errors = factors.map((factor) => errorUnder(factor, format));
      const { factor: found, alpha } = await awqFactor(weights, shape, format, statistics);
      expect(alpha).toBe(errors.indexOf(Math.min(...errors)) / 20);
      const best = factors[errors.indexOf(Math.min(...errors))]!;
      expect(Math.max(...found.map((s, k) => Math.abs(s / best[k]! - 1)))).toBeLessThan(tolerances.factor);
      expect(Math.min(...errors)).toBeLessThan(0.6 * errors[0]!);
    },
  );

  test("is 1 for columns without inputs, and everywhere where there are none at all", async () => {
    const dead = referenceStatistics(inputsOf(64).map((row) => row.map((x, k) => (k < 3 ? 0 : x))), 64);
    const { factor } = await awqFactor(weights, shape, { type: "nf4", block: 64 }, dead);
    expect(isFactor(factor)).toBe(true);
    expect([...factor.subarray(0, 3)]).toEqual([1, 1, 1]);
    expect(factor[3]).not.toBe(1); // control case
    expect(await awqFactor(weights, shape, { type: "nf4", block: 64 }, referenceStatistics([new Float64Array(64)], 64))).toEqual({ factor: new Float32Array(64).fill(1) });
  });

  test("asks for the gram, having worked with it", async () => {
    const format: TensorFormat = { type: "nf4", block: 64 };
    await awqFactor(weights, shape, format, statistics); // control case
    await expect(awqFactor(weights, shape, format, { ...statistics, gram: null })).rejects.toThrow(new RangeError("statistics.gram has no elements; expected 4096 for 64 columns."));
    await expect(searchSmoothQuantFactor(weights, shape, format, { ...statistics, gram: null })).rejects.toThrow("statistics.gram has no elements");
  });

  test("rests while it searches, and stops when the rest throws", async () => {
    let nowMs = 0;
    using _clock = vi.spyOn(performance, "now").mockImplementation(() => (nowMs += 7));
    let rests = 0;
    const rest = async (): Promise<void> => void rests++;
    await awqFactor(weights, shape, { type: "nf4", block: 64 }, statistics, { rest });
    expect(rests).toBeGreaterThan(10);
    await expect(awqFactor(weights, shape, { type: "nf4", block: 64 }, statistics, { rest: async () => Promise.reject(new Error("aborted")) })).rejects.toThrow("aborted");
  });
});

describe("findFactors", () => {
  const int8 = presets["int8-static"];
  async function found(recipe: QuantizationRecipe): Promise<{ checkpoint: Checkpoint; factors: Map<string, Float32Array> }> {
    const checkpoint = await open(small);
    const inputs = referenceInputs(checkpoint.config, await weightsOf(checkpoint), [tokensOf(101, 64)]);
    const statisticsOf = async (name: string): Promise<InputStatistics> => referenceStatistics([inputs.get(name)!], 32);
    const found = await findFactors(checkpoint, recipe, statisticsOf);
    return { checkpoint, factors: new Map([...found].map(([name, { factor }]) => [name, factor])) };
  }
  const all = [0, 1].flatMap((layer) => ["attn.c_attn", "attn.c_proj", "mlp.c_fc"].map((matrix) => `h.${layer}.${matrix}.weight`));

  test.each([
    ["SmoothQuant", { ...int8, equalization: "smoothquant" }, all.filter((name) => !name.includes("c_proj"))],
    ["SmoothQuant with a search", { ...int8, equalization: "smoothquant", smoothing: "search" }, all],
    ["AWQ", { ...presets.int4, equalization: "awq" }, all],
    ["AWQ with a matrix in f16", { ...presets.int4, equalization: "awq", overrides: { "*.c_fc.weight": { type: "f16" } } }, all.filter((name) => !name.includes("c_fc"))],
    ["no equalization", int8, []],
  ] as const)("finds a factor for each matrix concerned, which leaves the function of the model alone: %s", async (_, recipe, names) => {
    const { checkpoint, factors } = await found(recipe);
    expect([...factors.keys()].sort()).toEqual([...names].sort());
    expect([...factors.values()].every(isFactor)).toBe(true);
    expect(await logitDifference(checkpoint, equalized(checkpoint, factors))).toBeLessThan(tolerances.equalizedLogit);
  });

  test("names the tensor that cannot be quantized", async () => {
    const checkpoint = await open(small);
    const huge: Checkpoint = {
      ...checkpoint,
      async *read() {
        for await (const { tensor, values } of checkpoint.read()) yield { tensor, values: tensor.name === "h.1.mlp.c_fc.weight" ? values.fill(3.4e38) : values };
      },
    };
    const statistics = referenceStatistics(inputsOf(32), 32);
    const error = await findFactors(huge, { ...presets.int4, equalization: "awq" }, async () => statistics).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(EngineError);
    expect(error).toMatchObject({ code: "quantize", details: { tensor: "h.1.mlp.c_fc.weight" } });
  });
});
