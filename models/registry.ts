export interface RegisteredModel {
  /** What loadModel takes for a hub model; the folder's name in models/ for an embedded one. */
  readonly id: string;
  readonly label: string;
  readonly source: "embedded" | "hub";
  /** Weights, the tied head counted once. */
  readonly parameters: number;
  readonly layers: number;
  readonly width: number;
  readonly heads: number;
  /** In tokens. */
  readonly context: number;
  /** Length of model.safetensors; on the hub F32, with the mask buffers that OpenAI's models carry. */
  readonly downloadBytes: number;
  /** Of model.safetensors, hex; known for what is embedded. */
  readonly sha256?: string;
  readonly licence: string;
}

/** The models that can be loaded by name; the first is the default. */
export const registry: readonly RegisteredModel[] = [
  {
    id: "stories-12m",
    label: "Stories 12M",
    source: "embedded",
    parameters: 12_368_064,
    layers: 6,
    width: 192,
    heads: 3,
    context: 256,
    downloadBytes: 24_742_592,
    sha256: "8df4db0612eea8ebab51597bc05cf9441b09d65fffb73668593dc9507b3efbe5",
    licence: "MIT",
  },
  {
    id: "openai-community/gpt2",
    label: "GPT-2 small, 124M",
    source: "hub",
    parameters: 124_439_808,
    layers: 12,
    width: 768,
    heads: 12,
    context: 1024,
    downloadBytes: 548_105_171,
    licence: "MIT",
  },
  {
    id: "openai-community/gpt2-medium",
    label: "GPT-2 medium, 355M",
    source: "hub",
    parameters: 354_823_168,
    layers: 24,
    width: 1024,
    heads: 16,
    context: 1024,
    downloadBytes: 1_519_984_962,
    licence: "MIT",
  },
  {
    id: "openai-community/gpt2-large",
    label: "GPT-2 large, 774M",
    source: "hub",
    parameters: 774_030_080,
    layers: 36,
    width: 1280,
    heads: 20,
    context: 1024,
    downloadBytes: 3_247_159_078,
    licence: "MIT",
  },
  {
    id: "openai-community/gpt2-xl",
    label: "GPT-2 XL, 1.6B",
    source: "hub",
    parameters: 1_557_611_200,
    layers: 48,
    width: 1600,
    heads: 25,
    context: 1024,
    downloadBytes: 6_431_829_964,
    licence: "MIT",
  },
  {
    id: "distilbert/distilgpt2",
    label: "DistilGPT-2, 82M",
    source: "hub",
    parameters: 81_912_576,
    layers: 6,
    width: 768,
    heads: 12,
    context: 1024,
    downloadBytes: 352_824_413,
    licence: "Apache-2.0",
  },
];
