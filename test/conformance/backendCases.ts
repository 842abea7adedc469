import { Gpu } from "../../src/gpu/device.ts";
import { activationsOf } from "../../src/load/options.ts";
import type { Backend } from "../../src/model/backend.ts";
import { createGpuBuilder, type GpuBackendOptions } from "../../src/model/gpu.ts";
import { quantizeTensor } from "../../src/quantize/nearest.ts";
import { formatOf, presets, resolveRecipe } from "../../src/quantize/recipes.ts";
import type { Gpt2Config, PresetName, QuantizationRecipe } from "../../src/types.ts";
import { int8ActivationCases } from "../fixtures/int8Activations.ts";
import { seededCheckpoint, tinyCheckpoints, type TinyCheckpointName } from "../fixtures/seededCheckpoint.ts";
import { klDivergence, logSoftmax, referenceLogits, type ReferenceOptions, type ReferenceWeights } from "../reference/gpt2.ts";
import { maxAbsError } from "../reference/metrics.ts";
import { disagreement, referenceInputs } from "../reference/observation.ts";
import { addReferenceWeights, dequantizedWeights, inputRoundingOf, type InputRanges, type ReferenceCheckpoint, referenceCheckpoint, tensorKind } from "../reference/weights.ts";
import { tolerances } from "../tolerances.ts";
import { formulaTokens, requireAtMost, type ConformanceCase } from "./case.ts";

// These cases build backends without the loader, for what a Model does not show or let choose: all logits of every decoded token, ranges and f16 columns that
// no calibration found, kernels' variants, matrices in parts, the inputs of matrices, bytes of the device. The rest is in modelCases.ts.

/** The presets whose activations are float. */
export const floatPresets = ["f32", "f16", "int8", "int8-zeropoint", "int8-absmax-tensor", "int8-zeropoint-tensor", "int4", "nf4", "nf4-dq", "fp4"] as const satisfies readonly PresetName[];

/** Every group size, block and mode that no preset uses. */
const otherRecipes: readonly QuantizationRecipe[] = [
  { name: "int8 group 32", linear: { type: "int8", mode: "absmax", granularity: { group: 32 } }, embedding: { type: "int8", mode: "zeropoint", granularity: { group: 64 } } },
  { name: "int8 zero-point group 128", linear: { type: "int8", mode: "zeropoint", granularity: { group: 128 } }, embedding: { type: "f32" } },
  { name: "int4 absmax channel", linear: { type: "int4", mode: "absmax", granularity: "channel" }, embedding: { type: "int4", mode: "absmax", granularity: { group: 64 } } },
  { name: "int4 zero-point tensor", linear: { type: "int4", mode: "zeropoint", granularity: "tensor" }, embedding: { type: "int4", mode: "zeropoint", granularity: "channel" } },
  { name: "nf4 block 32", linear: { type: "nf4", block: 32 }, embedding: { type: "nf4", block: 64, doubleQuantization: true } },
  { name: "nf4 block 256 dq", linear: { type: "nf4", block: 256, doubleQuantization: true }, embedding: { type: "fp4", block: 128 } },
  { name: "fp4 dq", linear: { type: "fp4", block: 64, doubleQuantization: true } },
  { name: "mixed", linear: { type: "nf4", block: 64 }, overrides: { "h.0.*": { type: "int8", mode: "absmax", granularity: "channel" }, "*.mlp.c_proj.weight": { type: "f16" } } },
];

interface Loaded {
  config: Gpt2Config;
  /** What the oracle runs on: matrices passed through quantization and back. */
  weights: ReferenceWeights;
  backend: Backend;
  gpu: Gpu;
}

/** Builds a model on the device without the loader: the oracle's own reader, quantizeTensor, the builder. */
export function buildOnGpu(device: GPUDevice, files: Readonly<Record<string, Uint8Array>>, recipe: QuantizationRecipe, options?: Partial<GpuBackendOptions>): Promise<Loaded> {
  return buildCheckpointOnGpu(device, referenceCheckpoint(files), recipe, options);
}

async function buildCheckpointOnGpu(device: GPUDevice, { config, weights }: ReferenceCheckpoint, recipe: QuantizationRecipe, options: Partial<GpuBackendOptions> = {}, ranges?: InputRanges, f16Columns?: readonly number[]): Promise<Loaded> {
  const gpu = await Gpu.open({ device, largestTensorBytes: 0 });
  const builder = createGpuBuilder(gpu, { config, contextLength: config.nPositions, kvCache: "f32", ...activationsOf(recipe), ...options });
  await addReferenceWeights(builder, weights, recipe, ranges, f16Columns);
  return { config, weights: dequantizedWeights(weights, recipe, f16Columns), backend: await builder.finish(), gpu };
}

interface AgreementOptions {
  tokens: number;
  /** Tokens run together first; the rest one by one through the decode graph. */
  prefill: number;
  tolerance?: number;
  inputRounding?: ReferenceOptions["inputRounding"];
}

/** Prefill, then decode step by step, then window scores: all against the oracle. */
async function agreesWithOracle({ config, weights, backend, gpu }: Loaded, { tokens: count, prefill, tolerance = tolerances.logit, inputRounding }: AgreementOptions): Promise<string> {
  const { vocabSize: V } = config;
  const tokens = formulaTokens(count, V);
  const logits = referenceLogits(config, weights, tokens, { inputRounding });
  const row = (t: number): Float64Array => logits.subarray(t * V, (t + 1) * V);
  const found: string[] = [];
  let prefillError = maxAbsError(await backend.forward(tokens.slice(0, prefill), 0), row(prefill - 1));
  found.push(requireAtMost("prefill", prefillError, tolerance));
  let decodeError = 0;
  for (let t = prefill; t < count; t++) decodeError = Math.max(decodeError, maxAbsError(await backend.forward([tokens[t]!], t), row(t)));
  if (prefill < count) found.push(requireAtMost("decode", decodeError, tolerance));
  prefillError = maxAbsError(await backend.forward(tokens, 0), row(count - 1));
  found.push(requireAtMost("all at once", prefillError, tolerance));
  if (count > 1) {
    await backend.encodeWindow(tokens);
    const scores = await backend.score(0, tokens.slice(1));
    const expected = Float64Array.from({ length: count - 1 }, (_, t) => logSoftmax(row(t))[tokens[t + 1]!]!);
    found.push(requireAtMost("scores", maxAbsError(scores, expected), 2 * tolerance));
    const later = await backend.score(count - 2, [tokens[0]!]);
    requireAtMost("score of a later row", Math.abs(later[0]! - logSoftmax(row(count - 2))[tokens[0]!]!), 2 * tolerance);
  }
  const { memory } = gpu;
  backend.dispose();
  if (memory.total === 0 || gpu.memory.total !== 0) throw new Error(`live bytes ${memory.total} before and ${gpu.memory.total} after dispose; expected some and none`);
  return found.join(", ");
}

const lengths: Readonly<Record<TinyCheckpointName, AgreementOptions>> = {
  width2: { tokens: 16, prefill: 5 },
  width100: { tokens: 40, prefill: 35 },
  oneLayer: { tokens: 8, prefill: 1 },
  fullVocabulary: { tokens: 20, prefill: 18 },
  context300: { tokens: 40, prefill: 37 },
};

/** width100 is in modelCases.ts under every preset; of relu's kernels one format of each kind is enough. */
const sweptPresets = {
  width2: floatPresets,
  oneLayer: ["f32", "int8-zeropoint", "nf4-dq"],
  fullVocabulary: floatPresets,
  context300: floatPresets,
} as const satisfies Partial<Record<TinyCheckpointName, readonly PresetName[]>>;

const checkpointCases = Object.entries(sweptPresets).flatMap(([name, swept]) =>
  swept.map(
    (preset): ConformanceCase => ({
      name: `backend: ${name} as ${preset} agrees with the oracle on its dequantized weights`,
      run: async (device) => agreesWithOracle(await buildOnGpu(device, seededCheckpoint(tinyCheckpoints[name as TinyCheckpointName]), resolveRecipe(preset)), lengths[name as TinyCheckpointName]),
    }),
  ),
);

const recipeCases = otherRecipes.map(
  (recipe): ConformanceCase => ({
    name: `backend: width100 as ${recipe.name} agrees with the oracle on its dequantized weights`,
    run: async (device) => agreesWithOracle(await buildOnGpu(device, seededCheckpoint(tinyCheckpoints.width100), recipe), { tokens: 12, prefill: 10 }),
  }),
);

/** Few, since each inner width and activation is another kernel to compile. */
const codedCheckpoints: Readonly<Record<(typeof int8ActivationCases)[number]["name"], readonly TinyCheckpointName[]>> = {
  "dynamic ranges": ["oneLayer", "fullVocabulary"],
  "static ranges": ["width100"],
  "planted outliers": ["width2", "width100"],
  "static ranges, outliers and some matrices in other formats": ["width100"],
};

const codingCases = int8ActivationCases.flatMap(({ name: coding, recipe, ranges, f16Columns, change = (checkpoint) => checkpoint }) =>
  codedCheckpoints[coding].map(
    (name): ConformanceCase => ({
      name: `backend: ${name} under int8 activations with ${coding} agrees with the oracle under the same rounding`,
      run: async (device) => {
        const checkpoint = change(referenceCheckpoint(seededCheckpoint(tinyCheckpoints[name])));
        const loaded = await buildCheckpointOnGpu(device, checkpoint, recipe, {}, ranges, f16Columns?.(checkpoint));
        return agreesWithOracle(loaded, { ...lengths[name], tolerance: tolerances.logitActivationsInt8, inputRounding: inputRoundingOf(recipe, ranges) });
      },
    }),
  ),
);

const otherCases: readonly ConformanceCase[] = [
  {
    name: "backend: context300 scores windows side by side, across chunks, as the oracle does each alone",
    run: async (device) => {
      const found: string[] = [];
      // Tiles of attention that hold two windows, with subgroups, without and as for hardware.
      for (const variants of [{}, { lanes: 1 }, { tuning: "hardware" }] as const) {
        const { config, weights, backend } = await buildOnGpu(device, seededCheckpoint(tinyCheckpoints.context300), resolveRecipe("f32"), { variants });
        const [W, count] = [53, 5];
        const tokens = formulaTokens(count * W + 1, config.vocabSize);
        await backend.encodeWindow(tokens.slice(0, count * W), undefined, W);
        let worst = 0;
        for (const w of [0, 1, 4]) {
          const logits = referenceLogits(config, weights, tokens.slice(w * W, (w + 1) * W), { rows: [0, 30, W - 1] });
          for (const [i, row] of [0, 30, W - 1].entries()) {
            const target = tokens[w * W + row + 1]!;
            const [score] = await backend.score(w * W + row, [target]);
            worst = Math.max(worst, Math.abs(score! - logSoftmax(logits.subarray(i * config.vocabSize, (i + 1) * config.vocabSize))[target]!));
          }
        }
        backend.dispose();
        found.push(requireAtMost("scores", worst, 2 * tolerances.logit));
      }
      return found.join(", ");
    },
  },
  {
    name: "backend: matrices cut into parts of one strip give bit for bit the same logits as whole ones, and the same scores",
    run: async (device) => {
      const files = seededCheckpoint(tinyCheckpoints.width100);
      const tokens = formulaTokens(9, tinyCheckpoints.width100.vocabSize);
      for (const preset of ["f32", "int8-zeropoint", "nf4-dq"] as const) {
        const recipe: QuantizationRecipe = { ...resolveRecipe(preset), embedding: resolveRecipe(preset).linear };
        const run = async (maxPartBytes?: number): Promise<{ logits: number[]; scores: Float32Array }> => {
          const { backend } = await buildOnGpu(device, files, recipe, { maxPartBytes });
          const logits = [...(await backend.forward(tokens.slice(0, 8), 0)), ...(await backend.forward(tokens.slice(8), 8))];
          await backend.encodeWindow(tokens);
          const scores = await backend.score(0, tokens.slice(1));
          backend.dispose();
          return { logits, scores };
        };
        const [whole, parts] = [await run(), await run(1)];
        const wrong = whole.logits.findIndex((value, i) => value !== parts.logits[i]);
        if (wrong !== -1) throw new Error(`${preset}: value ${wrong} is ${parts.logits[wrong]} in parts and ${whole.logits[wrong]} whole`);
        requireAtMost(`${preset} scores`, maxAbsError(parts.scores, whole.scores), tolerances.rowLogProb); // parts add up exponentials in another order
      }
      return "bit-identical";
    },
  },
  ...(["width2", "width100", "context300"] as const).map(
    (name): ConformanceCase => ({
      name: `backend: ${name} observes the inputs of its matrices as the oracle has them, in strips, and is as before after it`,
      run: async (device) => {
        const { config, weights, backend, gpu } = await buildOnGpu(device, seededCheckpoint(tinyCheckpoints[name]), resolveRecipe("f32"), { maxPartBytes: 4096 });
        const tokens = formulaTokens(config.nPositions + 1, config.vocabSize);
        const windows = [tokens.slice(0, config.nPositions), tokens.slice(-1)];
        const before = await backend.forward(tokens.slice(0, 2), 0);
        const liveBytes = gpu.memory.total;
        const inputs = referenceInputs(config, weights, windows);
        const counts: number[] = [];
        for (const gram of [false, true]) {
          const found = await backend.observe(windows, [...inputs.keys()], { gram, onTokens: (count) => counts.push(count) });
          for (const [matrix, statistics] of found) {
            const wrong = disagreement(statistics, inputs.get(matrix)!);
            if (wrong !== null || (statistics.gram !== null) !== gram) throw new Error(`${matrix}: ${wrong ?? "gram"}`);
          }
          if (found.size !== 4 * config.nLayer + 1) throw new Error(`${found.size} matrices; expected ${4 * config.nLayer + 1}`);
        }
        if (counts.join() !== [config.nPositions, config.nPositions + 1, config.nPositions, config.nPositions + 1].join()) throw new Error(`counted ${counts.join()}`);
        if (gpu.memory.total !== liveBytes) throw new Error(`${gpu.memory.total} live bytes after it; expected ${liveBytes}`);
        requireAtMost("logits after it", maxAbsError(await backend.forward(tokens.slice(0, 2), 0), before), 0);
        backend.dispose();
        return `${inputs.size} matrices`;
      },
    }),
  ),
  {
    name: "backend: every tensor comes back from the device as it was given, whole and in parts",
    run: async (device) => {
      const files = seededCheckpoint({ nLayer: 1, nHead: 2, nEmbd: 68, nPositions: 9, vocabSize: 131 });
      const { weights } = referenceCheckpoint(files);
      const recipe = { linear: presets["nf4-dq"].linear, embedding: presets["int8-zeropoint"].linear };
      for (const maxPartBytes of [undefined, 1]) {
        const { backend, gpu } = await buildOnGpu(device, files, recipe, { variants: {}, maxPartBytes });
        const before = gpu.memory.total;
        for (const [name, { shape, values }] of weights) {
          const kind = tensorKind(name);
          const given = Float32Array.from(values);
          const expected = kind === "linear" || kind === "embedding" ? quantizeTensor(given, [shape[0]!, shape[1]!], formatOf(recipe, name, kind)) : given;
          const [found, wanted] = [await backend.readTensor(name), expected].map((tensor) => JSON.stringify(tensor));
          if (found !== wanted) throw new Error(`${name} came back as ${found!.slice(0, 200)}; expected ${wanted!.slice(0, 200)}`);
        }
        if (gpu.memory.total !== before) throw new Error(`${gpu.memory.total} live bytes after reading; expected ${before}`);
        backend.dispose();
      }
      return "bit-identical";
    },
  },
  {
    name: "backend: compare() of two recipes on one device agrees with the oracle",
    run: async (device) => {
      const files = seededCheckpoint(tinyCheckpoints.width100);
      const [base, candidate] = [await buildOnGpu(device, files, resolveRecipe("f32")), await buildOnGpu(device, files, resolveRecipe("nf4"))];
      const { config } = base;
      const tokens = formulaTokens(40, config.vocabSize);
      const row = (logits: Float64Array, t: number): Float64Array => logits.subarray(t * config.vocabSize, (t + 1) * config.vocabSize);
      const a = referenceLogits(config, base.weights, tokens);
      const b = referenceLogits(config, candidate.weights, tokens);
      await base.backend.encodeWindow(tokens);
      await candidate.backend.encodeWindow(tokens);
      const rows = await candidate.backend.compare(base.backend, 3, tokens.slice(4));
      const expected = (logits: Float64Array) => Float64Array.from({ length: 36 }, (_, i) => logSoftmax(row(logits, 3 + i))[tokens[4 + i]!]!);
      const divergences = Float64Array.from({ length: 36 }, (_, i) => klDivergence(row(a, 3 + i), row(b, 3 + i)));
      const top = (logits: Float64Array, t: number): number => row(logits, t).reduce((best, value, i, all) => (value > all[best]! ? i : best), 0);
      const sameTop = Array.from({ length: 36 }, (_, i) => (top(a, 3 + i) === top(b, 3 + i) ? 1 : 0));
      if (!sameTop.includes(0) || !sameTop.includes(1)) throw new Error("the case needs rows of both kinds");
      if (rows.sameTop.join() !== sameTop.join()) throw new Error(`sameTop is ${rows.sameTop.join("")}; expected ${sameTop.join("")}`);
      const found = [
        requireAtMost("baseline", maxAbsError(rows.baseLogProbs, expected(a)), tolerances.logProb),
        requireAtMost("candidate", maxAbsError(rows.logProbs, expected(b)), tolerances.logProb),
        requireAtMost("KL", maxAbsError(rows.klDivergence, divergences), tolerances.klDivergence),
      ];
      base.backend.dispose();
      candidate.backend.dispose();
      return found.join(", ");
    },
  },
];

export const backendCases: readonly ConformanceCase[] = [...checkpointCases, ...recipeCases, ...codingCases, ...otherCases];
