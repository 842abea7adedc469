import type { ComparisonRow } from "nibble-webgpu";
import { css, html, LitElement, nothing, type PropertyValues, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { engine } from "./engine.ts";
import type { Measurement } from "./measurement.ts";
import { partStyles } from "./panelStyles.ts";
import type { ContinuationSettings, Settings } from "./settings.ts";

interface Continuation {
  name: string;
  ids: readonly number[];
  texts: readonly string[];
  isDone: boolean;
  failure: string | null;
}

/** The same prompt continued by each measured recipe from one seed, with the first token at which it parts from the baseline. */
@customElement("perplexity-continuations")
export class ContinuationView extends LitElement {
  static override styles = [
    partStyles,
    css`
      form { display: grid; gap: 12px; }
      dl { margin: 18px 0 0; }
      dt { font-family: var(--number-font); font-size: 0.86rem; margin-top: 14px; }
      dt small { font-family: system-ui, sans-serif; margin-left: 8px; }
      dd { margin: 2px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.65; }
      dd mark { background: color-mix(in srgb, var(--warn-color) 26%, transparent); color: inherit; border-radius: 3px; box-shadow: inset 0 -2px var(--warn-color); }
      dd .same { color: var(--soft-color); }
      .fields { grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); }
      .caption { margin-top: 18px; }
    `,
  ];

  @property({ attribute: false }) rows: readonly ComparisonRow[] = [];
  @property({ attribute: false }) measurement: Measurement | null = null;
  @property({ attribute: false }) settings!: ContinuationSettings;
  /** A run holds the device. */
  @property({ type: Boolean }) busy = false;
  @state() private continuations: readonly Continuation[] = [];
  @state() private controller: AbortController | null = null;
  @state() private status = "";

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.controller?.abort();
  }

  protected override willUpdate(changed: PropertyValues): void {
    if (!changed.has("measurement")) return;
    this.controller?.abort();
    this.continuations = [];
    this.status = "";
  }

  override render(): TemplateResult {
    const { prompt, maxTokens, temperature, seed } = this.settings;
    const measured = this.rows.filter(({ error }) => !error);
    const isReady = measured.length > 1 && this.measurement !== null && !this.busy;
    return html`
      <form @submit=${(event: Event) => void this.toggle(event, measured)}>
        <div>
          <label for="prompt">Prompt to continue</label>
          <textarea id="prompt" rows="2" required spellcheck="false" .value=${prompt} @input=${(event: Event) => this.change({ prompt: (event.target as HTMLTextAreaElement).value })}></textarea>
        </div>
        <div class="fields">
          ${this.number("maxTokens", "Tokens", maxTokens, { min: 1, max: 1024, step: 1 })}
          ${this.number("temperature", "Temperature", temperature, { min: 0, max: 5, step: "any" })}
          ${this.number("seed", "Seed", seed, { min: 0, max: 4294967295, step: 1 })}
        </div>
        <div class="row">
          <button class="primary" ?disabled=${!isReady && this.controller === null}>${this.controller ? "Stop" : "Continue with each"}</button>
          <span class="number soft" role="status">${this.status || (measured.length > 1 ? "" : "The recipes are those of the last run.")}</span>
        </div>
      </form>
      <dl>${this.continuations.map((continuation, i) => this.renderContinuation(continuation, i))}</dl>
      <p class="caption">${this.caption()}</p>
    `;
  }

  private number(field: "maxTokens" | "temperature" | "seed", label: string, value: number, { min, max, step }: { min: number; max: number; step: number | "any" }): TemplateResult {
    return html`<label>${label}<input type="number" required min=${min} max=${max} step=${step} .value=${String(value)} @change=${(event: Event) => this.change({ [field]: (event.target as HTMLInputElement).valueAsNumber })} /></label>`;
  }

  private renderContinuation({ name, ids, texts, failure, isDone }: Continuation, i: number): TemplateResult {
    const baseline = this.continuations[0]!;
    const parting = i === 0 ? null : partingOf(ids, baseline.ids, isDone);
    const note = failure ?? (i === 0 ? "the baseline" : parting === null ? (isDone ? "the same to the end" : "") : `the same for ${parting} tokens`);
    const same = texts.slice(0, parting ?? texts.length).join("").trimStart();
    return html`
      <dt>${name}<small class=${failure === null ? "soft" : "warn"}>${note}</small></dt>
      <dd>${i === 0 ? same : html`<span class="same">${same}</span>`}${parting === null ? nothing : html`<mark title="First difference">${texts[parting] ?? " (ends here)"}</mark>${texts.slice(parting + 1).join("")}`}</dd>
    `;
  }

  private caption(): string {
    const partings = this.continuations.slice(1).filter(({ isDone }) => isDone).map(({ name, ids }) => ({ name, at: partingOf(ids, this.continuations[0]!.ids, true) })).filter(({ at }) => at !== null);
    const first = partings.toSorted((a, b) => a.at! - b.at!)[0];
    const idea = "One changed token changes all that follow: texts part at the first place where two words were nearly as likely, even between models that are almost the same. Reading tells little about quality; perplexity and KL divergence are measured on the same words for all.";
    return first ? `${idea} Here ${first.name} is the first to part, after ${first.at} tokens.` : idea;
  }

  private change(change: Partial<ContinuationSettings>): void {
    const detail: Partial<Settings> = { continuation: { ...this.settings, ...change } };
    this.dispatchEvent(new CustomEvent("change", { detail }));
  }

  private async toggle(event: Event, rows: readonly ComparisonRow[]): Promise<void> {
    event.preventDefault();
    if (this.controller) return this.controller.abort();
    const { source, load } = this.measurement!;
    const { prompt, ...options } = this.settings;
    const controller = new AbortController();
    this.controller = controller;
    const { signal } = controller;
    this.continuations = [];
    try {
      for (const { name, recipe } of rows) {
        this.status = `Loading ${name}…`;
        this.put({ name, ids: [], texts: [], isDone: false, failure: null });
        try {
          using model = await engine.load(source, { ...load, quantization: recipe, signal });
          this.status = `${name} writes…`;
          for await (const { id, text } of model.generate(prompt, { ...options, signal })) {
            const { ids, texts } = this.continuations.at(-1)!;
            this.put({ name, ids: [...ids, id], texts: [...texts, text], isDone: false, failure: null });
          }
          signal.throwIfAborted();
          this.put({ ...this.continuations.at(-1)!, isDone: true });
        } catch (error) {
          if (signal.aborted) throw error;
          this.put({ ...this.continuations.at(-1)!, isDone: true, failure: (error as Error).message });
        }
      }
      this.status = `Done: ${rows.length} continuations.`;
    } catch {
      this.status = "Stopped."; // whatever fails but is not stopped stands beside its recipe
    } finally {
      if (this.controller === controller) this.controller = null;
    }
  }

  /** In the place of the one of that name, or at the end. */
  private put(continuation: Continuation): void {
    this.continuations = [...this.continuations.filter(({ name }) => name !== continuation.name), continuation];
  }
}

/** Index of the first token that differs, or at which one of two finished texts ends; null where none does. */
function partingOf(ids: readonly number[], baseline: readonly number[], isDone: boolean): number | null {
  const at = ids.findIndex((id, i) => id !== baseline[i]);
  if (at >= 0) return at;
  return isDone && ids.length < baseline.length ? ids.length : null;
}
