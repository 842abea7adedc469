import type { WorkerCompareOptions, ModelSource, PresetName, QuantizationRecipe } from "nibble-webgpu";

/** A text that the panel offers. */
export interface PanelText {
  label: string;
  /** The text, or where it is fetched from when it is first needed. */
  text: string | URL;
}

/** How models are loaded, whatever the recipe; what can be sent to the worker that does it. */
export type PanelLoadOptions = Pick<WorkerCompareOptions, "backend" | "hub" | "integrity" | "kvCache" | "calibration" | "worker">;

/**
 * `<perplexity-panel>`: measures recipes of one model on one text, row by row, and shows what they did to it. All properties may change between runs.
 * Fires `row` (detail: ComparisonRow) for each one measured, then `done` (Comparison) or `error` (whatever ended the run; not an abort). None of them bubbles.
 * A page whose address ends in a link of the panel's takes its settings from there; for a link made with another model it has a button, which fires `model`
 * (detail: the hub id or address) and, unless that is prevented, sets `source`.
 * Custom properties that set its looks: --card, --ink, --soft, --line, --control (borders of what can be pressed), --accent, --on-accent (text on it),
 * --accent-soft, --warn, --mono (font of figures). What is not set follows the system's light or dark.
 */
export interface PerplexityPanelElement extends HTMLElement {
  /** The model to measure. The attribute takes a hub id or an address. */
  source: ModelSource | null;
  /** The text that is offered first; the attribute `text-url` takes its address. @default "" */
  text: string | URL;
  /** What that text is called in the list; attribute `text-label`. @default "the given text" */
  textLabel: string;
  /** More texts to choose from. */
  texts: readonly PanelText[];
  /** For the recipes that need it: text like that the model will meet, but not the one it is measured on. Without it those recipes cannot be ticked. */
  calibration: string | URL | null;
  /** Offered to be ticked; recipes need a `name`. @default all presets */
  recipes: readonly (PresetName | QuantizationRecipe)[];
  /** Names of those that are ticked at first. The baseline is always measured. @default int8, int4, nf4 */
  chosen: readonly string[];
  /** @default "f32" */
  baseline: PresetName | QuantizationRecipe;
  /** At first measure this many tokens of the text; null: all of it. Attribute `token-limit`. */
  tokenLimit: number | null;
  /** @default "auto" */
  backend: NonNullable<PanelLoadOptions["backend"]>;
  /** How models are loaded beyond that. */
  loadOptions: Omit<PanelLoadOptions, "backend" | "calibration">;
  /** Measures the baseline and the ticked recipes. Resolves when that has ended, however it ended; a second call meanwhile does nothing. */
  start(): Promise<void>;
  /** Ends the run; the rows that were measured stay. */
  cancel(): void;
  /** Takes effect after the window at work. */
  pause(): void;
  /** Goes on after pause(). */
  resume(): void;
}

declare global {
  interface HTMLElementTagNameMap {
    "perplexity-panel": PerplexityPanelElement;
  }
}
