import { describe, expect, test } from "vitest";
import { loadModel } from "nibble-webgpu";
import prompt64 from "../fixtures/golden/prompt-64.json";
import prompt7 from "../fixtures/golden/prompt-7.json";
import { tolerances } from "../tolerances.ts";

describe("the embedded model in Chromium", () => {
  test("loads from a folder's URL, reproduces the golden logits in f32, and frees everything", async () => {
    const model = await loadModel("/models/stories-12m/", { backend: "webgpu", quantization: "f32", cache: "none" });
    expect(model.adapter.backend).toBe("webgpu");
    for (const { tokens, top20 } of [prompt7, prompt64]) {
      const logits = await model.logits(tokens);
      const errors = top20.map(([id, logit]) => Math.abs(logits[id!]! - logit!));
      expect(Math.max(...errors)).toBeLessThan(tolerances.logit);
    }
    const { text } = await model.complete(prompt7.text, { temperature: 0, maxTokens: 6 });
    expect(prompt7.greedyText.startsWith(text)).toBe(true);
    expect(text).not.toBe("");
    model.dispose();
    expect(model.memory.total).toBe(0);
  });
});
