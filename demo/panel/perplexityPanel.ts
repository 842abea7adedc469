import {
  comparisonCsv,
  compareQuantizationsInWorker,
  presets,
  type CompareProgress,
  type Comparison,
  type ComparisonRow,
  type LoadOptions,
  type ModelSource,
  type PerplexityOptions,
  type PresetName,
  type QuantizationRecipe,
} from "nibble-webgpu";
import { LitElement, html, nothing, type TemplateResult } from "lit";
import { customElement, property, query, state } from "lit/decorators.js";
import { saveFile, toJson } from "./exportRows.ts";
import { change, clock, formatNote, figure, megabytes, rate, smallFigure } from "./format.ts";
import { panelStyles } from "./panelStyles.ts";
import { sizeChart } from "./sizeChart.ts";

/** The presets that need no calibration text. */
export const uncalibratedPresets = (Object.keys(presets) as PresetName[]).filter((name) => {
  const { activations = "float" } = presets[name];
  return activations === "float" || activations.ranges === "dynamic";
});

type Protocol = NonNullable<PerplexityOptions["protocol"]>;
type TextKind = "given" | "pasted" | "file";
const baseline = "f32";
const lengths: readonly (number | null)[] = [512, 2048, null];

/** A run under way: its rows by name, and what is known of the one at work. */
interface Run {
  names: readonly string[];
  progress: CompareProgress | null;
  rowStartMs: number;
}

/**
 * Measures recipes of one model on one text, row by row.
 * Fires `row` (detail: ComparisonRow) for each one measured, then `done` (Comparison) or `error` (whatever ended the run; not an abort). None of them bubbles.
 */
@customElement("perplexity-panel")
export class PerplexityPanel extends LitElement {
  static override styles = panelStyles;

  /** The model to measure. */
  @property({ attribute: false }) source: ModelSource | null = null;
  /** The text that is offered first. */
  @property({ attribute: false }) text = "";
  /** What that text is called in the list. */
  @property({ attribute: "text-label" }) textLabel = "the bundled stories";
  /** Offered as checkboxes; recipes need a `name`. */
  @property({ attribute: false }) recipes: readonly (PresetName | QuantizationRecipe)[] = uncalibratedPresets;
  /** Names of those that are ticked. The baseline, f32, is always measured. */
  @property({ attribute: false }) chosen: ReadonlySet<string> = new Set(["int8", "int4", "nf4"]);
  @property() backend: NonNullable<LoadOptions["backend"]> = "auto";
  @property() protocol: Protocol = "strided";
  /** Measure this many tokens of the text; null: all of it. Needs `encode`. */
  @property({ attribute: false }) tokenLimit: number | null = null;
  /** The model's tokenizer. null: the whole text is measured. */
  @property({ attribute: false }) encode: ((text: string) => number[]) | null = null;

  @state() private rows: readonly ComparisonRow[] = [];
  @state() private comparison: Comparison | null = null;
  @state() private run: Run | null = null;
  @state() private announcement = "";
  @state() private failure = "";
  @state() private textKind: TextKind = "given";
  @state() private chartWidth = 460;
  @query("textarea") private pasted!: HTMLTextAreaElement | null;
  @query("input[type=file]") private picked!: HTMLInputElement | null;
  @query("figure") private figure!: HTMLElement;
  private controller: AbortController | null = null;
  private readonly resize = new ResizeObserver(([entry]) => (this.chartWidth = Math.max(240, Math.floor(entry!.contentRect.width))));

  /** Measures the baseline and the ticked recipes. Resolves when that has ended, however it ended; a second call meanwhile does nothing. */
  async start(): Promise<void> {
    const { source } = this;
    if (this.controller || source === null) return;
    this.controller = new AbortController();
    const { signal } = this.controller;
    const recipes = this.recipes.filter((recipe) => nameOf(recipe) !== baseline && this.chosen.has(nameOf(recipe)));
    this.rows = [];
    this.comparison = null;
    this.failure = "";
    this.announcement = "Measuring.";
    this.run = { names: [baseline, ...recipes.map(nameOf)], progress: null, rowStartMs: performance.now() };
    try {
      const { backend, protocol } = this;
      const text = await this.chosenText();
      const rows = compareQuantizationsInWorker(source, { text, recipes, baseline, backend, protocol, signal, onProgress: (progress) => this.showProgress(progress) });
      for (let next = await rows.next(); ; next = await rows.next()) {
        if (next.done) {
          this.comparison = next.value;
          break;
        }
        this.rows = [...this.rows, next.value];
        this.fire("row", next.value);
      }
      this.announcement = `Done: ${this.rows.length} recipes.`;
      this.fire("done", this.comparison);
    } catch (error) {
      this.announcement = signal.aborted ? "Cancelled." : "Failed.";
      if (!signal.aborted) {
        this.failure = error instanceof Error ? error.message : String(error);
        this.fire("error", error);
      }
    } finally {
      this.run = null;
      this.controller = null;
    }
  }

  cancel(): void {
    this.controller?.abort(new DOMException("Cancelled by the user.", "AbortError"));
  }

  override firstUpdated(): void {
    this.resize.observe(this.figure);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.cancel();
  }

  override render(): TemplateResult {
    return html`
      ${this.renderRecipes()} ${this.renderText()}
      <div class="row actions">
        <button class="primary" id="run" ?disabled=${this.source === null} @click=${() => (this.run ? this.cancel() : void this.start())}>${this.run ? "Cancel" : "Run"}</button>
        <span class="number soft grow" role="status">${this.announcement}</span>
        <button ?disabled=${this.rows.length === 0} @click=${() => saveFile("nibble-comparison.csv", "text/csv", comparisonCsv(this.rows))}>CSV</button>
        <button ?disabled=${this.rows.length === 0} @click=${() => saveFile("nibble-comparison.json", "application/json", toJson(this.rows, this.comparison))}>JSON</button>
      </div>
      <p class="alert" role="alert">${this.failure}</p>
      <div class="scroll" role="region" aria-label="Results" tabindex="0">${this.renderTable()}</div>
      <div class="below">
        <figure>
          <figcaption>Size and loss <span>lower left is better; bars are ± of the difference to f32</span></figcaption>
          ${sizeChart(this.rows, this.chartWidth)}
        </figure>
        ${columnNotes}
      </div>
    `;
  }

  private renderRecipes(): TemplateResult {
    const toggle = (name: string, ticked: boolean): void => {
      this.chosen = new Set(ticked ? [...this.chosen, name] : [...this.chosen].filter((other) => other !== name));
    };
    return html`
      <fieldset ?disabled=${this.run !== null}>
        <legend>Recipes</legend>
        <div class="recipes">
          ${this.recipes.map((recipe) => {
            const name = nameOf(recipe);
            const { linear } = typeof recipe === "string" ? presets[recipe] : recipe;
            return html`<label>
              <input
                type="checkbox"
                .value=${name}
                .checked=${name === baseline || this.chosen.has(name)}
                ?disabled=${name === baseline}
                @change=${(event: Event) => toggle(name, (event.target as HTMLInputElement).checked)}
              />
              <span><span class="number">${name}</span> <small>${name === baseline ? "the baseline" : formatNote(linear)}</small></span>
            </label>`;
          })}
        </div>
      </fieldset>
    `;
  }

  private renderText(): TemplateResult {
    return html`
      <fieldset ?disabled=${this.run !== null}>
        <legend>Text</legend>
        <div class="row">
          <label>Read
            <select id="text" @change=${(event: Event) => (this.textKind = valueOf(event) as TextKind)}>
              <option value="given">${this.textLabel}</option>
              <option value="pasted">pasted text</option>
              <option value="file">a text file</option>
            </select>
          </label>
          <label>Length
            <select id="length" ?disabled=${this.encode === null} @change=${(event: Event) => (this.tokenLimit = JSON.parse(valueOf(event)) as number | null)}>
              ${lengths.map((length) => html`<option value=${String(length)} .selected=${length === this.tokenLimit}>${length === null ? "all tokens" : `first ${length.toLocaleString("en")} tokens`}</option>`)}
            </select>
          </label>
          <label>Protocol
            <select id="protocol" @change=${(event: Event) => (this.protocol = valueOf(event) as Protocol)}>
              ${Object.entries(protocols).map(([value, label]) => html`<option value=${value} .selected=${value === this.protocol}>${label}</option>`)}
            </select>
          </label>
        </div>
        <div class="given" ?hidden=${this.textKind !== "pasted"}>
          <label for="pasted">Text to measure on</label>
          <textarea id="pasted" rows="5" spellcheck="false"></textarea>
        </div>
        <div class="given" ?hidden=${this.textKind !== "file"}>
          <label for="file">Plain text, UTF-8</label>
          <input id="file" type="file" accept="text/plain,.txt,.md,.raw" />
        </div>
      </fieldset>
    `;
  }

  private renderTable(): TemplateResult {
    const names = this.run?.names ?? this.rows.map(({ name }) => name);
    return html`
      <table>
        <thead>
          <tr>
            <th scope="col">recipe</th>
            <th scope="col">bits/weight</th>
            <th scope="col">MB</th>
            <th scope="col">perplexity</th>
            <th scope="col">to f32</th>
            <th scope="col">KL mean</th>
            <th scope="col">same top</th>
            <th scope="col">read tok/s</th>
            <th scope="col">write tok/s</th>
          </tr>
        </thead>
        <tbody>
          ${names.length === 0 ? html`<tr><td class="left hint" colspan="9">Nothing measured yet. The baseline comes first, then each recipe that is ticked.</td></tr>` : nothing}
          ${names.map((name, i) => {
            const row = this.rows[i];
            return row ? renderRow(row, i === 0) : this.renderPending(name, i);
          })}
        </tbody>
      </table>
    `;
  }

  private renderPending(name: string, i: number): TemplateResult {
    const { progress, rowStartMs } = this.run!;
    if (progress?.row !== i) return html`<tr class="soft"><th scope="row">${name}</th><td class="left" colspan="8">${i === 0 ? "fetching the model" : "waiting"}</td></tr>`;
    const elapsedSeconds = (performance.now() - rowStartMs) / 1000;
    const parts = [
      progress.stage === "load" ? "loading" : `${progress.scoredTokens} of ${progress.totalTokens} tokens`,
      progress.perplexity === null ? null : `perplexity ${figure(progress.perplexity)} so far`,
      progress.fraction < 0.1 ? null : `${clock((elapsedSeconds * (1 - progress.fraction)) / progress.fraction)} left`,
    ];
    return html`<tr>
      <th scope="row">${name}</th>
      <td class="left soft" colspan="8">
        <progress max="1" .value=${progress.fraction} aria-label=${`Measuring ${name}`}></progress> ${parts.filter((part) => part !== null).join(", ")}
      </td>
    </tr>`;
  }

  private showProgress(progress: CompareProgress): void {
    if (!this.run) return;
    const isNewRow = progress.row !== this.run.progress?.row;
    if (isNewRow) this.announcement = `Measuring ${progress.name}, ${progress.row + 1} of ${progress.rows}.`;
    this.run = { ...this.run, progress, rowStartMs: isNewRow ? performance.now() : this.run.rowStartMs };
  }

  private async chosenText(): Promise<string | number[]> {
    const file = this.picked?.files?.[0];
    const text = { given: () => this.text, pasted: () => this.pasted?.value ?? "", file: () => file?.text() ?? "" }[this.textKind];
    const whole = await text();
    if (whole.trim() === "") throw new TypeError(this.textKind === "file" ? "No file with text in it was chosen." : "There is no text to measure on.");
    return this.encode && this.tokenLimit !== null ? this.encode(whole).slice(0, this.tokenLimit) : whole;
  }

  private fire(type: "row" | "done" | "error", detail: unknown): void {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

const protocols: Readonly<Record<Protocol, string>> = {
  strided: "strided windows (Hugging Face)",
  disjoint: "disjoint windows (GPTQ)",
  "llama.cpp": "second halves (llama.cpp)",
};

const columnNotes = html`
  <dl>
    <div><dt>bits/weight</dt><dd>what one weight of the blocks takes, its share of the scales included. The embedding is not in it.</dd></div>
    <div><dt>MB</dt><dd>everything stored: blocks, embedding, scales, biases.</dd></div>
    <div><dt>perplexity</dt><dd>how many equally likely next tokens the model's surprise amounts to; lower is better. ± is one standard error: another text of this kind and length would land within it two times in three.</dd></div>
    <div><dt>to f32</dt><dd>the change that the recipe makes. Both models read the same tokens, so the text's own difficulty cancels and this ± is much smaller.</dd></div>
    <div><dt>KL mean</dt><dd>how far the predictions moved from f32's, in nats per token, whether or not the move helped. 0 is no change; it sees damage long before perplexity does.</dd></div>
    <div><dt>same top</dt><dd>how often both models put the same token first.</dd></div>
    <div><dt>tok/s</dt><dd>on this device: reading a prompt, and writing one token at a time.</dd></div>
  </dl>
`;

function renderRow(row: ComparisonRow, isBaseline: boolean): TemplateResult {
  const name = html`<th scope="row">${row.name}${isBaseline ? " (baseline)" : ""}</th>`;
  if (row.error) return html`<tr>${name}<td class="why" colspan="8">${row.error.message}</td></tr>`;
  return html`<tr class=${isBaseline ? "baseline" : ""}>
    ${name}
    <td>${figure(row.bitsPerWeight)}</td>
    <td>${megabytes(row.bytes.total)}</td>
    <td>${figure(row.perplexity)} ± ${figure(row.standardError)}</td>
    <td>${isBaseline ? "–" : change(row.ratio, row.ratioError)}</td>
    <td>${isBaseline ? "–" : smallFigure(row.klDivergence.mean)}</td>
    <td>${isBaseline ? "–" : `${figure(row.sameTopToken.fraction * 100, 1)} %`}</td>
    <td>${rate(row.prefillTokensPerSecond)}</td>
    <td>${rate(row.decodeTokensPerSecond)}</td>
  </tr>`;
}

function nameOf(recipe: PresetName | QuantizationRecipe): string {
  return typeof recipe === "string" ? recipe : (recipe.name ?? "unnamed");
}

function valueOf(event: Event): string {
  return (event.target as HTMLSelectElement).value;
}

declare global {
  interface HTMLElementTagNameMap {
    "perplexity-panel": PerplexityPanel;
  }
}
