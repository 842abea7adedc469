import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import * as engine from "../../src/index.ts";
import { bench } from "../bench/bench.ts";
import { measureSubjects, type Plan, promptTokens, type Subject } from "../bench/measure.ts";
import { pairsOf, readOptions } from "../bench/options.ts";
import { gpt2Merges, quantizeGgml } from "../bench/peers/gpt2Gguf.ts";
import { gpt2Onnx, type OnnxFormat, onnxFormats, quantizeBlocks } from "../bench/peers/gpt2Onnx.ts";
import { OnnxGraph } from "../bench/peers/onnx.ts";
import { type Environment, jsonLines, markdown, ratios, show, table } from "../bench/report.ts";
import { median, quotients } from "../bench/statistics.ts";
import { tokenTraffic } from "../bench/traffic.ts";
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

describe("quotients", () => {
  test("divides round by round, so that a disturbance of both cancels out", () => {
    expect(quotients([10, 200, 12], [5, 100, 6])).toEqual([2, 2, 2]);
  });
  test("leaves out rounds that only one of the two has", () => {
    expect(quotients([10, 20, 1000], [5, 10])).toEqual([2, 2]);
    expect(quotients([], [1])).toEqual([]);
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
    using model = await engine.loadModel(seededCheckpoint(tinyCheckpoints.oneLayer), { backend: "cpu", quantization: "f32" });
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
    expect(ratios(plan, results, pairs).map(({ measure, tokens, timesFaster, lowest, highest }) => [measure, tokens, timesFaster, lowest, highest])).toEqual([
      ["prefill", 8, 4, 4, 4],
      ["prefill", 32, 4, 4, 4],
      ["decode", 8, 4, 4, 4],
    ]);
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

describe("bench", () => {
  test("loads and measures the embedded model on the CPU, and says what it moved", async () => {
    const lines: string[] = [];
    const report = await bench({
      engine,
      options: readOptions({ shapes: "embedded", presets: "int8", backend: "cpu", rounds: "1", prefill: "4,512", context: "4", decode: "2", score: "8" }),
      environment: { command: "a test", runtime: "Node", processors: 1 },
      read: (path) => readFile(new URL(`../../${path}`, import.meta.url)),
      onLine: (line) => lines.push(line),
    });
    expect(lines.map((line) => line.replace(/[\d.]+ (s|ms\/token|tokens\/s)$/, "x $1"))).toEqual([
      "embedded nibble cpu int8: loaded in x s",
      "embedded nibble cpu int8, round 0: prefill 4 x tokens/s",
      "embedded nibble cpu int8, round 0: decode 4 x ms/token",
      "embedded nibble cpu int8, round 0: score 8 x tokens/s",
    ]);
    const [environment, result] = report.jsonLines.trimEnd().split("\n").map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(environment).toMatchObject({ kind: "environment", command: "a test", adapter: "on the CPU" });
    expect(result).toMatchObject({ kind: "result", subject: "nibble cpu int8", bytesPerToken: { 4: expect.any(Number) as number } });
    expect(report.markdown).toMatch(/^\| embedded \| nibble cpu int8 \|/m);
  }, 60_000);
});

describe("readOptions", () => {
  test("takes words as a command line or an address gives them, and defaults for the rest", () => {
    const options = readOptions({ shapes: "124m", context: "16,1000", rivals: "q4", json: "elsewhere", rounds: undefined });
    expect(options).toMatchObject({ shapes: ["124m"], presets: ["int8", "nf4"], backend: "webgpu", rivals: ["q4"], plan: { rounds: 3, contextTokens: [16, 1000], scoreTokens: 512 } });
  });
  test.each([
    ["shapes", "embedded", "7b"],
    ["backend", "cpu", "metal"],
    ["rivals", "q8,q4", "q2"],
    ["rounds", "2", "2.5"],
    ["prefill", "16,128", "16,-1"],
  ])("accepts --%s %s, and rejects %s by name", (name, good, bad) => {
    readOptions({ [name]: good }); // control case
    expect(() => readOptions({ [name]: bad })).toThrow(new RegExp(`^${name} has "${bad.split(",").at(-1)}"`));
  });
});

describe("pairsOf", () => {
  test("holds each preset against the rival's formats of as many bits", () => {
    const options = readOptions({ presets: "int8,nf4,f32", backend: "cpu", rivals: "q8-dynamic,q4" });
    expect(pairsOf(options, "rival")).toEqual([
      { ours: "nibble cpu int8", rival: "rival q8-dynamic" },
      { ours: "nibble cpu nf4", rival: "rival q4" },
    ]);
  });
});

describe("quantizeGgml", () => {
  const values = Float32Array.from({ length: 64 }, (_, i) => (i < 32 ? i - 16 : 0)); // the second block is all zeros

  test("writes a half and 32 codes a block in q8_0", () => {
    const bytes = quantizeGgml(values.map((value) => value * (127 / 16)), "q8_0");
    expect(bytes).toHaveLength(2 * 34);
    expect([...new Uint16Array(bytes.slice(0, 2).buffer)]).toEqual([0x3c00]); // 1
    expect([...new Int8Array(bytes.buffer, 2, 32)].slice(0, 3)).toEqual([-127, -119, -111]);
    expect(bytes.subarray(34)).toEqual(new Uint8Array(34));
  });
  test("offsets 4-bit codes by 8 in q4_0, the first half of a block in the low nibbles", () => {
    const bytes = quantizeGgml(values, "q4_0");
    expect(bytes).toHaveLength(2 * 18);
    expect([bytes[2]! & 15, bytes[2]! >> 4, bytes[17]! & 15, bytes[17]! >> 4]).toEqual([1, 8, 8, 15]); // −16, 0, −1, 15
    expect(bytes.subarray(20)).toEqual(new Uint8Array(16).fill(0x88));
  });
});

describe("gpt2Merges", () => {
  test("are the 50,000 lines of GPT-2's merges.txt, rebuilt from the ranks of its tokens", () => {
    const merges = gpt2Merges();
    expect(merges).toHaveLength(50_000);
    expect(merges.slice(0, 4)).toEqual(["Ġ t", "Ġ a", "h e", "i n"]);
    expect(merges.at(-1)).toBe("Ġg azed");
  });
});

type Field = [field: number, value: bigint | Uint8Array];

/** Fields of a protobuf message in their order: integers and floats as their bits, the rest as bytes. */
function readMessage(bytes: Uint8Array): Field[] {
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++]!;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  const take = (length: number): Uint8Array => bytes.slice(at, (at += length));
  const fields: Field[] = [];
  while (at < bytes.length) {
    const key = Number(varint());
    const wireType = key & 7;
    fields.push([key >> 3, wireType === 0 ? varint() : take(wireType === 5 ? 4 : Number(varint()))]);
  }
  return fields;
}
const all = (message: readonly Field[], field: number): Uint8Array[] => message.filter(([number]) => number === field).map(([, value]) => value as Uint8Array);
const texts = (message: readonly Field[], field: number): string[] => all(message, field).map((bytes) => new TextDecoder().decode(bytes));
const numbers = (message: readonly Field[], field: number): number[] => message.filter(([number]) => number === field).map(([, value]) => Number(BigInt.asIntN(64, value as bigint)));

describe("OnnxGraph", () => {
  test("writes a model that reads back: constants, nodes with their attributes, inputs and outputs", () => {
    const graph = new OnnxGraph();
    const x = graph.input("x", "float32", [1, "T"]);
    const weight = graph.constant("weight", [2, 3], Float32Array.of(1, 2, 3, 4, 5, 300));
    graph.node("Norm", [x, "", weight], { contrib: true, outputs: ["y", "", "z"], ints: { axis: -1, bits: 8 }, floats: { epsilon: 0.5 } });
    graph.output("z", "int64", [300]);
    const model = readMessage(graph.toModel());
    expect(numbers(model, 1)).toEqual([8]);
    expect(all(model, 8).map(readMessage).map((set) => [...texts(set, 1), ...numbers(set, 2)])).toEqual([["", 17], ["com.microsoft", 1]]);

    const [body] = all(model, 7).map(readMessage);
    const [tensor] = all(body!, 5).map(readMessage);
    expect([numbers(tensor!, 1), numbers(tensor!, 2), texts(tensor!, 8)]).toEqual([[2, 3], [1], ["weight"]]);
    expect([...new Float32Array(all(tensor!, 9)[0]!.buffer)]).toEqual([1, 2, 3, 4, 5, 300]);

    const [node] = all(body!, 1).map(readMessage);
    expect([texts(node!, 1), texts(node!, 2), texts(node!, 4), texts(node!, 7)]).toEqual([["x", "", "weight"], ["y", "", "z"], ["Norm"], ["com.microsoft"]]);
    const attributes = all(node!, 5).map(readMessage);
    expect(attributes.map((attribute) => [...texts(attribute, 1), ...numbers(attribute, 3), ...numbers(attribute, 20)])).toEqual([["axis", -1, 2], ["bits", 8, 2], ["epsilon", 1]]);
    expect(new Float32Array(all(attributes[2]!, 2)[0]!.buffer)[0]).toBe(0.5);

    const shapeOf = (value: Uint8Array): unknown[] => {
      const type = readMessage(all(readMessage(all(readMessage(value), 2)[0]!), 1)[0]!);
      const sizes = all(readMessage(all(type, 2)[0]!), 1).map(readMessage);
      return [...texts(readMessage(value), 1), ...numbers(type, 1), ...sizes.flatMap((size) => [...numbers(size, 1), ...texts(size, 2)])];
    };
    expect(all(body!, 11).map(shapeOf)).toEqual([["x", 1, 1, "T"]]);
    expect(all(body!, 12).map(shapeOf)).toEqual([["z", 7, 300]]);
  });
});

describe("quantizeBlocks", () => {
  const values = Float32Array.from({ length: 96 }, (_, i) => (i < 64 ? Math.sin(i) * (i < 32 ? 1 : 10) : 0));
  test.each([8, 4] as const)("restores %d-bit codes within half a step, zeros exactly, lower nibble first", (bits) => {
    const { codes, scales } = quantizeBlocks(values, bits);
    expect([codes.length, scales.length]).toEqual([(96 * bits) / 8, 3]);
    for (const [i, value] of values.entries()) {
      const code = bits === 8 ? codes[i]! : (codes[i >> 1]! >> (4 * (i & 1))) & 15;
      const scale = scales[i >> 5]!;
      expect(Math.abs((code - 2 ** (bits - 1)) * scale - value)).toBeLessThanOrEqual(scale * 0.5000001);
    }
  });
});

describe("gpt2Onnx", () => {
  const shape = { nLayer: 2, nHead: 2, nEmbd: 32, nPositions: 16, vocabSize: 64, seed: 900 } as const;
  const graphOf = (format: OnnxFormat): Field[] => readMessage(all(readMessage(gpt2Onnx(seededCheckpoint(shape), format)), 7)[0]!);
  const countOf = (graph: Field[]): Record<string, number> => {
    const counts: Record<string, number> = {};
    for (const node of all(graph, 1).map(readMessage)) counts[texts(node, 4)[0]!] = (counts[texts(node, 4)[0]!] ?? 0) + 1;
    return counts;
  };

  test("has the fused operators once for each place in the model", () => {
    const fused = { GroupQueryAttention: 2, SkipLayerNormalization: 4, LayerNormalization: 1, FastGelu: 2 };
    expect(countOf(graphOf("q4"))).toMatchObject({ ...fused, MatMulNBits: 9, GatherBlockQuantized: 1 });
    expect(countOf(graphOf("q8-dynamic"))).toMatchObject({ ...fused, DynamicQuantizeLinear: 9, MatMulInteger: 9 });
  });
  test.each(onnxFormats)("uses no value that is not there before it (%s)", (format) => {
    const graph = graphOf(format);
    const known = new Set(["", ...all(graph, 5).flatMap((tensor) => texts(readMessage(tensor), 8)), ...all(graph, 11).flatMap((input) => texts(readMessage(input), 1))]);
    for (const node of all(graph, 1).map(readMessage)) {
      expect(texts(node, 1).filter((name) => !known.has(name))).toEqual([]);
      for (const name of texts(node, 2)) known.add(name);
    }
    expect(all(graph, 12).flatMap((output) => texts(readMessage(output), 1)).filter((name) => !known.has(name))).toEqual([]);
  });
  test("refuses a checkpoint whose names have a prefix, having accepted the same without", () => {
    graphOf("q8"); // control case
    expect(() => gpt2Onnx(seededCheckpoint({ ...shape, prefix: true }), "q8")).toThrow('Tensor "wte.weight" is missing');
  });
});
