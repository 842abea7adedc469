import { describe, expect, test } from "vitest";
import { measureSubjects, type Plan, promptTokens, type Subject } from "../bench/measure.ts";
import { type Environment, jsonLines, markdown, ratios, show, table } from "../bench/report.ts";
import { median, medianRatio } from "../bench/statistics.ts";
import { tokenTraffic } from "../bench/traffic.ts";
import { loadModel } from "../../src/index.ts";
import { seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";
import { noCounts } from "../fixtures/watchDevice.ts";

describe("median", () => {
  test.each([
    [[3], 3],
    [[3, 1, 2], 2],
    [[10, 1, 2, 3], 2.5],
    [[10, 9, 100], 10], // as numbers, not as text
    [[], NaN],
  ])("of %j is %d", (values, expected) => {
    expect(median(values)).toBe(expected);
  });
});

describe("medianRatio", () => {
  test("divides round by round, so that a disturbance of both cancels out", () => {
    expect(medianRatio([10, 200, 12], [5, 100, 6])).toBe(2);
  });
  test("leaves out rounds that only one of the two has", () => {
    expect(medianRatio([10, 20, 1000], [5, 10])).toBe(2);
    expect(medianRatio([], [1])).toBeNaN();
  });
});

describe("tokenTraffic", () => {
  const config = { nLayer: 2, nHead: 2, nEmbd: 8, nInner: 32, nPositions: 16, vocabSize: 100, layerNormEpsilon: 1e-5, activation: "gelu_new", scaleAttnWeights: true, scaleAttnByInverseLayerIdx: false, tieWordEmbeddings: true, bosTokenId: null, eosTokenId: null } as const;
  const memory = { weights: 1000, embedding: 16 * 8 * 4 + 800, scales: 50, kvCache: 16 * 64, activations: 0, staging: 0, total: 0, peakBytes: 0 };

  test("counts each weight once, one row of wpe, the cached positions, and activations there and back", () => {
    expect(tokenTraffic(config, memory, 3)).toEqual({
      weightsBytes: 1000 + 50 + 800 + 8 * 4,
      kvCacheBytes: 4 * 64,
      activationsBytes: 8 * (2 * (6 * 8 + 32) + 8 + 100),
      totalBytes: 1882 + 256 + 8 * 268,
    });
  });
  test("refuses an untied head, having accepted the same model with a tied one", () => {
    tokenTraffic(config, memory, 3); // control case
    expect(() => tokenTraffic({ ...config, tieWordEmbeddings: false }, memory, 3)).toThrow(/tieWordEmbeddings is false/);
  });
  test("agrees with the bytes that a loaded model stores", async () => {
    const { nPositions, nEmbd } = tinyCheckpoints.oneLayer;
    using model = await loadModel(seededCheckpoint(tinyCheckpoints.oneLayer), { backend: "cpu", quantization: "f32" });
    const { total } = model.quantization.bytes;
    expect(tokenTraffic(model.config, model.memory, 0).weightsBytes).toBe(total - (nPositions - 1) * nEmbd * 4);
  });
});

/** A subject whose times follow from a formula, and which writes down what it is asked. */
function formulaSubject(name: string, msPerToken: number, calls: string[] = []): Subject {
  return {
    name,
    shape: "formula",
    loadMs: 1,
    nPositions: 64,
    vocabSize: 100,
    async generate(prompt, newTokens) {
      calls.push(`${name} ${prompt.length}+${newTokens}`);
      return { prefillMs: prompt.length * msPerToken, decodeMs: (newTokens - 1) * msPerToken, newTokens };
    },
    logits: async () => Float32Array.of(1),
    bytesPerToken: (position) => 1e6 * position,
    dispose: () => undefined,
  };
}

const plan: Plan = { rounds: 2, prefillTokens: [8, 32, 512], contextTokens: [8, 60], decodeTokens: 4, scoreTokens: 0 };
const environment: Environment = { kind: "environment", command: "test", date: "2026-01-01", runtime: "none", adapter: "none", processors: 1, copyBytesPerSecond: 8e9, plan };

describe("measureSubjects", () => {
  test("warms every subject up, then takes each measure of each in turn, each round beginning with another", async () => {
    const calls: string[] = [];
    await measureSubjects([formulaSubject("a", 1, calls), formulaSubject("b", 2, calls)], plan);
    expect(calls).toEqual(["a 16+2", "b 16+2", "a 8+5", "b 8+5", "a 32+1", "b 32+1", "b 8+5", "a 8+5", "b 32+1", "a 32+1"]);
  });
  test("gives tokens per second of prefills and milliseconds per token of decodes, and leaves out what a context has no room for", async () => {
    const [result] = await measureSubjects([formulaSubject("a", 2)], { ...plan, rounds: 1 });
    expect(result!.samples.map(({ measure, tokens, value }) => [measure, tokens, value])).toEqual([["prefill", 8, 500], ["decode", 8, 2], ["prefill", 32, 500]]);
    expect(result!.bytesPerToken).toEqual({ 8: 8e6 });
  });
  test("counts what a token does on the device as the difference of two generations", async () => {
    const counts = noCounts();
    const subject = formulaSubject("a", 1);
    const [result] = await measureSubjects([{ ...subject, generate: async (prompt, newTokens) => {
      counts.dispatches += 100 + 7 * (newTokens - 1);
      counts.submits += newTokens;
      counts.passes += newTokens;
      return subject.generate(prompt, newTokens);
    } }], { ...plan, rounds: 0 }, { counts });
    expect(result!.perToken).toEqual({ dispatches: 7, submits: 1, passes: 1, created: 0 });
  });
  test("rejects when a generation ends before it has a rate, having accepted one of two tokens", async () => {
    const subject = formulaSubject("a", 1);
    const ending = (newTokens: number): Subject => ({ ...subject, generate: async () => ({ prefillMs: 1, decodeMs: 1, newTokens }) });
    await measureSubjects([ending(2)], plan); // control case
    await expect(measureSubjects([ending(1)], plan)).rejects.toThrow("a decoded 1 token(s); expected at least 2");
  });
});

describe("promptTokens", () => {
  test("stays inside the vocabulary", () => {
    expect(promptTokens(1000, 97).every((id) => Number.isInteger(id) && id >= 0 && id < 97)).toBe(true);
  });
});

describe("the report", () => {
  const pairs = [{ ours: "a", rival: "b" }, { ours: "a", rival: "absent" }];

  test("says how many times faster ours is, by tokens per second and by time per token alike", async () => {
    const results = await measureSubjects([formulaSubject("a", 1), formulaSubject("b", 4)], plan);
    expect(ratios(plan, results, pairs).map(({ measure, tokens, timesFaster }) => [measure, tokens, timesFaster])).toEqual([["prefill", 8, 4], ["prefill", 32, 4], ["decode", 8, 4]]);
  });
  test("writes JSON that reads back line by line, with the medians", async () => {
    const results = await measureSubjects([formulaSubject("a", 1), formulaSubject("b", 4)], plan);
    const lines = jsonLines(environment, results, pairs).trimEnd().split("\n").map((line) => JSON.parse(line) as { kind: string });
    expect(lines.map(({ kind }) => kind)).toEqual(["environment", "result", "result", "ratio", "ratio", "ratio"]);
    expect(lines[1]).toMatchObject({ medianTokensPerSecond: { prefill: { 8: 1000, 32: 1000 } }, medianMsPerToken: { decode: { 8: 1 } } });
  });
  test("writes a table without the columns that nobody has", async () => {
    const text = markdown({ ...environment, plan: { ...plan, contextTokens: [8] } }, await measureSubjects([formulaSubject("a", 2)], { ...plan, contextTokens: [8] }));
    expect(text.split("\n").slice(0, 3)).toEqual([
      "| model | subject | load, s | prefill 8, tokens/s | prefill 32, tokens/s | decode at 8, ms/token | MB/token at 8 | of copy bandwidth, % |",
      "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
      "| formula | a | 0.001 | 500 | 500 | 2 | 8 | 50 |",
    ]);
  });
  test("aligns numbers right and shows three digits of them", () => {
    expect(table(["a", "b"], [["x", "1"]], 1)).toBe("| a | b |\n| --- | ---: |\n| x | 1 |\n");
    expect([0.012345, 1.5, 123.4, 12345.6, NaN].map(show)).toEqual(["0.0123", "1.5", "123", "12,346", "—"]);
  });
});
