import { comparisonCsv, type ComparisonRow, type ComparisonRun, encodeComparison, type ModelSource, type ModelTokenizer } from "nibble-webgpu";
import { css, html, LitElement, nothing, type PropertyValues, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import "./continuationView.ts";
import { engine } from "./engine.ts";
import { saveFile } from "./exportFiles.ts";
import { change, figure } from "./format.ts";
import { type LinkedRun, linkTo, readLink } from "./link.ts";
import { comparisonMarkdown, originOf } from "./markdown.ts";
import { limited, type Measurement, orAborted, outlookOf, planOf } from "./measurement.ts";
import { modelName } from "./modelName.ts";
import type { PanelLoadOptions, PanelText, PerplexityPanelElement } from "./panelElement.ts";
import { panelColors, partStyles } from "./panelStyles.ts";
import { chosenSummary } from "./recipeControls.ts";
import { nameOf, presetNames, type Recipe, usesCalibration } from "./recipes.ts";
import type { RowAtWork } from "./resultTable.ts";
import "./resultTable.ts";
import { protocols, type Settings } from "./settings.ts";
import "./sizeView.ts";
import "./tensorView.ts";
import type { TextOutlook } from "./textControls.ts";
import "./textControls.ts";
import { sha256, TextReader } from "./textReader.ts";
import "./tokenView.ts";

const views = { sizes: "Sizes", tensors: "Tensors", tokens: "Text", continuations: "Continuations" } as const;
type View = keyof typeof views;

const nothingKnown: TextOutlook = { textTokens: null, plan: null, problem: null };

/** What its properties and methods mean is written in panelElement.ts. */
@customElement("perplexity-panel")
export class PerplexityPanel extends LitElement implements PerplexityPanelElement {
  static override styles = [
    partStyles,
    panelColors,
    css`
      .exports { margin-left: auto; gap: 6px; }
      [role="status"] { flex: 1 1 0; overflow-wrap: anywhere; }
      [role="status"].filled { flex-basis: 12rem; }
      [role="alert"] { color: var(--warn-color); font-size: 0.95rem; overflow-wrap: anywhere; }
      [role="alert"]:not(:empty) { margin-top: 8px; }
      .hint { margin-top: 14px; }
      .linked { margin-top: 8px; font-size: 0.95rem; }
      perplexity-table { margin-top: 6px; }
      details { border-top: 1px solid var(--line-color); }
      details:first-of-type { margin-top: 14px; }
      details:last-of-type { border-bottom: 1px solid var(--line-color); }
      summary { padding: 8px 0; font-size: 0.95rem; display: flex; gap: 10px; align-items: baseline; list-style: none; }
      summary::-webkit-details-marker { display: none; }
      summary::before { content: ""; flex: none; width: 0.42em; height: 0.42em; border: solid var(--soft-color); border-width: 0 1.5px 1.5px 0; transform: rotate(-45deg); align-self: center; }
      details[open] > summary::before { transform: rotate(45deg); }
      summary span:first-child { flex: none; min-width: 4.2rem; }
      summary span:last-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
      details > :not(summary) { padding: 4px 0 14px; }
      [role="tablist"] { display: flex; flex-wrap: wrap; gap: 2px 20px; margin-top: 22px; border-bottom: 1px solid var(--line-color); }
      [role="tab"] { border: 0; border-bottom: 2px solid transparent; border-radius: 0; background: none; padding: 7px 0; margin-bottom: -1px; color: var(--soft-color); }
      [role="tab"][aria-selected="true"] { border-color: var(--accent-color); color: var(--ink-color); }
      [role="tabpanel"] { padding-top: 16px; }
      .origin { margin-top: 18px; min-height: 1.6em; }
      @media (max-width: 760px) { [role="status"].filled { flex-basis: 100%; order: 1; } [role="status"].rows { min-height: 2.8rem; } .exports { margin-left: 0; } [role="tablist"] { gap: 2px 12px; } }
    `,
  ];

  @property() source: ModelSource | null = null;
  @property({ attribute: "text-url", converter: { fromAttribute: (value) => (value === null ? "" : new URL(value, document.baseURI)) } }) text: string | URL = "";
  @property({ attribute: "text-label" }) textLabel = "the given text";
  @property({ attribute: false }) texts: readonly PanelText[] = [];
  @property({ attribute: false }) calibration: string | URL | null = null;
  @property({ attribute: false }) recipes: readonly Recipe[] = presetNames;
  @property({ attribute: false }) chosen: readonly string[] = ["int8", "int4", "nf4"];
  @property({ attribute: false }) baseline: Recipe = "f32";
  @property({ attribute: "token-limit", type: Number }) tokenLimit: number | null = null;
  @property() backend: NonNullable<PanelLoadOptions["backend"]> = "auto";
  @property({ attribute: false }) loadOptions: Omit<PanelLoadOptions, "backend" | "calibration"> = {};

  /** What the user, or a link, chose; the properties say the rest. */
  @state() private choice: Partial<Settings> = {};
  /** What is, was or will be measured, the baseline first. */
  @state() private planned: readonly Recipe[] = [];
  @state() private rows: readonly ComparisonRow[] = [];
  /** What the rows share, once there is one. */
  @state() private run: ComparisonRun | null = null;
  @state() private measurement: Measurement | null = null;
  @state() private atWork: RowAtWork | null = null;
  @state() private running = false;
  @state() private paused = false;
  @state() private announcement = "";
  @state() private failure = "";
  @state() private outlook = nothingKnown;
  @state() private view: View = "sizes";
  /** What the address of the page says; the user may have changed it since. */
  @state() private linked: LinkedRun | null = null;
  private controller: AbortController | null = null;
  private resumed: (() => void) | null = null;
  private readonly reader = new TextReader();
  private opened: { source: ModelSource; tokenizer: Promise<ModelTokenizer> } | null = null;
  private looks = 0;
  private tokenized: { text: string; tokenizer: ModelTokenizer; tokens: number[] } | null = null;
  private readonly followHash = (): void => void this.followLink();

  async start(): Promise<void> {
    const { source, settings, baseline } = this;
    if (this.controller || source === null) return;
    this.controller = new AbortController();
    const { signal } = this.controller;
    const recipes = this.chosenRecipes();
    this.planned = [baseline, ...recipes];
    this.rows = [];
    this.run = this.measurement = this.atWork = null;
    this.failure = "";
    this.announcement = "Reading the model.";
    this.running = true;
    try {
      const calibration = await orAborted(this.chosenCalibration(settings), signal);
      const load: PanelLoadOptions = { ...this.loadOptions, backend: this.backend, calibration: calibration === "" ? undefined : calibration };
      const text = await orAborted(this.chosenText(settings), signal);
      const tokenizer = await orAborted(this.tokenizerOf(source), signal);
      const all = this.tokensOf(text, tokenizer);
      const tokens = limited(all, settings);
      const plan = planOf(tokens.length, settings, tokenizer);
      await this.checkLinkedTexts(text, calibration);
      const { protocol, windowTokens, strideTokens } = plan;
      const comparing = engine.compare(source, {
        ...load,
        text: tokens === all ? text : tokens, // bits per byte are known of a text only
        recipes,
        baseline,
        protocol,
        windowTokens,
        ...(protocol === "strided" ? { strideTokens } : {}),
        samples: true,
        signal,
        beforeWindow: () => this.resting(signal),
        onStart: (run) => (this.run = run),
        onProgress: (progress) => {
          this.atWork = { progress, startMs: progress.row === this.atWork?.progress.row ? this.atWork.startMs : performance.now() };
        },
      });
      this.measurement = { source, load, tokenizer, tokens, plan };
      for (let next = await comparing.next(); ; next = await comparing.next()) {
        if (next.done) {
          const { rows: _, ...run } = next.value;
          this.run = run;
          this.fire("done", next.value);
          break;
        }
        this.takeRow(next.value);
        await this.resting(signal);
      }
      const failed = this.rows.filter(({ error }) => error).length;
      this.announcement = `Done: ${this.rows.length} recipes${failed === 0 ? "" : `, of which ${failed} could not run`}.`;
    } catch (error) {
      this.announcement = signal.aborted ? "Cancelled." : "Failed.";
      if (!signal.aborted) {
        this.failure = error instanceof Error ? error.message : String(error);
        this.fire("error", error);
      }
    } finally {
      this.running = this.paused = false;
      this.controller = this.resumed = null;
    }
  }

  cancel(): void {
    this.controller?.abort(new DOMException("Cancelled by the user.", "AbortError"));
  }

  pause(): void {
    if (this.running) this.paused = true;
  }

  resume(): void {
    this.paused = false;
    this.resumed?.();
  }

  override connectedCallback(): void {
    super.connectedCallback();
    void this.followLink();
    addEventListener("hashchange", this.followHash);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    removeEventListener("hashchange", this.followHash);
    this.cancel();
  }

  protected override willUpdate(changed: PropertyValues): void {
    const inputs: PropertyKey[] = ["source", "text", "texts", "choice", "tokenLimit"];
    if (this.opened && inputs.some((name) => changed.has(name))) void this.lookAhead();
  }

  override render(): TemplateResult {
    const { settings, running, outlook } = this;
    const baseline = nameOf(this.baseline);
    return html`
      ${this.renderActions()} ${this.renderLinkedModel()}
      <details id="recipes">
        <summary><span>Recipes</span><span class="number soft">${chosenSummary(this.chosenRecipes())}</span></summary>
        <perplexity-recipes
          .offered=${this.recipes}
          .own=${settings.own}
          .chosen=${settings.chosen}
          .baseline=${baseline}
          .calibrationLabels=${this.offeredCalibrations().map(({ label }) => label)}
          .calibration=${settings.calibration}
          .calibrated=${this.hasCalibration}
          .disabled=${running}
          @change=${this.takeChoice}
        ></perplexity-recipes>
      </details>
      <details id="texts" @toggle=${() => void this.lookAhead()}>
        <summary><span>Text</span><span class="number soft">${this.textSummary()}</span></summary>
        <perplexity-text .labels=${this.offeredTexts().map(({ label }) => label)} .settings=${settings} .outlook=${outlook} .disabled=${running} @change=${this.takeChoice}></perplexity-text>
      </details>
      ${this.isIdle ? this.renderIdle(baseline) : this.renderRun()}
    `;
  }

  private renderActions(): TemplateResult {
    const { running, paused, isIdle } = this;
    return html`<div class="row">
      <button class="primary" id="run" ?disabled=${this.source === null} @click=${() => (running ? this.cancel() : void this.start())}>${running ? "Cancel" : "Run"}</button>
      <button ?hidden=${isIdle} ?disabled=${!running} aria-pressed=${paused} title="Takes effect after the window at work" @click=${() => (paused ? this.resume() : this.pause())}>${paused ? "Resume" : "Pause"}</button>
      <p class=${`number soft${this.announcement === "" ? "" : " filled"}${isIdle ? "" : " rows"}`} role="status">${this.announcement}</p>
      <div class="row exports" role="group" aria-label="Save and share">
        ${this.exportButton("CSV", "csv", "text/csv", (rows, run) => comparisonCsv(rows, run))}
        ${this.exportButton("JSON", "json", "application/json", (rows, run) => encodeComparison({ rows, ...run }))}
        ${this.exportButton("Markdown", "md", "text/markdown", (rows, run) => comparisonMarkdown({ rows, ...run }))}
        <button class="small" title="An address that holds these settings" @click=${() => void this.copyLink()}>Link</button>
      </div>
    </div>
    <p role="alert">${this.failure}</p>`;
  }

  private renderIdle(baseline: string): TemplateResult {
    const count = this.chosenRecipes().length;
    return html`<p class="hint">
      A run reads the text under ${baseline} and ${count === 1 ? "the recipe" : `each of the ${count} recipes`} that ${count === 1 ? "is" : "are"} ticked, and shows what each saves and what it costs: megabytes beside
      perplexity, the error of every matrix, the words that it hurts, and what it writes instead.
    </p>`;
  }

  private renderRun(): TemplateResult {
    const { settings, running, run, planned, rows, measurement } = this;
    const names = planned.map(nameOf);
    const origin = run ? originOf(run) : "";
    return html`
      <perplexity-table .planned=${planned} .rows=${rows} .atWork=${this.atWork} .running=${running}></perplexity-table>
      <div role="tablist" aria-label="A closer look" @keydown=${(event: KeyboardEvent) => this.stepTabs(event)}>
        ${entriesOf(views).map(
          ([id, label]) => html`<button role="tab" id=${`tab-${id}`} aria-controls=${id} aria-selected=${id === this.view} tabindex=${id === this.view ? 0 : -1} @click=${() => (this.view = id)}>${label}</button>`,
        )}
      </div>
      ${this.tabPanel("sizes", html`<perplexity-sizes .rows=${rows} .names=${names} .origin=${origin}></perplexity-sizes>`)}
      ${this.tabPanel("tensors", html`<perplexity-tensors .rows=${rows} .measurement=${measurement} .origin=${origin}></perplexity-tensors>`)}
      ${this.tabPanel("tokens", html`<perplexity-tokens .rows=${rows} .measurement=${measurement} .busy=${running}></perplexity-tokens>`)}
      ${this.tabPanel(
        "continuations",
        html`<perplexity-continuations .rows=${rows} .measurement=${measurement} .settings=${settings.continuation} .busy=${running} @change=${this.takeChoice}></perplexity-continuations>`,
      )}
      <p class="origin number soft">${origin}</p>
    `;
  }

  /** Nothing was measured, and nothing is about to be. */
  private get isIdle(): boolean {
    return !this.running && this.rows.length === 0;
  }

  private get settings(): Settings {
    return {
      text: { kind: "offered", label: this.offeredTexts()[0]?.label ?? this.textLabel },
      calibration: { kind: "offered", label: "the given text" },
      protocol: "strided",
      windowTokens: null,
      strideTokens: null,
      tokenLimit: this.tokenLimit,
      chosen: this.chosen,
      own: [],
      continuation: { prompt: "Once upon a time, there was", maxTokens: 40, temperature: 0, seed: 1 },
      ...this.choice,
    };
  }

  private readonly takeChoice = ({ detail }: CustomEvent<Partial<Settings>>): void => {
    this.choice = { ...this.choice, ...detail };
  };

  /** Saves the rows that there are; of a run that has not ended the name of the file says so, too. */
  private exportButton(label: string, extension: string, type: string, write: (rows: readonly ComparisonRow[], run: ComparisonRun) => string): TemplateResult {
    const { rows, run, planned, isIdle } = this;
    const part = run?.plannedRows === undefined ? "" : `-${rows.length}-of-${run.plannedRows}`;
    return html`<button
      class="small"
      ?hidden=${isIdle}
      ?disabled=${run === null}
      title=${`Save ${part === "" ? "the run" : `${rows.length} of ${planned.length} recipes`} as ${label}`}
      @click=${() => saveFile(`nibble-comparison${part}.${extension}`, new Blob([write(rows, run!)], { type }))}
    >${label}</button>`;
  }

  private tabPanel(id: View, content: TemplateResult): TemplateResult {
    return html`<div role="tabpanel" id=${id} aria-labelledby=${`tab-${id}`} ?hidden=${id !== this.view}>${content}</div>`;
  }

  private stepTabs(event: KeyboardEvent): void {
    const ids = entriesOf(views).map(([id]) => id);
    const at = ids.indexOf(this.view);
    const next = { ArrowRight: ids[(at + 1) % ids.length], ArrowLeft: ids.at(at - 1), Home: ids[0], End: ids.at(-1) }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    this.view = next;
    void this.updateComplete.then(() => this.renderRoot.querySelector<HTMLElement>(`#tab-${next}`)!.focus());
  }

  private textSummary(): string {
    const { text, tokenLimit, protocol, windowTokens } = this.settings;
    const what = text.kind === "offered" ? text.label : text.kind === "pasted" ? "pasted text" : (text.file?.name ?? "a text file");
    return [what, tokenLimit === null ? "all tokens" : `first ${tokenLimit.toLocaleString("en")} tokens`, protocols[protocol].label, windowTokens === null ? null : `of ${windowTokens}`].filter((part) => part !== null).join(" · ");
  }

  private chosenRecipes(): readonly Recipe[] {
    const { chosen, own } = this.settings;
    const baseline = nameOf(this.baseline);
    return [...this.recipes, ...own].filter((recipe) => nameOf(recipe) !== baseline && chosen.includes(nameOf(recipe)));
  }

  private offeredTexts(): readonly PanelText[] {
    return [...(this.text === "" ? [] : [{ label: this.textLabel, text: this.text }]), ...this.texts];
  }

  private offeredCalibrations(): readonly PanelText[] {
    return this.calibration === null ? [] : [{ label: "the given text", text: this.calibration }];
  }

  private async chosenText({ text }: Settings): Promise<string> {
    const content = await this.reader.read(text, this.offeredTexts());
    if (content.trim() === "") throw new TypeError(text.kind === "file" ? "No file with text in it was chosen." : "There is no text to measure on.");
    return content;
  }

  /** "" where there is none, or no use for it. */
  private async chosenCalibration({ calibration }: Settings): Promise<string> {
    return [this.baseline, ...this.chosenRecipes()].some(usesCalibration) ? this.reader.read(calibration, this.offeredCalibrations()) : "";
  }

  private get hasCalibration(): boolean {
    const { calibration } = this.settings;
    return calibration.kind === "offered" ? this.calibration !== null : calibration.kind === "pasted" ? calibration.text.trim() !== "" : calibration.file !== null;
  }

  private tokenizerOf(source: ModelSource): Promise<ModelTokenizer> {
    if (this.opened?.source === source) return this.opened.tokenizer;
    const { hub } = this.loadOptions;
    const opened = { source, tokenizer: engine.openTokenizer(source, { hub }) };
    this.opened = opened;
    opened.tokenizer.catch(() => {
      if (this.opened === opened) this.opened = null;
    });
    return opened.tokenizer;
  }

  private tokensOf(text: string, tokenizer: ModelTokenizer): readonly number[] {
    if (this.tokenized?.text !== text || this.tokenized.tokenizer !== tokenizer) this.tokenized = { text, tokenizer, tokens: tokenizer.encode(text) };
    return this.tokenized.tokens;
  }

  /** Counts the tokens and plans the windows of what is chosen now. */
  private async lookAhead(): Promise<void> {
    const { source, settings } = this;
    if (source === null) return;
    const look = ++this.looks;
    let outlook: TextOutlook;
    try {
      const [tokenizer, text] = await Promise.all([this.tokenizerOf(source), this.chosenText(settings)]);
      outlook = outlookOf(this.tokensOf(text, tokenizer), settings, tokenizer);
    } catch (error) {
      outlook = { ...nothingKnown, problem: { field: "text", message: (error as Error).message } };
    }
    if (look === this.looks) this.outlook = outlook; // else a newer choice has its own
  }

  private takeRow(row: ComparisonRow): void {
    const isBaseline = this.rows.length === 0;
    this.rows = [...this.rows, row];
    const result = row.error ? "could not run" : `perplexity ${figure(row.perplexity)}${isBaseline ? "" : `, ${change(row.ratio, row.ratioError)}`}`;
    this.announcement = `${row.name}: ${result}. ${this.rows.length} of ${this.planned.length}.`;
    this.fire("row", row);
  }

  /** As long as the run is paused, for which the clock of the row at work stands still. */
  private async resting(signal: AbortSignal): Promise<void> {
    if (!this.paused) return;
    this.announcement = `Paused after ${this.rows.length} of ${this.planned.length}.`;
    const pausedMs = performance.now();
    await orAborted(new Promise<void>((resolve) => (this.resumed = resolve)), signal);
    if (this.atWork) this.atWork = { ...this.atWork, startMs: this.atWork.startMs + performance.now() - pausedMs };
    this.announcement = "Measuring.";
  }

  private get ownModel(): string | null {
    return modelName(this.source, this.loadOptions.hub);
  }

  private async copyLink(): Promise<void> {
    try {
      const { settings } = this;
      const link = await linkTo(this.ownModel, settings, await this.chosenText(settings), await this.chosenCalibration(settings));
      history.replaceState(null, "", link);
      await navigator.clipboard.writeText(link);
      this.announcement = "The link is copied, and in the address bar.";
    } catch (error) {
      if (!(error instanceof DOMException)) this.failure = (error as Error).message;
      else this.announcement = "The link is in the address bar."; // the clipboard is not for us
    }
  }

  /** Takes the settings from the page's address where it is one of copyLink()'s. */
  private async followLink(): Promise<void> {
    try {
      const linked = readLink(location.hash, this.settings);
      if (!linked) return;
      this.linked = linked;
      this.choice = linked.settings;
      this.announcement = "The settings are those of the link.";
      await this.updateComplete; // a page sets its texts before this code is there
      const text = await this.reader.find(linked.settings.text, linked.textSha256, this.offeredTexts());
      const calibration = await this.reader.find(linked.settings.calibration, linked.calibrationSha256, this.offeredCalibrations());
      if (this.linked !== linked) return; // a newer link has its own
      this.choice = { ...this.choice, text, calibration };
      const missing = [text.kind === "file" ? "The text of the link is none of those offered: give its file under Text." : "", calibration.kind === "file" ? "So is the text that it calibrates on: give its file under Recipes." : ""];
      this.failure = missing.filter((sentence) => sentence !== "").join(" ");
    } catch (error) {
      this.failure = (error as Error).message;
    }
  }

  /** A link holds the name of its model; of files it has none. */
  private renderLinkedModel(): TemplateResult | typeof nothing {
    const { linked } = this;
    if (!linked || linked.model === this.ownModel) return nothing;
    if (linked.model === null) return html`<p class="linked hint">The link was made with files, which it cannot hold: open the same ones for its figures.</p>`;
    return html`<p class="linked row"><span class="soft">The link was made with ${linked.model}.</span> <button class="small" @click=${() => this.useLinkedModel(linked.model!)}>Use that model</button></p>`;
  }

  private useLinkedModel(name: string): void {
    const isMine = this.dispatchEvent(new CustomEvent("model", { detail: name, cancelable: true }));
    if (!isMine) return;
    this.source = name;
    this.loadOptions = { ...this.loadOptions, integrity: undefined }; // that of other files
  }

  /** Says so where a text is not the one that the link was made with. */
  private async checkLinkedTexts(text: string, calibration: string): Promise<void> {
    const { linked } = this;
    if (!linked) return;
    const pairs = [["text", text, linked.textSha256], ["calibration text", calibration, linked.calibrationSha256]] as const;
    const notices: string[] = [];
    for (const [what, given, wanted] of pairs) {
      const found = await sha256(given);
      if (wanted !== null && found !== null && found !== wanted) notices.push(`The ${what} is not that of the link: its SHA-256 is ${found.slice(0, 12)}…, the link's ${wanted.slice(0, 12)}….`);
    }
    this.failure = notices.join(" ");
  }

  private fire(type: "row" | "done" | "error", detail: unknown): void {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function entriesOf<K extends string, V>(record: Readonly<Record<K, V>>): [K, V][] {
  return Object.entries(record) as [K, V][];
}
