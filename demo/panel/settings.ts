import type { PerplexityOptions, QuantizationRecipe } from "nibble-webgpu";

export type Protocol = NonNullable<PerplexityOptions["protocol"]>;

/** The label of an offered text; or a text of the user's. */
export type TextChoice = { kind: "offered"; label: string } | { kind: "pasted"; text: string } | { kind: "file"; file: File | null };

/** What the user can choose: all that a link must hold to repeat a run. */
export interface Settings {
  text: TextChoice;
  /** For the recipes that need it. */
  calibration: TextChoice;
  protocol: Protocol;
  /** null: the engine's default for the model. */
  windowTokens: number | null;
  strideTokens: number | null;
  /** Measure the first so many tokens; null: all. */
  tokenLimit: number | null;
  /** Names of the recipes that are ticked. */
  chosen: readonly string[];
  /** Recipes of the user's, beside those that are offered. */
  own: readonly QuantizationRecipe[];
  continuation: ContinuationSettings;
}

export interface ContinuationSettings {
  prompt: string;
  maxTokens: number;
  temperature: number;
  seed: number;
}

export const protocols: Readonly<Record<Protocol, { label: string; caption: string }>> = {
  strided: { label: "strided windows (Hugging Face)", caption: "Windows overlap, so that each token is read with at least half a window in front of it. Each is scored once." },
  disjoint: { label: "disjoint windows (GPTQ)", caption: "Windows stand side by side; the first tokens of each have little to go by, so the figure is higher. What does not fill a window is left out." },
  "llama.cpp": { label: "second halves (llama.cpp)", caption: "Windows stand side by side, and only the second half of each is scored." },
};
