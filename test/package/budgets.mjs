/** What a page may ship for what it imports: gzip bytes of the minified code without GPT-2's vocabulary. loadModel is to come down to 60,000; until then it must not grow unseen. */
export const budgets = [
  { name: "quantizeTensor alone", code: 'export { quantizeTensor } from "nibble-webgpu";', budgetBytes: 8_000 },
  { name: "the safetensors parser alone", code: 'export * from "nibble-webgpu/safetensors";', budgetBytes: 8_000 },
  { name: "loadModel", code: 'export { loadModel } from "nibble-webgpu";', budgetBytes: 100_000 },
  { name: "everything", code: 'export * from "nibble-webgpu";', budgetBytes: 120_000 },
];
