import type { ComparisonRow, GeneratedToken, Model, TokenAlternative } from "nibble-webgpu";
import { css, html, LitElement, nothing, type PropertyValues, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { engine } from "./engine.ts";
import { figure, percent } from "./format.ts";
import { type Measurement, type ScoredToken, scoredTokens, wholeCharacters } from "./measurement.ts";
import { partStyles } from "./panelStyles.ts";
import { Room } from "./room.ts";

const PAGE_TOKENS = 600;
const WORST_COUNT = 8;
/** Tokens in front of a listed one that are shown. */
const LEAD_TOKENS = 8;
const EXPECTED_COUNT = 3;
/** Of the change of the loss, nats: where each shade begins. */
const shades = [0.05, 0.2, 0.5, 1, 2] as const;

/** One scored token under one recipe and under the baseline. */
interface Loss extends ScoredToken {
  /** −ln p, nats. */
  nll: number;
  baselineNll: number;
}

/** What each of the two models put first at one token. */
interface Expectation {
  baseline: readonly TokenAlternative[];
  recipe: readonly TokenAlternative[];
}

/** The measured text, coloured by what the recipe did to the loss of each token, and the tokens that it hurt most. */
@customElement("perplexity-tokens")
export class TokenView extends LitElement {
  static override styles = [
    partStyles,
    css`
      .text { position: relative; margin-top: 12px; padding: 12px 0; max-height: 19rem; overflow-y: auto; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.75; border-top: 1px solid var(--line-color); border-bottom: 1px solid var(--line-color); }
      .text span { border-radius: 3px; }
      .text .unscored { color: var(--soft-color); }
      .text .current { outline: 2px solid var(--accent-color); outline-offset: 1px; }
      .worse1 { background: color-mix(in srgb, var(--warn-color) 8%, transparent); }
      .worse2 { background: color-mix(in srgb, var(--warn-color) 16%, transparent); }
      .worse3 { background: color-mix(in srgb, var(--warn-color) 26%, transparent); }
      .worse4 { background: color-mix(in srgb, var(--warn-color) 38%, transparent); }
      .worse5 { background: color-mix(in srgb, var(--warn-color) 50%, transparent); }
      .better1 { background: color-mix(in srgb, var(--accent-color) 8%, transparent); }
      .better2 { background: color-mix(in srgb, var(--accent-color) 16%, transparent); }
      .better3 { background: color-mix(in srgb, var(--accent-color) 26%, transparent); }
      .better4 { background: color-mix(in srgb, var(--accent-color) 38%, transparent); }
      .better5 { background: color-mix(in srgb, var(--accent-color) 50%, transparent); }
      .legend { display: flex; gap: 3px; align-items: center; font-size: 0.82rem; color: var(--soft-color); }
      .legend i { width: 16px; height: 12px; border-radius: 3px; display: inline-block; }
      .detail { min-height: 1.9rem; margin: 8px 0 14px; }
      .list { margin: 8px -18px 0; padding: 0 18px; }
      td.context { max-width: 24rem; text-align: left; overflow: hidden; text-overflow: ellipsis; direction: rtl; }
      td.context bdi { direction: ltr; unicode-bidi: isolate; }
      td b { font-weight: 600; color: var(--ink-color); }
      td.context { color: var(--soft-color); }
      td.left { white-space: normal; }
      table:not(.cards) td.context { min-width: 12rem; }
      table:not(.cards) td.left { min-width: 11rem; }
      td.left:not(.context) { height: 4.9rem; } /* three lines, from the moment that they are asked for */
      .cards thead { display: none; }
      .cards tr { grid-template-columns: 5rem 5rem 1fr; }
      .cards td.left:not(.context) { height: auto; min-height: 3.7rem; grid-column: 1 / -1; }
      .caption { margin-top: 14px; }
      table { width: 100%; }
      @media (max-width: 760px) { .list { margin: 8px -14px 0; padding: 0 14px; } }
    `,
  ];

  @property({ attribute: false }) rows: readonly ComparisonRow[] = [];
  @property({ attribute: false }) measurement: Measurement | null = null;
  /** A run holds the device. */
  @property({ type: Boolean }) busy = false;
  @state() private recipe = "";
  @state() private page = 0;
  /** Index of the token that is pointed at. */
  @state() private current: number | null = null;
  @state() private expectations: ReadonlyMap<number, Expectation> = new Map();
  @state() private status = "";
  private readonly room = new Room(this);
  private controller: AbortController | null = null;
  private texts: readonly string[] = [];
  private losses: ReadonlyMap<number, Loss> = new Map();
  private worst: readonly Loss[] = [];

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.controller?.abort();
  }

  protected override willUpdate(changed: PropertyValues): void {
    if (changed.has("measurement")) {
      this.page = 0;
      this.texts = this.measurement ? wholeCharacters(this.measurement.tokens, (tokens) => this.measurement!.tokenizer.decode(tokens)) : [];
    }
    if (!changed.has("measurement") && !changed.has("rows") && !changed.has("recipe")) return;
    const losses = this.lossesOf(this.row());
    this.losses = new Map(losses.map((loss) => [loss.position, loss]));
    this.worst = losses.toSorted((a, b) => b.nll - b.baselineNll - (a.nll - a.baselineNll)).slice(0, WORST_COUNT);
    if (changed.has("measurement") || changed.has("recipe")) {
      this.controller?.abort();
      this.expectations = new Map();
      this.current = null;
      this.status = "";
    }
  }

  override render(): TemplateResult {
    const row = this.row();
    if (!row || !this.measurement) return html`<p class="hint">After a run this shows the text itself: each token shaded by how much more, or less, the recipe was surprised by it than the baseline, and the tokens that it hurt most.</p>`;
    const baseline = this.rows[0]!.name;
    const labels = [baseline, row.name, "times less likely", ...(this.controller || this.expectations.size > 0 ? [`${baseline} expected`, `${row.name} expected`] : [])];
    return html`
      <div class="row">
        <label>Recipe <select @change=${(event: Event) => (this.recipe = (event.target as HTMLSelectElement).value)}>${this.candidates().map(({ name }) => html`<option .selected=${name === row.name}>${name}</option>`)}</select></label>
        ${this.renderPages()}
        <span class="legend" role="img" aria-label="Shades: from likelier than under the baseline to less likely">
          likelier ${[5, 4, 3, 2, 1].map((i) => html`<i class=${`better${i}`}></i>`)}<i></i>${[1, 2, 3, 4, 5].map((i) => html`<i class=${`worse${i}`}></i>`)} less likely
        </span>
      </div>
      <div
        class="text"
        role="group"
        tabindex="0"
        aria-label="The text; arrow keys step from token to token"
        @pointerover=${({ target }: Event) => this.pointAt(target)}
        @focus=${() => (this.current ??= this.range()[0])}
        @keydown=${(event: KeyboardEvent) => this.step(event)}
      >${this.renderTokens()}</div>
      <p class="detail number soft" aria-live="polite">${this.describeCurrent(row.name, baseline)}</p>
      <h3>What ${row.name} lost most</h3>
      <div class="row">
        <button class="small" ?disabled=${this.busy || this.controller !== null} @click=${() => void this.ask(row)}>What did they expect?</button>
        <span class="number soft" role="status">${this.status}</span>
      </div>
      <div class="scroll list" role="region" aria-label="Tokens that lost most" tabindex="0">
        <table role="table" class=${this.room.tableClass}>
          <thead role="rowgroup"><tr role="row"><th scope="col" role="columnheader" class="left">token in its place</th>${labels.map((label, i) => html`<th scope="col" role="columnheader" class=${i < 3 ? "" : "left"}>${label}</th>`)}</tr></thead>
          <tbody role="rowgroup">${this.worst.map((loss) => this.renderWorst(loss, labels))}</tbody>
        </table>
      </div>
      <p class="caption">${this.caption(row)}</p>
    `;
  }

  private renderPages(): TemplateResult | typeof nothing {
    const pages = Math.ceil(this.texts.length / PAGE_TOKENS);
    if (pages < 2) return nothing;
    const go = (by: number): void => {
      this.page += by;
      this.current = null;
    };
    const [from, to] = this.range();
    return html`<span class="row">
      <button class="small" ?disabled=${this.page === 0} @click=${() => go(-1)}>Earlier</button>
      <span class="number soft">tokens ${from + 1} to ${to} of ${this.texts.length.toLocaleString("en")}</span>
      <button class="small" ?disabled=${this.page === pages - 1} @click=${() => go(1)}>Later</button>
    </span>`;
  }

  private renderTokens(): TemplateResult[] {
    const [from, to] = this.range();
    return this.texts.slice(from, to).map((text, i) => html`<span data-index=${from + i} class=${`${this.shadeOf(from + i)}${from + i === this.current ? " current" : ""}`}>${text}</span>`);
  }

  private renderWorst({ position, contextStart, nll, baselineNll }: Loss, labels: readonly string[]): TemplateResult {
    const expected = this.expectations.get(position) ?? { baseline: [], recipe: [] };
    const lead = this.texts.slice(Math.max(contextStart, position - LEAD_TOKENS), position).join("");
    const listed = (alternatives: readonly TokenAlternative[]): string => alternatives.map(({ text, logProb }) => `${visible(text)} ${percent(Math.exp(logProb))}`).join(", ");
    const cells = [percent(Math.exp(-baselineNll)), percent(Math.exp(-nll)), figure(Math.exp(nll - baselineNll), 1), listed(expected.baseline), listed(expected.recipe)];
    return html`<tr role="row">
      <td role="cell" class="line context"><bdi>${lead.replaceAll(/\s+/g, " ")}<b>${visible(this.texts[position]!)}</b></bdi></td>
      ${labels.map((label, i) => html`<td role="cell" class=${i < 3 ? "" : "left"} data-label=${label}>${cells[i]}</td>`)}
    </tr>`;
  }

  private caption(row: ComparisonRow): string {
    const losses = [...this.losses.values()];
    const total = losses.reduce((sum, { nll, baselineNll }) => sum + nll - baselineNll, 0);
    const hurt = losses.filter(({ nll, baselineNll }) => nll > baselineNll).length;
    const worst = this.worst.reduce((sum, { nll, baselineNll }) => sum + nll - baselineNll, 0);
    return `Quantization is noise: ${hurt.toLocaleString("en")} of ${losses.length.toLocaleString("en")} tokens became less likely under ${row.name}, the others likelier. What is left when both are added up is ${figure(total)} nats, ${figure(total / losses.length, 4)} a token: its exponential is the change in perplexity. The ${this.worst.length} tokens listed lose ${figure(worst)} nats by themselves.`;
  }

  private describeCurrent(recipe: string, baseline: string): string {
    if (this.current === null) return "Point at a token, or focus the text and use the arrow keys.";
    const loss = this.losses.get(this.current);
    const text = visible(this.texts[this.current] ?? "");
    if (!loss) return `${text}: not scored`;
    return `${text}: ${percent(Math.exp(-loss.baselineNll))} under ${baseline}, ${percent(Math.exp(-loss.nll))} under ${recipe}`;
  }

  private candidates(): readonly ComparisonRow[] {
    return this.rows.slice(1).filter(({ samples }) => samples);
  }

  private row(): ComparisonRow | undefined {
    return this.candidates().find(({ name }) => name === this.recipe) ?? this.candidates().at(-1);
  }

  private lossesOf(row: ComparisonRow | undefined): Loss[] {
    const samples = row?.samples;
    if (!samples || !this.measurement) return [];
    return scoredTokens(this.measurement.plan).map((token, i) => ({ ...token, nll: samples.nll[i]!, baselineNll: samples.baselineNll[i]! }));
  }

  private range(): [from: number, to: number] {
    return [this.page * PAGE_TOKENS, Math.min((this.page + 1) * PAGE_TOKENS, this.texts.length)];
  }

  private shadeOf(position: number): string {
    const loss = this.losses.get(position);
    if (!loss) return "unscored";
    const change = loss.nll - loss.baselineNll;
    const shade = shades.findLastIndex((least) => Math.abs(change) >= least) + 1;
    return shade === 0 ? "" : `${change > 0 ? "worse" : "better"}${shade}`;
  }

  private pointAt(target: EventTarget | null): void {
    if (target instanceof HTMLElement && target.dataset.index !== undefined) this.current = Number(target.dataset.index);
  }

  private step(event: KeyboardEvent): void {
    const [from, to] = this.range();
    const at = this.current ?? from;
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: from, End: to - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    this.current = Math.min(Math.max(next, from), to - 1);
    void this.updateComplete.then(() => this.renderRoot.querySelector(".current")?.scrollIntoView({ block: "nearest" }));
  }

  /** Loads both models, one after the other, and asks each what it would have written at the listed places. */
  private async ask(row: ComparisonRow): Promise<void> {
    const { source, load, tokens } = this.measurement!;
    const { worst } = this;
    const controller = new AbortController();
    this.controller = controller;
    const { signal } = controller;
    try {
      const answers: (readonly TokenAlternative[])[][] = [];
      for (const { name, recipe } of [this.rows[0]!, row]) {
        this.status = `Loading ${name}…`;
        using model = await engine.load(source, { ...load, quantization: recipe, signal });
        const own: (readonly TokenAlternative[])[] = [];
        for (const { position, contextStart } of worst) {
          this.status = `${name}: ${own.length + 1} of ${worst.length}`;
          own.push((await firstToken(model, tokens.slice(contextStart, position), signal)).top ?? []);
        }
        answers.push(own);
      }
      this.expectations = new Map(worst.map(({ position }, i) => [position, { baseline: answers[0]![i]!, recipe: answers[1]![i]! }]));
      this.status = "";
    } catch (error) {
      if (!signal.aborted) this.status = (error as Error).message;
    } finally {
      if (this.controller === controller) this.controller = null;
      this.requestUpdate();
    }
  }
}

async function firstToken(model: Model, prompt: readonly number[], signal: AbortSignal): Promise<GeneratedToken> {
  for await (const token of model.generate(prompt, { maxTokens: 1, temperature: 0, logProbs: EXPECTED_COUNT, signal })) return token;
  return { id: 0, text: "", logProb: 0, top: [] }; // greedy decoding ended the text at once
}

/** A token with its spaces shown. */
function visible(text: string): string {
  return text.replaceAll(" ", "␣").replaceAll("\n", "⏎") || "∅";
}
