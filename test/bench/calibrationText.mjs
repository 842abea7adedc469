// Writes models/texts/stories-calibration.txt, the text that the README's table calibrates with and never scores: stories that the embedded f32 model
// tells from nothing at temperature 1, one for each of 20 seeds, on the CPU. Usage, after npm run build:library: node test/bench/calibrationText.mjs
import { readFileSync, writeFileSync } from "node:fs";
import { loadModel } from "nibble-webgpu";

const models = new URL("../../models/", import.meta.url);
/** @param {string} name */
const read = (name) => readFileSync(new URL(`stories-12m/${name}`, models));
const model = await loadModel({ "config.json": read("config.json"), "model.safetensors": read("model.safetensors") }, { backend: "cpu", quantization: "f32" });
const stories = [];
for (let seed = 1; seed <= 20; seed++) {
  const { text } = await model.complete("<|endoftext|>", { temperature: 1, seed, maxTokens: 250 });
  stories.push(text.trim());
}
model.dispose();
writeFileSync(new URL("texts/stories-calibration.txt", models), `${stories.join("<|endoftext|>")}\n`);
