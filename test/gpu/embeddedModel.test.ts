import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadModel, presets, type GeneratedToken, type GenerateOptions, type Generation, type Model } from "../../src/index.ts";
import { embeddedModel, evaluationText, expectGolden, golden, type GoldenPerplexity, type GoldenPrompt, type GoldenWindow } from "../fixtures/embeddedModel.ts";
import { adapterName, requireGpu } from "../gpu.ts";
import { floatPresets } from "../conformance/backendCases.ts";
import { referenceLogits } from "../reference/gpt2.ts";
import { dequantizedWeights, referenceCheckpoint } from "../reference/weights.ts";
import { maxAbsError } from "../reference/metrics.ts";
import { tolerances } from "../tolerances.ts";

async function collect(generation: Generation): Promise<GeneratedToken[]> {
  const tokens: GeneratedToken[] = [];
  for await (const token of generation) tokens.push(token);
  return tokens;
}

// The kernels of ten presets: half a minute on lavapipe, two on SwiftShader.
describe.runIf((await adapterName()) !== "swiftshader")("the embedded model on WebGPU", async () => {
  const files = await embeddedModel();
  const { config, weights } = referenceCheckpoint(files);
  const { tokens } = await golden<GoldenPrompt>("prompt-7");

  test.each(floatPresets)("as %s gives the logits of the oracle on its dequantized weights", async (quantization) => {
    using model = await loadModel(files, { backend: "webgpu", gpu: requireGpu(), quantization, kvCache: "f32" });
    const expected = referenceLogits(config, dequantizedWeights(weights, presets[quantization]), tokens, { rows: [tokens.length - 1] });
    expect(maxAbsError(await model.logits(tokens), expected)).toBeLessThan(tolerances.logit);
  });
});

describe("the embedded model in f32 on WebGPU", async () => {
  const adapter = await adapterName();
  let model: Model;
  beforeAll(async () => {
    model = await loadModel(await embeddedModel(), { backend: "webgpu", gpu: requireGpu(), quantization: "f32" });
  });
  afterAll(() => model?.dispose());

  const prompts = adapter === "swiftshader" ? ["prompt-7", "prompt-256"] : ["prompt-1", "prompt-7", "prompt-64", "prompt-232", "prompt-256"];
  test.each(prompts)("reproduces the golden logits of %s", async (name) => {
    const { tokens, top20, logSumExp } = await golden<GoldenPrompt>(name);
    const logits = await model.logits(tokens);
    expect(maxAbsError(top20.map(([id]) => logits[id]!), top20.map(([, logit]) => logit))).toBeLessThan(tolerances.logit);
    const top = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b).slice(0, 20);
    expect(top).toEqual(top20.map(([id]) => id));
    const sum = logits.reduce((total, logit) => total + Math.exp(logit - logits[top[0]!]!), 0);
    expect(Math.abs(logits[top[0]!]! + Math.log(sum) - logSumExp)).toBeLessThan(tolerances.logit);
  });

  test.each(prompts)("continues %s greedily as the golden file has it, token for token", async (name) => {
    const { tokens, greedy, greedyText } = await golden<GoldenPrompt>(name);
    const completion = await model.complete(tokens, { temperature: 0, maxTokens: greedy.length });
    expect(completion.tokens).toEqual(greedy.filter((id) => id !== model.config.eosTokenId));
    expect(completion.text).toBe(greedyText.replaceAll("<|endoftext|>", ""));
  });

  test("reproduces the golden negative log-likelihoods of a window", async () => {
    const { tokens, nll } = await golden<GoldenWindow>("window-nll");
    const logProbs = await model.tokenLogProbs(tokens);
    expect(maxAbsError(logProbs, nll.map((value) => -value))).toBeLessThan(tolerances.logProb);
  });

  // What follows is about the token loop more than about the adapter; SwiftShader takes a quarter of a second per token.
  const patient = test.runIf(adapter !== "swiftshader");

  patient.each<GenerateOptions>([
    { temperature: 0 },
    { temperature: 1 },
    { temperature: 0.8, topK: 40 },
    { temperature: 1.2, topP: 0.9 },
    { topK: 100, topP: 0.95, minP: 0.02 },
    { temperature: 0.9, topP: 0.95, repetitionPenalty: 1.2, frequencyPenalty: 0.3, presencePenalty: 0.2 },
  ])("draws the same tokens on the GPU as the CPU's sampler from its logits: %j", async (options) => {
    for (const seed of [-7, 2 ** 40 + 3]) {
      const onGpu = await model.complete("One day, a", { ...options, seed, maxTokens: 40 });
      const onCpu = await collect(model.generate("One day, a", { ...options, seed, maxTokens: 40, logProbs: 1 })); // alternatives are ranked on the CPU
      expect(onGpu.tokens).toEqual(onCpu.map(({ id }) => id));
    }
  });

  patient("reports the log-probabilities on the GPU that the CPU's sampler reports", async () => {
    const options = { temperature: 0.7, topK: 50, seed: 5, maxTokens: 40 };
    const [onGpu, onCpu] = [await collect(model.generate("The", options)), await collect(model.generate("The", { ...options, logProbs: 1 }))];
    expect(maxAbsError(onGpu.map(({ logProb }) => logProb), onCpu.map(({ logProb }) => logProb))).toBeLessThan(tolerances.rowLogProb);
  });

  patient("gives the same tokens with the KV cache as without it", async () => {
    const prompt = model.encode("One day, a small green frog");
    const { tokens } = await model.complete(prompt, { temperature: 0, maxTokens: 12 });
    const without: number[] = [];
    for (let i = 0; i < tokens.length; i++) {
      const logits = await model.logits([...prompt, ...without]);
      without.push(logits.indexOf(Math.max(...logits)));
    }
    expect(without).toEqual(tokens);
  });

  patient("draws the same tokens from the same seed and others from another", async () => {
    const draw = async (seed: number) => (await model.complete("Once upon a time", { temperature: 0.8, topK: 40, seed, maxTokens: 16 })).tokens;
    const first = await draw(7);
    expect(await draw(7)).toEqual(first);
    expect(await draw(8)).not.toEqual(first);
  });

  patient("agrees with the CPU backend", async () => {
    using cpu = await loadModel(await embeddedModel(), { backend: "cpu", quantization: "f32" });
    const tokens = model.encode("Tom and his dog went to the park.");
    expect(maxAbsError(await model.logits(tokens), await cpu.logits(tokens))).toBeLessThan(tolerances.logit);
    const options = { temperature: 0.8, topK: 40, seed: 3, maxTokens: 24 };
    expect((await model.complete(tokens, options)).tokens).toEqual((await cpu.complete(tokens, options)).tokens);
  });

  // The strided protocol, twice as long, runs on the CPU backend: test/unit/embeddedModel.test.ts.
  patient("reproduces the golden perplexity of the evaluation text, disjoint", async () => {
    const { disjoint, bytes } = await golden<GoldenPerplexity>("stories-eval");
    const report = await model.perplexity(await evaluationText(), { protocol: "disjoint" });
    expectGolden(report, "disjoint", disjoint);
    expect(report.bitsPerByte).toBeGreaterThan((0.97 * disjoint.nll * disjoint.scoredTokens) / (Math.LN2 * bytes));
  });
});
