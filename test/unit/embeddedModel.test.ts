import { expect, test } from "vitest";
import { loadModel } from "../../src/index.ts";
import { embeddedModel, evaluationText, expectGolden, golden, type GoldenPerplexity } from "../fixtures/embeddedModel.ts";

test("the CPU backend reproduces the golden perplexity of the evaluation text, strided", { timeout: 300_000 }, async () => {
  using model = await loadModel(await embeddedModel(), { backend: "cpu", quantization: "f32" });
  const { strided } = await golden<GoldenPerplexity>("stories-eval");
  const report = await model.perplexity(await evaluationText());
  expectGolden(report, "strided", strided);
  expect(report.strideTokens).toBe(128);
});
