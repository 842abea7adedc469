/**
 * What a page may ship for what it imports: gzip bytes of the minified code without GPT-2's vocabulary. beginBytes: what is fetched at once; allBytes: with
 * the parts that come when they are needed. file: a script of the package that is fetched by itself.
 */
export const budgets = [
  { name: "quantizeTensor alone", code: 'export { quantizeTensor } from "nibble-webgpu";', beginBytes: 8_000 },
  { name: "the safetensors parser alone", code: 'export * from "nibble-webgpu/safetensors";', beginBytes: 8_000 },
  { name: "loadModel", code: 'export { loadModel } from "nibble-webgpu";', beginBytes: 60_000, allBytes: 113_000 },
  { name: "loadModelInWorker", code: 'export { loadModelInWorker } from "nibble-webgpu";', beginBytes: 17_000 },
  { name: "a model's worker", file: "worker.js", beginBytes: 114_000 },
  { name: "a worker that quantizes", file: "quantizer.js", beginBytes: 16_000 },
  { name: "everything", code: 'export * from "nibble-webgpu";', beginBytes: 100_000, allBytes: 133_000 },
];
