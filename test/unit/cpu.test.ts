import { isDeepStrictEqual } from "node:util";
import { describe, expect, test } from "vitest";
import { EngineError } from "../../src/errors.ts";
import type { Backend } from "../../src/model/backend.ts";
import { type CpuBackendOptions, createCpuBuilder } from "../../src/model/cpu.ts";
import { activationsOf } from "../../src/load/options.ts";
import { Input } from "../../src/model/cpu/input.ts";
import { allocateTogether, type CpuKernels, type CpuMatrix, createScratch, type InputCoding } from "../../src/model/cpu/kernels.ts";
import { plainKernels } from "../../src/model/cpu/plain.ts";
import { createSimdKernels } from "../../src/model/cpu/simd.ts";
import { fromHalfBits, toHalfBits } from "../../src/quantize/half.ts";
import { assembleTensor, dequantizeTensor, quantizeTensor } from "../../src/quantize/nearest.ts";
import { formatOf, presets } from "../../src/quantize/recipes.ts";
import { describeFormat, DYNAMIC_MAP_SIGNED, groupLayout, type ScaledFormat } from "../../src/quantize/formats.ts";
import { packRows } from "../../src/quantize/packRows.ts";
import type { PresetName, QuantizationRecipe, QuantizedTensor, TensorFormat } from "../../src/types.ts";
import { int8ActivationCases } from "../fixtures/int8Activations.ts";
import { gaussian, seededCheckpoint, type SeededCheckpointOptions, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";
import { argmax, klDivergence, kvRoundings, logSoftmax, quantizeActivations, referenceLogits } from "../reference/gpt2.ts";
import { maxAbsError, nmse } from "../reference/metrics.ts";
import { disagreement, referenceInputs } from "../reference/observation.ts";
import { addReferenceWeights, dequantizedWeights, inputRoundingOf, type InputRanges, type ReferenceCheckpoint, referenceCheckpoint, tensorKind } from "../reference/weights.ts";
import { tolerances } from "../tolerances.ts";

const dot = (x: ArrayLike<number>, xStart: number, y: ArrayLike<number>, yStart: number, length: number): number => {
  let sum = 0;
  for (let i = 0; i < length; i++) sum += x[xStart + i]! * y[yStart + i]!;
  return sum;
};

const testedPresets = ["f32", "f16", "int8", "int8-zeropoint", "int8-absmax-tensor", "int8-zeropoint-tensor", "int4", "nf4", "nf4-dq", "fp4"] as const satisfies readonly PresetName[];

/** Token ids spread over the vocabulary, the first and last among them. */
function tokensFor({ config: { vocabSize } }: ReferenceCheckpoint, count: number): number[] {
  return Array.from({ length: count }, (_, i) => (i === 0 ? vocabSize - 1 : (i * 7919) % vocabSize));
}

/** How matrices of int8 take activations where nothing else is asked for: each row by its own range, without outliers. */
const dynamic: InputCoding = { range: 0, outlierThreshold: Infinity };

/** With weights that the codes do not have. */
function withF16Columns(tensor: QuantizedTensor, columns: number[]): QuantizedTensor {
  if (columns.length === 0) return tensor;
  const weights = toHalfBits(gaussian(tensor.shape[0] * columns.length, 1, 0.3, 77)).bits;
  return assembleTensor(tensor.format, tensor.shape, { ...tensor, f16Columns: { columns: Uint32Array.from(columns), weights } });
}

/** The arithmetic of int8 activations as input.ts words it; f32 [tokens, O]. */
function multiplyInIntegers(tensor: QuantizedTensor, x: Float32Array, tokens: number, { range, outlierThreshold }: InputCoding): Float32Array {
  const { format, shape: [O, K], codes, scales, zeroPoints } = tensor;
  const { lineCount, groupLength, groupsPerLine } = groupLayout(format as ScaledFormat, [O, K]);
  const restored = dequantizeTensor(tensor);
  const { columns = new Uint32Array(0), weights = new Uint16Array(0) } = tensor.f16Columns ?? {};
  fromHalfBits(weights).forEach((weight, i) => (restored[Math.floor(i / columns.length) * K + columns[i % columns.length]!] = weight)); // outliers alone meet these
  const y = new Float32Array(tokens * O);
  for (let t = 0; t < tokens; t++) {
    const row = quantizeActivations(x.subarray(t * K, (t + 1) * K), { range: range || undefined, outlierThreshold });
    for (let o = 0; o < O; o++) {
      const sums = new Map<number, number>(); // by index of the scale
      for (let k = 0; k < K; k++) {
        const group = (lineCount === 1 ? 0 : o * groupsPerLine) + Math.floor(k / groupLength);
        sums.set(group, (sums.get(group) ?? 0) + row.codes[k]! * (codes[o * K + k]! - (zeroPoints?.[group] ?? 0)));
      }
      for (const [group, sum] of sums) y[t * O + o]! += Math.fround(Math.fround(Math.fround(sum) * row.scale) * scales[group]!);
      row.isOutlier.forEach((isOutlier, k) => isOutlier && (y[t * O + o]! += Math.fround(x[t * K + k]! * restored[o * K + k]!)));
    }
  }
  return y;
}

const checkpoints = Object.entries(tinyCheckpoints).map(([name, options]) => [name, referenceCheckpoint(seededCheckpoint(options))] as const);
const context300 = checkpoints.find(([name]) => name === "context300")![1];
const width100 = checkpoints.find(([name]) => name === "width100")![1];
const V = context300.config.vocabSize;

describe.each([
  ["WASM SIMD", createSimdKernels, true],
  ["plain TypeScript", () => plainKernels, false],
] as const)("in %s", (name, createKernels, simd) => {
  async function buildCpu({ config, weights }: ReferenceCheckpoint, recipe: QuantizationRecipe = presets.f32, options: Partial<CpuBackendOptions> = {}, ranges?: InputRanges, f16Columns?: readonly number[]): Promise<Backend> {
    const builder = createCpuBuilder({ config, contextLength: config.nPositions, kvCache: "f32", simd, ...activationsOf(recipe), ...options });
    await addReferenceWeights(builder, weights, recipe, ranges, f16Columns);
    const backend = await builder.finish();
    expect(backend.adapter.description).toBe(`${name} on the CPU`);
    return backend;
  }

  describe("the CPU backend against the f64 oracle", () => {
    describe.each(checkpoints)("%s", (_name, checkpoint) => {
      const { config, weights } = checkpoint;
      test.each(testedPresets)("agrees under %s, from one token to a full context", async (preset) => {
        const recipe = presets[preset];
        const backend = await buildCpu(checkpoint, recipe);
        const tokens = tokensFor(checkpoint, Math.min(config.nPositions, 20));
        const restored = dequantizedWeights(weights, recipe);
        const rows = [0, tokens.length - 1];
        const expected = referenceLogits(config, restored, tokens, { rows, kvRounding: kvRoundings.f32 });
        for (const [i, row] of rows.entries()) {
          const logits = await backend.forward(tokens.slice(0, row + 1), 0);
          expect(maxAbsError(logits, expected.subarray(i * config.vocabSize, (i + 1) * config.vocabSize))).toBeLessThan(tolerances.logit);
        }
      });
    });

    describe.each(int8ActivationCases)("under int8 activations with $name", ({ recipe, ranges, f16Columns, change = (checkpoint) => checkpoint }) => {
      test.each(checkpoints.filter(([name]) => name !== "fullVocabulary"))("of %s agrees with the oracle under the same rounding, and is not int8's result", async (_name, seeded) => {
        const checkpoint = change(seeded);
        const { config, weights } = checkpoint;
        const tokens = tokensFor(checkpoint, Math.min(config.nPositions, 20));
        const rows = [tokens.length - 1];
        const restored = dequantizedWeights(weights, recipe, f16Columns?.(checkpoint));
        const rounded = referenceLogits(config, restored, tokens, { rows, inputRounding: inputRoundingOf(recipe, ranges) });
        const exact = referenceLogits(config, restored, tokens, { rows });
        const backend = await buildCpu(checkpoint, recipe, {}, ranges, f16Columns?.(checkpoint));
        const together = await backend.forward(tokens, 0);
        await backend.forward(tokens.slice(0, -1), 0);
        const last = await backend.forward(tokens.slice(-1), tokens.length - 1);
        for (const logits of [together, last]) {
          expect(maxAbsError(logits, rounded)).toBeLessThan(tolerances.logitActivationsInt8);
          expect(maxAbsError(logits, rounded)).toBeLessThan(Math.max(tolerances.logit, maxAbsError(logits, exact) / 2));
        }
      });
    });

    test("takes outliers as f32: all of them make float activations, none make int8-dynamic's result", async () => {
      const { config, weights } = width100;
      const recipe = presets["int8-dynamic"];
      const tokens = tokensFor(width100, 20);
      const run = async (outlierThreshold: number): Promise<Float32Array> => (await buildCpu(width100, recipe, { outlierThreshold })).forward(tokens, 0);
      expect(maxAbsError(await run(1e-30), referenceLogits(config, dequantizedWeights(weights, recipe), tokens, { rows: [19] }))).toBeLessThan(tolerances.logit);
      expect(await run(1e30)).toEqual(await (await buildCpu(width100, recipe)).forward(tokens, 0));
    });

    test("agrees at the end of a context longer than one chunk", async () => {
      const { config, weights } = context300;
      const tokens = tokensFor(context300, 300);
      const logits = await (await buildCpu(context300)).forward(tokens, 0);
      expect(maxAbsError(logits, referenceLogits(config, weights, tokens, { rows: [299] }))).toBeLessThan(tolerances.logit);
    });

    test.each([
      { scaleAttnWeights: false },
      { scaleAttnByInverseLayerIdx: true },
      { layerNormEpsilon: 0.5 },
      { activation: "relu" },
      { activation: "gelu" },
    ] satisfies Partial<SeededCheckpointOptions>[])("honours %o, which changes the logits", async (field) => {
      const plain: SeededCheckpointOptions = { nLayer: 2, nHead: 2, nEmbd: 16, nPositions: 16, vocabSize: 60 };
      const checkpoint = referenceCheckpoint(seededCheckpoint({ ...plain, ...field }));
      const tokens = tokensFor(checkpoint, 12);
      const logits = await (await buildCpu(checkpoint)).forward(tokens, 0);
      const expected = referenceLogits(checkpoint.config, checkpoint.weights, tokens, { rows: [11] });
      const without = referenceLogits(referenceCheckpoint(seededCheckpoint(plain)).config, checkpoint.weights, tokens, { rows: [11] });
      expect(maxAbsError(logits, expected)).toBeLessThan(tolerances.logit);
      expect(maxAbsError(logits, without)).toBeGreaterThan(3 * tolerances.logit); // erf and tanh forms of GELU differ by 7e-4 here
    });
  });

  describe("the KV cache", () => {
    test.each([
      ["f16", tolerances.logitKvF16],
      ["int8", tolerances.logitKvInt8],
    ] as const)("in %s agrees with the oracle under the same rounding, and is not f32's result", async (kvCache, tolerance) => {
      const { config, weights } = context300;
      const tokens = tokensFor(context300, 150);
      const logits = await (await buildCpu(context300, presets.f32, { kvCache })).forward(tokens, 0);
      const rounded = referenceLogits(config, weights, tokens, { rows: [149], kvRounding: kvRoundings[kvCache] });
      const exact = referenceLogits(config, weights, tokens, { rows: [149] });
      expect(maxAbsError(logits, rounded)).toBeLessThan(tolerance);
      expect(maxAbsError(logits, rounded)).toBeLessThan(maxAbsError(logits, exact) / 2);
    });

    test.each(["f32", "f16", "int8"] as const)("in %s gives the same logits however the tokens were cut into calls", async (kvCache) => {
      const backend = await buildCpu(context300, presets.f32, { kvCache });
      const tokens = tokensFor(context300, 140);
      const whole = await backend.forward(tokens, 0);
      let last = await backend.forward(tokens.slice(0, 3), 0);
      last = await backend.forward(tokens.slice(3, 135), 3);
      for (let position = 135; position < 140; position++) last = await backend.forward([tokens[position]!], position);
      expect(last).toEqual(whole);
    });

    test("is overwritten from the position that a call starts at", async () => {
      const backend = await buildCpu(context300);
      const tokens = tokensFor(context300, 10);
      const expected = await backend.forward(tokens, 0);
      await backend.forward([1, 2, 3, 4, 5, 6, 7], 4);
      expect(await backend.forward(tokens.slice(4), 4)).toEqual(expected);
    });

    test.each([
      ["f32", 4],
      ["f16", 2],
      ["int8", 1 + 4 / 12],
    ] as const)("in %s takes %d bytes per value, and in f16 room for the position that is rounded", async (kvCache, bytesPerValue) => {
      const { nLayer, nEmbd } = context300.config;
      const { memory } = await buildCpu(context300, presets.f32, { kvCache, contextLength: 100 });
      const roundedBytes = kvCache === "f16" ? 2 * 2 * 40 : 0; // 36 values, in whole vectors of 8
      expect(memory.kvCache).toBeCloseTo(2 * nLayer * 100 * nEmbd * bytesPerValue + roundedBytes, 6);
    });
  });

  describe("a quantized matrix", () => {
    const formats: TensorFormat[] = [
      { type: "f32" },
      { type: "f16" },
      ...(["int8", "int4"] as const).flatMap((type) =>
        (["absmax", "zeropoint"] as const).flatMap((mode) => (["tensor", "channel", { group: 32 }, { group: 64 }] as const).map((granularity) => ({ type, mode, granularity }))),
      ),
      ...(["nf4", "fp4"] as const).flatMap((type) => ([32, 64, 256] as const).map((block) => ({ type, block }))),
      { type: "nf4", block: 64, doubleQuantization: true },
      { type: "fp4", block: 32, doubleQuantization: true },
    ];
    const shapes = [[1, 1], [3, 2], [5, 7], [9, 31], [6, 33], [7, 64], [13, 100], [4, 130]] as const;

    /** Rows of a matrix times `tokens` rows of x, in two calls that share the rows between them; f32 [tokens, O]. */
    function multiply(matrix: CpuMatrix, kernels: CpuKernels, x: Float32Array, tokens: number): Float32Array {
      const { O, K } = matrix;
      const { input, scratch, y } = allocateTogether(kernels, (kernels) => {
        return { input: new Input(kernels, tokens, K), scratch: createScratch(kernels, tokens, K), y: kernels.allocate(Float32Array, tokens * O) };
      });
      input.load(x, tokens, K, matrix.coding);
      const middle = O >> 1;
      matrix.multiply(input, { values: y, start: 0, stride: O, count: tokens }, 0, middle, scratch);
      matrix.multiply(input, { values: y, start: middle, stride: O, count: tokens }, middle, O, scratch);
      return y.slice();
    }

    const inputsOf = (tokens: number, K: number): Float32Array => Float32Array.from({ length: tokens * K }, (_, i) => Math.sin(i + 1));

    test.each(formats)("%o restores what dequantizeTensor does and multiplies by it, at any width", (format) => {
      const kernels = createKernels()!;
      for (const [O, K] of shapes) {
        const tensor = quantizeTensor(gaussian(O * K, 1, 0.3, O + K), [O, K], format);
        const expected = dequantizeTensor(tensor);
        const matrix = kernels.createMatrix(packRows(tensor), null);

        const stride = K + 32;
        const restored = kernels.allocate(Float32Array, O * stride);
        matrix.restoreRows(0, O, restored, stride);
        for (let o = 0; o < O; o++) expect(restored.slice(o * stride, o * stride + K)).toEqual(expected.slice(o * K, (o + 1) * K));

        for (const tokens of [1, 2, 7]) {
          const x = inputsOf(tokens, K);
          const products = Float64Array.from({ length: tokens * O }, (_, i) => dot(x, Math.floor(i / O) * K, expected, (i % O) * K, K));
          expect(nmse(multiply(matrix, kernels, x, tokens), products)).toBeLessThan(tolerances.kernelNmse.quantized);
        }
      }
    });

    const codings = [dynamic, { range: Math.fround(0.7), outlierThreshold: Infinity }, { range: 0, outlierThreshold: Math.fround(0.6) }, { range: 0.5, outlierThreshold: Math.fround(0.9) }, { range: 0, outlierThreshold: Math.fround(1e-30) }];
    test.each(formats.filter(({ type }) => type === "int8"))("%o multiplies int8 activations in exact integers, then rounds step by step, outliers last, with f16 weights where there are any", (format) => {
      const kernels = createKernels()!;
      for (const [O, K] of [...shapes, [50, 70] as const]) {
        const codes = quantizeTensor(gaussian(O * K, 1, 0.3, O + K), [O, K], format);
        const tensor = withF16Columns(codes, K % 2 === 0 ? [1, 4, K - 1].filter((k, i, all) => k < K && all.indexOf(k) === i) : []);
        for (const coding of codings) {
          const matrix = kernels.createMatrix(packRows(tensor), coding);
          expect(matrix.coding).toBe(coding);
          for (const tokens of [1, 2, 7]) {
            const x = inputsOf(tokens, K);
            x.fill(0, 0, tokens > 1 ? K : 0); // a row of zeros has a scale, too
            expect(multiply(matrix, kernels, x, tokens)).toEqual(multiplyInIntegers(tensor, x, tokens, coding));
          }
        }
      }
    });

    test("of another format takes activations as they are, also where int8 was asked for", () => {
      for (const format of formats) expect(createKernels()!.createMatrix(packRows(quantizeTensor(new Float32Array(6), [2, 3], format)), dynamic).coding).toBe(format.type === "int8" ? dynamic : null);
    });

    test.each(formats.map((format) => [describeFormat(format), format] as const))("%s gives back the tensor that it was made of", (_, format) => {
      for (const [O, K] of shapes) {
        const tensor = quantizeTensor(gaussian(O * K, 1, 0.3, O + K), [O, K], format);
        expect(isDeepStrictEqual(createKernels()!.createMatrix(packRows(tensor), null).toTensor(), tensor), `[${O}, ${K}]`).toBe(true);
      }
    });

    test("counts and gives back its f16 columns", () => {
      const codes = quantizeTensor(gaussian(13 * 100, 1, 0.3, 5), [13, 100], { type: "int8", mode: "zeropoint", granularity: "channel" });
      const tensor = withF16Columns(codes, [7, 42]);
      const [without, matrix] = [codes, tensor].map((each) => createKernels()!.createMatrix(packRows(each), dynamic));
      expect(matrix!.toTensor()).toEqual(tensor);
      expect(matrix!.scaleBytes - without!.scaleBytes).toBe(2 * 4 + 13 * 2 * 2);
    });

    test("keeps a map of scales that a checkpoint brings", () => {
      const kernels = createKernels()!;
      const nested = quantizeTensor(gaussian(3 * 64, 1, 0, 5), [3, 64], { type: "nf4", block: 32, doubleQuantization: true });
      const map = DYNAMIC_MAP_SIGNED.map((value) => value * 0.5);
      const tensor = assembleTensor(nested.format, nested.shape, { ...nested, doubleQuantization: { ...nested.doubleQuantization!, map } });
      expect(tensor.scales).not.toEqual(nested.scales); // control case
      const matrix = kernels.createMatrix(packRows(tensor), null);
      expect(matrix.toTensor()).toEqual(tensor);
      const restored = kernels.allocate(Float32Array, 3 * 64);
      matrix.restoreRows(0, 3, restored, 64);
      expect(restored).toEqual(dequantizeTensor(tensor));
    });

    test("keeps a zero point far outside int8 and still multiplies exactly", () => {
      const kernels = createKernels()!;
      const values = gaussian(4 * 64, 0.001, 1000, 5);
      const tensor = quantizeTensor(values, [4, 64], { type: "int8", mode: "zeropoint", granularity: "channel" });
      expect(Math.abs(tensor.zeroPoints![0]!)).toBeGreaterThan(1000);
      const restored = dequantizeTensor(tensor);
      expect(kernels.createMatrix(packRows(tensor), null).toTensor()).toEqual(tensor);
      const y = multiply(kernels.createMatrix(packRows(tensor), null), kernels, new Float32Array(64).fill(1), 1);
      expect(nmse(y, [0, 1, 2, 3].map((o) => restored.subarray(o * 64, (o + 1) * 64).reduce((sum, w) => sum + w, 0)))).toBeLessThan(tolerances.kernelNmse.quantized);
    });
  });

  describe("readTensor", () => {
    test.each(["f32", "int8-zeropoint", "nf4-dq"] as const)("gives back every tensor of a checkpoint loaded as %s", async (preset) => {
      const backend = await buildCpu(width100, presets[preset], { contextLength: 50 });
      for (const [tensorName, { shape, values }] of width100.weights) {
        const kind = tensorKind(tensorName);
        const isMatrix = kind === "linear" || kind === "embedding";
        const kept = Float32Array.from(values).slice(0, kind === "position" ? 50 * 100 : values.length);
        const expected = isMatrix ? quantizeTensor(kept, [shape[0]!, shape[1]!], formatOf(presets[preset], tensorName, kind)) : kept;
        expect(isDeepStrictEqual(await backend.readTensor(tensorName), expected), tensorName).toBe(true);
      }
    });
    test("rejects a name that the model does not have, and everything after dispose", async () => {
      const backend = await buildCpu(width100);
      await expect(backend.readTensor("h.9.ln_1.bias")).rejects.toMatchObject({ code: "checkpoint", details: { tensor: "h.9.ln_1.bias" } });
      backend.dispose();
      await expect(backend.readTensor("ln_f.bias")).rejects.toMatchObject({ code: "disposed" });
    });
  });

  describe("score", () => {
    test("is ln softmax of the logits at the target, row by row", async () => {
      const { config, weights } = context300;
      const tokens = tokensFor(context300, 200);
      const backend = await buildCpu(context300);
      await backend.encodeWindow(tokens);
      const scores = await backend.score(3, tokens.slice(4));
      const logits = referenceLogits(config, weights, tokens);
      const expected = tokens.slice(4).map((target, i) => logSoftmax(logits.subarray((3 + i) * V, (4 + i) * V))[target]!);
      expect(maxAbsError(scores, expected)).toBeLessThan(tolerances.logProb);
      expect(await backend.score(7, [tokens[8]!])).toEqual(scores.subarray(4, 5)); // one row takes another path
    });

    test("refuses rows that the last window does not have, having scored the last that it has", async () => {
      const backend = await buildCpu(context300);
      await expect(backend.score(0, [1])).rejects.toThrow("the last window has 0 rows");
      await backend.encodeWindow([1, 2, 3]);
      expect(await backend.score(2, [4])).toHaveLength(1); // control case
      await expect(backend.score(2, [4, 5])).rejects.toThrow(RangeError);
    });
  });

  describe("compare", () => {
    const recipe: QuantizationRecipe = { name: "coarse", linear: { type: "int4", mode: "absmax", granularity: "channel" }, embedding: { type: "nf4", block: 64 } };

    test("gives both log-probabilities, the divergence and whether the top tokens agree", async () => {
      const { config, weights } = context300;
      const tokens = tokensFor(context300, 160);
      const targets = tokens.slice(1);
      const [baseline, candidate] = [await buildCpu(context300), await buildCpu(context300, recipe)];
      await baseline.encodeWindow(tokens);
      await candidate.encodeWindow(tokens);
      const rows = await candidate.compare(baseline, 0, targets);

      const base = referenceLogits(config, weights, tokens);
      const coarse = referenceLogits(config, dequantizedWeights(weights, recipe), tokens);
      const row = (logits: Float64Array, t: number): Float64Array => logits.subarray(t * V, (t + 1) * V);
      const kl = targets.map((_, t) => klDivergence(row(base, t), row(coarse, t)));
      expect(Math.max(...kl)).toBeGreaterThan(0.01); // there is something to find
      expect(maxAbsError(rows.klDivergence, kl)).toBeLessThan(tolerances.klDivergence);
      expect(maxAbsError(rows.baseLogProbs, targets.map((target, t) => logSoftmax(row(base, t))[target]!))).toBeLessThan(tolerances.logProb);
      expect(maxAbsError(rows.logProbs, targets.map((target, t) => logSoftmax(row(coarse, t))[target]!))).toBeLessThan(tolerances.logProb);
      const same = targets.map((_, t) => (argmax(row(base, t)) === argmax(row(coarse, t)) ? 1 : 0));
      expect(new Set(same).size).toBe(2); // of both kinds
      expect([...rows.sameTop]).toEqual(same);
    });

    test("of a model with itself finds no divergence", async () => {
      const backend = await buildCpu(context300, recipe);
      await backend.encodeWindow([1, 2, 3, 4]);
      const rows = await backend.compare(backend, 0, [2, 3, 4]);
      expect(maxAbsError(rows.klDivergence, [0, 0, 0])).toBeLessThan(1e-12);
      expect([...rows.sameTop]).toEqual([1, 1, 1]);
      expect(rows.logProbs).toEqual(rows.baseLogProbs);
    });

    test("refuses another vocabulary and another kind of backend", async () => {
      const backend = await buildCpu(context300);
      const other = await buildCpu(width100);
      await backend.encodeWindow([1, 2]);
      await other.encodeWindow([1, 2]);
      await expect(backend.compare(other, 0, [2])).rejects.toThrow("vocabulary of 1003; expected 501");
      await expect(backend.compare({ ...other, adapter: { ...other.adapter, backend: "webgpu" } }, 0, [2])).rejects.toThrow(TypeError);
    });
  });

  describe("observe", () => {
    test.each(checkpoints.filter(([checkpoint]) => checkpoint !== "fullVocabulary"))("sums the inputs of every linear matrix of %s as the oracle has them", async (_name, checkpoint) => {
      const { config, weights } = checkpoint;
      const tokens = tokensFor(checkpoint, Math.min(config.nPositions, 150) + 1);
      const windows = [tokens.slice(0, -1), tokens.slice(-1)];
      const inputs = referenceInputs(config, weights, windows);
      const backend = await buildCpu(checkpoint);
      for (const gram of [false, true]) {
        const found = await backend.observe(windows, [...inputs.keys()], { gram });
        expect([...found.keys()]).toEqual([...inputs.keys()]);
        for (const [matrix, statistics] of found) {
          expect(disagreement(statistics, inputs.get(matrix)!), matrix).toBeNull();
          expect(statistics.gram === null).toBe(!gram);
        }
      }
    });

    test("counts tokens, and refuses a name that is no linear matrix", async () => {
      const backend = await buildCpu(context300);
      const counts: number[] = [];
      const tokens = tokensFor(context300, 300);
      const found = await backend.observe([tokens, [1]], ["h.0.mlp.c_fc.weight", "h.0.mlp.c_fc.weight"], { gram: false, onTokens: (count) => counts.push(count) });
      expect([...found.keys()]).toEqual(["h.0.mlp.c_fc.weight"]); // control case
      expect(counts).toEqual([128, 256, 300, 301]);
      for (const name of ["wpe.weight", "h.2.mlp.c_fc.weight"]) await expect(backend.observe([[1]], [name], { gram: false })).rejects.toThrow(`"${name}", which is no linear matrix`);
    });

    test("rejects NaN with the matrix that takes it, and sees none in front of it", async () => {
      const weights = new Map(context300.weights);
      weights.set("h.0.ln_2.bias", { shape: [36], values: new Float32Array(36).fill(NaN, 7, 8) });
      const backend = await buildCpu({ ...context300, weights });
      expect((await backend.observe([[1, 2]], ["h.0.attn.c_proj.weight"], { gram: true })).size).toBe(1); // control case
      await expect(backend.observe([[1, 2]], ["h.0.mlp.c_fc.weight"], { gram: true })).rejects.toMatchObject({ code: "shader", details: { tensor: "h.0.mlp.c_fc.weight", column: 7 } });
    });
  });

  describe("abort and dispose", () => {
    const tokens = tokensFor(context300, 300);

    test("an abort during each call rejects with the reason, and the backend gives the same logits after it", async () => {
      const backend = await buildCpu(context300);
      const expected = await backend.forward(tokens, 0);
      await backend.encodeWindow(tokens);
      const calls: ((signal: AbortSignal) => Promise<unknown>)[] = [
        (signal) => backend.score(0, tokens, signal),
        (signal) => backend.compare(backend, 0, tokens, signal),
        (signal) => backend.forward(tokens, 0, signal),
        (signal) => backend.encodeWindow(tokens, signal),
        (signal) => backend.observe([tokens], ["h.1.mlp.c_proj.weight"], { gram: true, signal }),
      ];
      for (const call of calls) {
        const controller = new AbortController();
        const reason = new Error("enough");
        const pending = repeat(() => call(controller.signal)); // a fast machine may finish one call before the timer fires
        setTimeout(() => controller.abort(reason), 1);
        await expect(pending).rejects.toBe(reason);
      }
      expect(await backend.forward(tokens, 0)).toEqual(expected);
    });

    test("a signal that has fired before the call rejects with its reason", async () => {
      const backend = await buildCpu(context300);
      await expect(backend.forward([1], 0, AbortSignal.abort("no"))).rejects.toBe("no");
      await expect(backend.forward([1], 0, new AbortController().signal)).resolves.toHaveLength(V); // control case
    });

    test("calls let timers run", async () => {
      const backend = await buildCpu(context300);
      let ticks = 0;
      const timer = setInterval(() => ticks++, 1);
      for (let calls = 0; ticks === 0 && calls < 500; calls++) await backend.forward(tokens, 0); // one may end before the timer is due
      clearInterval(timer);
      expect(ticks).toBeGreaterThan(0);
    });

    test("dispose drops every byte, rejects later calls and the one that runs, and may be called twice", async () => {
      const backend = await buildCpu(context300);
      const peak = backend.memory.peakBytes;
      const running = repeat(() => backend.forward(tokens, 0));
      setTimeout(() => backend.dispose(), 1);
      await expect(running).rejects.toMatchObject({ code: "disposed" });
      backend.dispose();
      expect(backend.memory).toEqual({ weights: 0, embedding: 0, scales: 0, kvCache: 0, activations: 0, staging: 0, total: 0, peakBytes: peak });
      await expect(backend.encodeWindow([1])).rejects.toBeInstanceOf(EngineError);
    });

    /** Calls until a call rejects. */
    async function repeat(call: () => Promise<unknown>): Promise<never> {
      for (;;) await call();
    }
  });

  describe("a model with a base", () => {
    const name = "h.1.mlp.c_fc.weight";
    const nf4: TensorFormat = { type: "nf4", block: 64 };
    const tokens = tokensFor(width100, 20);
    const own = new Map([[name, width100.weights.get(name)!]]);
    const borrow = (base: Backend, options: Partial<CpuBackendOptions> = {}, weights = own): Promise<Backend> => buildCpu({ ...width100, weights }, { linear: nf4 }, { base, ...options });

    test.each(["f32", "int8", "nf4-dq"] as const)("in %s gives the logits of the same model loaded whole", async (preset) => {
      const whole = await buildCpu(width100, { ...presets[preset], overrides: { [name]: nf4 } });
      const shared = await borrow(await buildCpu(width100, presets[preset]));
      for (const count of [1, 20]) expect(maxAbsError(await shared.forward(tokens.slice(0, count), 0), await whole.forward(tokens.slice(0, count), 0))).toBeLessThan(tolerances.logit);
      await shared.encodeWindow(tokens);
      await whole.encodeWindow(tokens);
      expect(await shared.score(0, tokens.slice(1))).toEqual(await whole.score(0, tokens.slice(1))); // bit for bit
    });

    test("compares with its base, and differs from it only by its own matrix", async () => {
      const base = await buildCpu(width100);
      const shared = await borrow(base);
      const same = await borrow(base, {}, new Map());
      for (const backend of [base, shared, same]) await backend.encodeWindow(tokens);
      expect(Math.max(...(await shared.compare(base, 0, tokens.slice(1))).klDivergence)).toBeGreaterThan(1e-4);
      expect(Math.max(...(await same.compare(base, 0, tokens.slice(1))).klDivergence)).toBeLessThan(tolerances.klDivergence);
    });

    test("owns what was added to it: its memory counts that alone, and disposing it leaves the base as it was", async () => {
      const base = await buildCpu(width100);
      const before = await base.forward(tokens, 0);
      const shared = await borrow(base);
      const { storedBytes } = quantizeTensor(Float32Array.from(own.get(name)!.values), [300, 100], nf4);
      expect(shared.memory).toMatchObject({ embedding: 0, weights: 300 * 50, scales: storedBytes - 300 * 50 });
      shared.dispose();
      expect(await base.forward(tokens, 0)).toEqual(before);
    });

    test("refuses a base of another shape, of another kind, with int8 activations or disposed, having accepted one of its own", async () => {
      const base = await buildCpu(width100);
      await borrow(base); // control case
      await expect(borrow(base, { contextLength: 8 })).rejects.toThrow(TypeError);
      await expect(borrow({ adapter: { backend: "webgpu" } } as Backend)).rejects.toThrow("base runs on webgpu; expected a model on the CPU backend");
      await expect(borrow(await buildCpu(width100, presets["int8-dynamic"], { activations: "int8" }), { activations: "int8" })).rejects.toThrow("base has int8 activations");
      base.dispose();
      await expect(borrow(base)).rejects.toMatchObject({ code: "disposed" });
    });
  });

  describe("memory", () => {
    test.each(testedPresets)("of %s is the sum of its parts and holds the matrices as they are stored", async (preset) => {
      const { weights } = context300;
      const backend = await buildCpu(context300, presets[preset]);
      const { memory } = backend;
      expect(memory.total).toBe(memory.weights + memory.embedding + memory.scales + memory.kvCache + memory.activations + memory.staging);
      expect(memory.peakBytes).toBe(memory.total);

      let stored = 0;
      for (const [name, { shape, values }] of weights) {
        const kind = tensorKind(name);
        const isLinear = kind === "linear";
        const { linear, embedding = linear } = presets[preset];
        stored += isLinear || kind === "embedding" ? quantizeTensor(Float32Array.from(values), [shape[0]!, shape[1]!], isLinear ? linear : embedding).storedBytes : values.byteLength;
      }
      expect(memory.weights + memory.embedding + memory.scales).toBe(stored); // 36 and 144 columns need no padding
    });

    test("grows by the window's hidden states at the first encodeWindow, and only then", async () => {
      const backend = await buildCpu(context300);
      const before = backend.memory.total;
      await backend.encodeWindow([1, 2]);
      await backend.encodeWindow([1, 2, 3]);
      expect(backend.memory.total).toBe(before + 300 * 36 * 4);
      expect(backend.memory.peakBytes).toBe(backend.memory.total);
    });
  });
});

describe("createCpuBuilder", () => {
  const { config, weights } = width100;
  const vector = { name: "ln_f.bias", kind: "vector", shape: [1, 100] } as const;

  test("copies what it keeps", async () => {
    const builder = createCpuBuilder({ config, contextLength: 8, kvCache: "f32" });
    await builder.add(vector, new Float32Array(100));
    const rest = new Map(weights);
    rest.delete("ln_f.bias");
    const given = structuredClone(rest);
    await addReferenceWeights(builder, given, presets.f32);
    const backend = await builder.finish();
    const before = await backend.forward([1, 2], 0);
    for (const { values } of given.values()) values.fill(0);
    expect(await backend.forward([1, 2], 0)).toEqual(before);
  });

  test("rejects a tensor that comes twice, is unknown, or has another shape, each with its own message", async () => {
    const builder = createCpuBuilder({ config, contextLength: 8, kvCache: "f32" });
    await builder.add(vector, new Float32Array(100)); // control case
    await expect(builder.add(vector, new Float32Array(100))).rejects.toThrow('Tensor "ln_f.bias" came twice');
    await expect(builder.add({ ...vector, name: "h.3.ln_1.bias" }, new Float32Array(100))).rejects.toThrow("not part of a GPT-2 with 3 layers");
    await expect(builder.add({ ...vector, name: "ln_f.weight", shape: [1, 99] }, new Float32Array(99))).rejects.toThrow("came as vector [1, 99]; expected vector [1, 100]");
    await expect(builder.add({ ...vector, name: "ln_f.weight" }, new Float32Array(99))).rejects.toMatchObject({ code: "checkpoint" });
  });

  test("finish names what is missing, and passes once it is there", async () => {
    const builder = createCpuBuilder({ config, contextLength: 8, kvCache: "f32" });
    const all = new Map(weights);
    all.delete("ln_f.bias");
    await addReferenceWeights(builder, all, presets.int8);
    await expect(builder.finish()).rejects.toThrow('Tensor "ln_f.bias" is missing; expected 41 tensors.');
    await builder.add(vector, new Float32Array(100));
    expect((await builder.finish()).adapter).toMatchObject({ backend: "cpu", isFallback: false, notices: [] });
  });

  test("passes its notices on to the adapter", async () => {
    const builder = createCpuBuilder({ config, contextLength: 8, kvCache: "f32", notices: ["No WebGPU adapter was found; running on the CPU."] });
    await addReferenceWeights(builder, weights, presets.f32);
    const backend = await builder.finish();
    expect(backend.adapter.notices).toEqual(["No WebGPU adapter was found; running on the CPU."]);
  });
});
