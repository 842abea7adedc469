import type { CompareProgress, ComparisonRow } from "nibble-webgpu";
import { css, html, LitElement, nothing, type TemplateResult, unsafeCSS } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { cellText, type Column, columns } from "./columns.ts";
import { clock, figure } from "./format.ts";
import { partStyles } from "./panelStyles.ts";
import { activationNote, nameOf, type Recipe, recipeOf } from "./recipes.ts";
import { Room } from "./room.ts";

/** How far the row at work is. */
export interface RowAtWork {
  progress: CompareProgress;
  startMs: number;
}

interface Sorting {
  column: Column;
  descending: boolean;
}

/** What the table takes with all columns but those of "more", px; where there is less, the main ones are left. */
const WIDE = 960;

/** The measured rows and those to come; any column sorts, and says what it means when it is pointed at or focused. */
@customElement("perplexity-table")
export class ResultTable extends LitElement {
  static override styles = [
    partStyles,
    css`
      :host { container-type: inline-size; }
      .scroll { position: relative; margin: 0 -18px; padding: 0 18px; }
      table { table-layout: fixed; width: 100%; }
      col.name { width: 7.5rem; }
      thead th { padding: 0; }
      th button { border: 0; background: none; padding: 7px 8px; width: 100%; text-align: right; color: inherit; font-size: inherit; white-space: nowrap; border-radius: 4px; }
      thead th:first-child { padding: 7px 8px 7px 0; }
      th button:hover:not(:disabled) { color: var(--ink-color); }
      th[aria-sort] button { color: var(--ink-color); }
      tr > :first-child { position: sticky; left: 0; background: var(--card-color); z-index: 1; overflow-wrap: anywhere; white-space: normal; }
      th small { display: block; font-family: system-ui, sans-serif; }
      tr.baseline { color: var(--soft-color); }
      td.left { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
      td.why { text-align: left; color: var(--warn-color); white-space: normal; overflow-wrap: anywhere; }
      .below { display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: start; justify-content: space-between; margin-top: 10px; }
      .caption { flex: 1 1 24rem; min-height: 4.9rem; }
      .cards tbody th small { display: inline; margin-left: 6px; }
      .cards thead tr { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: baseline; }
      .cards thead tr::before { content: "sort by" / ""; color: var(--soft-color); font-size: 0.86rem; font-family: system-ui, sans-serif; }
      .cards thead th { border: 0; }
      .cards thead th:first-child { position: absolute; clip-path: inset(50%); }
      .cards th button { padding: 2px 0; text-decoration: underline; text-underline-offset: 3px; }
      .cards tbody tr { min-height: 4.9rem; }
      @container (min-width: 64rem) { col.name { width: 11rem; } }
      @container (max-width: 35rem) {
        .cards tbody tr { min-height: 7.6rem; } /* two lines of figures, whether or not they are there yet */
        .caption { min-height: 9.2rem; }
      }
      @media (max-width: 760px) { .scroll { margin: 0 -14px; padding: 0 14px; } }
    `,
    unsafeCSS(columns.map(({ id, width }) => `col.${id} { width: ${width}rem; }`).join("\n")),
  ];

  /** What will be measured, the baseline first. */
  @property({ attribute: false }) planned: readonly Recipe[] = [];
  @property({ attribute: false }) rows: readonly ComparisonRow[] = [];
  @property({ attribute: false }) atWork: RowAtWork | null = null;
  @property({ type: Boolean }) running = false;
  @state() private sorting: Sorting | null = null;
  @state() private showsAll = false;
  @state() private explained: Column = columns.find(({ id }) => id === "perplexity")!;
  private readonly room = new Room(this);

  override render(): TemplateResult {
    const shown = columns.filter(({ rank }) => this.showsAll || rank === "main" || (rank === "wide" && this.room.width >= WIDE));
    return html`
      <div class="scroll" role="region" aria-label="Results" tabindex="0">
        <table role="table" class=${this.room.tableClass}>
          <colgroup><col class="name" />${shown.map(({ id }) => html`<col class=${id} />`)}</colgroup>
          <thead role="rowgroup">
            <tr role="row">
              <th scope="col" role="columnheader">recipe</th>
              ${shown.map((column) => this.renderHead(column))}
            </tr>
          </thead>
          <tbody role="rowgroup">
            ${this.sorted().map((recipe) => this.renderRow(recipe, shown))}
          </tbody>
        </table>
      </div>
      <div class="below">
        <p class="caption" aria-hidden="true"><b>${this.explained.label}</b> ${this.explained.caption(this.rows)}</p>
        <button class="small" aria-expanded=${this.showsAll} @click=${() => (this.showsAll = !this.showsAll)}>${this.showsAll ? "Fewer columns" : "More columns"}</button>
      </div>
    `;
  }

  private renderHead(column: Column): TemplateResult {
    const { id, label } = column;
    const sorted = this.sorting?.column === column ? this.sorting : null;
    const explain = (): void => void (this.explained = column);
    return html`<th scope="col" role="columnheader" aria-sort=${sorted ? (sorted.descending ? "descending" : "ascending") : nothing}>
      <button aria-describedby=${id} @click=${() => this.sort(column)} @focus=${explain} @pointerenter=${explain}>${label}${sorted ? (sorted.descending ? " ↓" : " ↑") : ""}</button>
      <span id=${id} hidden>${column.caption(this.rows)}</span>
    </th>`;
  }

  /** As high before its figures are there as afterwards. */
  private renderRow(recipe: Recipe, shown: readonly Column[]): TemplateResult {
    const name = nameOf(recipe);
    const row = this.rowOf(recipe);
    const isBaseline = recipe === this.planned[0];
    const note = isBaseline ? "baseline" : activationNote(recipeOf(recipe));
    const whole = (kind: string, content: unknown): TemplateResult => html`<td role="cell" class=${kind} colspan=${shown.length}>${content}</td>`;
    const cells = !row ? whole("line left soft", this.renderPending(name)) : row.error ? whole("line why", row.error.message) : shown.map((column) => html`<td role="cell" data-label=${column.label}>${cellText(column, row, isBaseline)}</td>`);
    return html`<tr role="row" class=${isBaseline && row ? "baseline" : ""}>
      <th scope="row" role="rowheader" class=${row || this.isAtWork(name) ? "line" : "line soft"}>${name}${note === null ? nothing : html` <small>${note}</small>`}</th>
      ${cells}
    </tr>`;
  }

  private renderPending(name: string): TemplateResult | string {
    if (!this.running) return "not measured";
    return this.isAtWork(name) ? renderProgress(this.atWork!) : this.atWork ? "waiting" : "fetching the model";
  }

  private isAtWork(name: string): boolean {
    return this.running && this.atWork?.progress.name === name;
  }

  private rowOf(recipe: Recipe): ComparisonRow | undefined {
    return this.rows.find(({ name }) => name === nameOf(recipe));
  }

  /** The baseline stays on top; what is not measured keeps its place below what is. */
  private sorted(): readonly Recipe[] {
    const { sorting, planned } = this;
    if (!sorting) return planned;
    const [baseline, ...others] = planned;
    const sign = sorting.descending ? -1 : 1;
    const keyOf = (recipe: Recipe): number => {
      const row = this.rowOf(recipe);
      return row && !row.error ? sign * sorting.column.sortBy(row) : Infinity;
    };
    return [baseline!, ...others.toSorted((a, b) => (keyOf(a) < keyOf(b) ? -1 : keyOf(a) > keyOf(b) ? 1 : 0))];
  }

  /** Ascending, then descending, then as measured. */
  private sort(column: Column): void {
    const same = this.sorting?.column === column ? this.sorting : null;
    this.sorting = same?.descending ? null : { column, descending: same !== null };
  }
}

function renderProgress({ progress, startMs }: RowAtWork): TemplateResult {
  const { name, stage, scoredTokens, totalTokens, perplexity, fraction } = progress;
  const elapsedSeconds = (performance.now() - startMs) / 1000;
  const parts = [
    stage === "load" ? "loading" : `${scoredTokens} of ${totalTokens} tokens`,
    perplexity === null ? null : `perplexity ${figure(perplexity)} so far`,
    fraction < 0.1 ? null : `${clock((elapsedSeconds * (1 - fraction)) / fraction)} left`,
  ];
  return html`<progress max="1" .value=${fraction} aria-label=${`Measuring ${name}`}></progress> ${parts.filter((part) => part !== null).join(", ")}`;
}
