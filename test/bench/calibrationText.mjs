// Writes models/texts/stories-calibration.txt: what the embedded model itself writes, for calibration that has seen neither the training nor the evaluation text.
// Usage: npm run build:library && node test/bench/calibrationText.mjs
import { readFileSync, writeFileSync } from "node:fs";
import { loadModel } from "nibble-webgpu";

/** Stories that reach their end within the context, and tokens of each at most. */
const STORIES = 48;
const MAX_TOKENS = 240;

const root = new URL("../../models/", import.meta.url);
const files = Object.fromEntries(["config.json", "model.safetensors"].map((name) => [name, readFileSync(new URL(`stories-12m/${name}`, root))]));
const model = await loadModel(files, { backend: "cpu", quantization: "f32" });
const stories = [];
for (let seed = 1; stories.length < STORIES; seed++) {
  const { text, finishReason } = await model.complete("<|endoftext|>", { temperature: 1, topP: 0.95, seed, maxTokens: MAX_TOKENS });
  if (finishReason === "endOfText") stories.push(text.trim());
}
writeFileSync(new URL("texts/stories-calibration.txt", root), `${stories.join("\n\n")}\n`);
model.dispose();
