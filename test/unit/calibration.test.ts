import { describe, expect, test } from "vitest";
import { openCheckpoint } from "../../src/checkpoint/openCheckpoint.ts";
import type { CheckpointTensor } from "../../src/checkpoint/types.ts";
import { calibrate, type LoadProgress } from "../../src/index.ts";
import { Calibration, CALIBRATION_TOKENS, calibrationWindows, type FloatModel, openFloat } from "../../src/load/calibration.ts";
import { ProgressMeter } from "../../src/load/progress.ts";
import type { Backend } from "../../src/model/backend.ts";
import { createCpuBuilder } from "../../src/model/cpu.ts";
import type { InputStatistics } from "../../src/quantize/inputStatistics.ts";
import { openSource } from "../../src/source/openSource.ts";
import { FormulaBackend } from "../fixtures/formulaBackend.ts";
import { outlierCheckpoint, seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";
import { inputStatistics } from "../reference/gpt2.ts";
import { disagreement, referenceInputs } from "../reference/observation.ts";
import { dequantizedWeights, referenceCheckpoint } from "../reference/weights.ts";

const count = (length: number): number[] => Array.from({ length }, (_, i) => i);

describe("calibrationWindows", () => {
  test.each([
    ["a text shorter than the context", 5, 8, [5]],
    ["a text of two windows", 16, 8, [8, 8]],
    ["a text with a remainder", 23, 8, [8, 8]],
    ["a context of one token", 3, 1, [1, 1, 1]],
  ])("of %s: %i tokens by %i are windows of %j", (_, tokens, contextLength, lengths) => {
    const { windows, notices, tokens: used } = calibrationWindows("calibration", count(tokens), contextLength);
    expect(windows.map(({ length }) => length)).toEqual(lengths);
    expect(windows.flat()).toEqual(count(used));
    expect(notices).toHaveLength(used < tokens ? 1 : 0);
  });

  test("stops at the cap, and says so", () => {
    const { windows, notices } = calibrationWindows("calibration", count(CALIBRATION_TOKENS + 1000), 1000);
    expect(windows).toHaveLength(16);
    expect(notices).toEqual([`Calibration ran the first 16000 of ${CALIBRATION_TOKENS + 1000} tokens, in windows of 1000.`]);
  });

  test("takes two tokens, and refuses one and none by the option's name", () => {
    expect(calibrationWindows("calibration", [1, 2], 8).tokens).toBe(2); // control case
    for (const tokens of [[], [1]]) expect(() => calibrationWindows("calibration", tokens, 8)).toThrow(new RangeError(`calibration has ${tokens.length} tokens; expected at least 2.`));
  });
});

describe("Calibration", () => {
  const silent = new ProgressMeter(undefined);
  const matrices: CheckpointTensor[] = [4, 4, 16, 4, 4].map((columns, i) => ({ name: `h.${i}.mlp.c_fc.weight`, kind: "linear", shape: [4, columns] }));
  const names = matrices.map(({ name }) => name);

  const statistics: InputStatistics = { rows: 1, absmax: new Float32Array(1), meanAbs: new Float32Array(1), histogram: new Uint32Array(1), gram: new Float32Array(1) };

  /** Answers with the names that were asked for together. */
  function recording(): { open: () => Promise<FloatModel>; asked: string[] } {
    const asked: string[] = [];
    const backend: Backend = new FormulaBackend(2, () => 0);
    backend.observe = async (_windows, wanted, { gram }) => {
      asked.push(`${gram ? "grams" : "statistics"} ${wanted.map((name) => name[2]).join("")}`);
      return new Map(wanted.map((name) => [name, statistics]));
    };
    const open = async (): Promise<FloatModel> => {
      asked.push("open");
      return { backend, matrices, dispose: () => asked.push("dispose") };
    };
    return { open, asked };
  }

  test("finds the statistics of all matrices in one run, once", async () => {
    const { open, asked } = recording();
    const calibration = new Calibration(open, calibrationWindows("calibration", count(8), 4), undefined);
    const found = await calibration.statistics(silent);
    expect([...found.keys()]).toEqual(names);
    expect(await calibration.statistics(silent)).toBe(found);
    expect(asked).toEqual(["open", "statistics 01234"]);
    await calibration.release();
    expect(await calibration.statistics(silent)).toBe(found); // without the model
    expect(asked.slice(2)).toEqual(["dispose"]);
  });

  test("finds grams for as many matrices as fit, the next in order, and one that is too large alone", async () => {
    const { open, asked } = recording();
    const calibration = new Calibration(open, calibrationWindows("calibration", count(8), 4), undefined, 2 * 4 * 4 * 4);
    for (const name of names) expect(await calibration.withGram(name, silent)).toBe(statistics);
    expect(asked).toEqual(["open", "grams 01", "grams 2", "grams 34"]);
    await calibration.release();
    await calibration.withGram(names[1]!, silent); // its group was dropped, and the model
    expect(asked.slice(4)).toEqual(["dispose", "open", "grams 1"]);
  });

  test("observes a checkpoint in floats as the oracle has it, and reports progress that never falls", async () => {
    const files = seededCheckpoint(tinyCheckpoints.width100);
    const checkpoint = await openCheckpoint(openSource(files, {}));
    const { config } = checkpoint;
    const seen: LoadProgress[] = [];
    const progress = new ProgressMeter((each) => seen.push(each));
    progress.spanTo(0.5);
    const windows = calibrationWindows("calibration", count(20), 8);
    const calibration = new Calibration(() => openFloat(createCpuBuilder({ config, contextLength: 8, kvCache: "f32" }), checkpoint, progress, undefined), windows, undefined);
    const inputs = referenceInputs(config, dequantizedWeights(referenceCheckpoint(files).weights, { linear: { type: "f32" }, embedding: { type: "f16" } }), windows.windows);
    const found = await calibration.statistics(progress);
    expect([...found.keys()].sort()).toEqual([...inputs.keys()].sort());
    for (const [name, x] of inputs) expect(disagreement(found.get(name)!, x) ?? disagreement(await calibration.withGram(name, progress), x), name).toBeNull();
    for (let i = 1; i < seen.length; i++) expect(seen[i]!.fraction).toBeGreaterThanOrEqual(seen[i - 1]!.fraction);
    expect(seen.at(-1)).toEqual({ stage: "calibrate", loaded: 16, total: 16, unit: "tokens", fraction: 0.5 });
    await calibration.release();
  });

  test("frees the builder when the checkpoint is broken", async () => {
    const files = seededCheckpoint(tinyCheckpoints.width2);
    const checkpoint = await openCheckpoint(openSource({ ...files, "model.safetensors": files["model.safetensors"].subarray(0, -5) }, {}));
    const builder = createCpuBuilder({ config: checkpoint.config, contextLength: 16, kvCache: "f32" });
    let abandoned = 0;
    const abandon = builder.abandon.bind(builder);
    builder.abandon = () => (abandoned++, abandon());
    await expect(openFloat(builder, checkpoint, silent, undefined)).rejects.toMatchObject({ code: "checkpoint" });
    expect(abandoned).toBe(1);
  });
});

describe("calibrate", () => {
  const files = seededCheckpoint(outlierCheckpoint);
  const text = count(150);

  test("reports ranges and the planted outlier channels of every matrix, in the order of the layers, and the head's", async () => {
    const seen: LoadProgress[] = [];
    const report = await calibrate(files, { backend: "cpu", text, onProgress: (each) => seen.push(each) });
    expect(report).toMatchObject({ tokens: 128, windows: 2, windowTokens: 64, outlierThreshold: 6, adapter: { notices: ["Calibration ran the first 128 of 150 tokens, in windows of 64."] } });
    const { config, weights } = referenceCheckpoint(files);
    const inputs = referenceInputs(config, dequantizedWeights(weights, { linear: { type: "f32" }, embedding: { type: "f16" } }), [text.slice(0, 64), text.slice(64, 128)]);
    expect(report.inputs.map(({ name }) => name)).toEqual([...inputs.keys()]);
    for (const { name, columns, absmax, meanAbs, ranges, outlierColumns, outlierShare } of report.inputs) {
      const x = inputs.get(name)!;
      const expected = inputStatistics(x, columns);
      expect(absmax / Math.max(...expected.absmax)).toBeCloseTo(1, 5);
      expect(meanAbs).toBeCloseTo(expected.meanAbs.reduce((sum, mean) => sum + mean, 0) / columns, 4);
      expect(ranges.minmax).toBe(absmax);
      expect(ranges.percentile).toBeLessThanOrEqual(absmax);
      expect(ranges.mse).toBeLessThanOrEqual(absmax);
      expect(outlierShare).toBeCloseTo(x.filter((value) => Math.abs(value) > 6).length / x.length, 3);
      expect(outlierColumns).toEqual(/c_attn|c_fc/.test(name) ? [5, 42] : []);
    }
    expect(seen.at(-1)).toMatchObject({ stage: "calibrate", fraction: 1 });
    for (let i = 1; i < seen.length; i++) expect(seen[i]!.fraction).toBeGreaterThanOrEqual(seen[i - 1]!.fraction);
  });

  test("takes its threshold from the caller", async () => {
    const { inputs } = await calibrate(files, { backend: "cpu", text: count(8), outlierThreshold: 1e-3 });
    expect(inputs[0]!.outlierColumns).toEqual(count(64));
    expect(inputs[0]!.outlierShare).toBeGreaterThan(0.99);
  });

  test.each<[what: string, options: object, error: RegExp]>([
    ["a text of one token", { text: [1] }, /^text has 1 tokens/],
    ["an id outside the vocabulary", { text: [1, 211] }, /^text\[1\]/],
    ["a threshold of zero", { text, outlierThreshold: 0 }, /^outlierThreshold is 0/],
    ["a threshold that is no number", { text, outlierThreshold: "6" }, /^outlierThreshold is "6"/],
    ["a context beyond the model's positions", { text, contextLength: 65 }, /^contextLength is 65/],
  ])("refuses %s, naming it", async (_, options, error) => {
    await expect(calibrate(files, { backend: "cpu", text, ...options })).rejects.toThrow(error);
  });

  test("rejects with signal.reason when aborted before or during it", async () => {
    await expect(calibrate(files, { backend: "cpu", text, signal: AbortSignal.abort("no") })).rejects.toBe("no");
    const controller = new AbortController();
    await expect(calibrate(files, { backend: "cpu", text, signal: controller.signal, onProgress: ({ stage }) => stage === "calibrate" && controller.abort("enough") })).rejects.toBe("enough");
  });
});
