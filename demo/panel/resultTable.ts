import type { CompareProgress, ComparisonRow } from "nibble-webgpu";
import { css, html, LitElement, nothing, type TemplateResult, unsafeCSS } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { cellText, type Column, columns } from "./columns.ts";
import { clock, figure } from "./format.ts";
import { partStyles } from "./panelStyles.ts";
import { activationNote } from "./recipes.ts";

/** How far the row at work is. */
export interface RowAtWork {
  progress: CompareProgress;
  startMs: number;
}

interface Sorting {
  column: Column;
  descending: boolean;
}

/** The measured rows and those to come; any column sorts, and says what it means when it is pointed at or focused. */
@customElement("perplexity-table")
export class ResultTable extends LitElement {
  static override styles = [
    partStyles,
    css`
      .scroll { position: relative; margin: 0 -18px; padding: 0 18px; }
      table { table-layout: fixed; width: 100%; }
      col.name { width: 11rem; }
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
      @media (max-width: 1120px) {
        col.name { width: 7.5rem; }
      }
      @media (max-width: 760px) {
        .scroll { margin: 0 -14px; padding: 0 14px; }
        .caption { min-height: 9.2rem; }
      }
    `,
    unsafeCSS(columns.map(({ id, width }) => `col.${id} { width: ${width}rem; }`).join("\n")),
  ];

  /** What will be measured, the baseline first. */
  @property({ attribute: false }) names: readonly string[] = [];
  @property({ attribute: false }) rows: readonly ComparisonRow[] = [];
  @property({ attribute: false }) atWork: RowAtWork | null = null;
  @property({ type: Boolean }) running = false;
  @state() private sorting: Sorting | null = null;
  @state() private showsAll = false;
  @state() private explained: Column = columns.find(({ id }) => id === "perplexity")!;

  override render(): TemplateResult {
    const shown = columns.filter(({ isMore }) => this.showsAll || !isMore);
    return html`
      <div class="scroll" role="region" aria-label="Results" tabindex="0">
        <table>
          <colgroup><col class="name" />${shown.map(({ id }) => html`<col class=${id} />`)}</colgroup>
          <thead>
            <tr>
              <th scope="col">recipe</th>
              ${shown.map((column) => this.renderHead(column))}
            </tr>
          </thead>
          <tbody>
            ${this.names.length === 0 ? html`<tr><td class="left soft" colspan=${shown.length + 1}>Nothing measured yet. The baseline comes first, then each recipe that is ticked.</td></tr>` : nothing}
            ${this.sortedNames().map((name) => this.renderRow(name, shown))}
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
    return html`<th scope="col" aria-sort=${sorted ? (sorted.descending ? "descending" : "ascending") : nothing}>
      <button aria-describedby=${id} @click=${() => this.sort(column)} @focus=${explain} @pointerenter=${explain}>${label}${sorted ? (sorted.descending ? " ↓" : " ↑") : ""}</button>
      <span id=${id} hidden>${column.caption(this.rows)}</span>
    </th>`;
  }

  private renderRow(name: string, shown: readonly Column[]): TemplateResult {
    const row = this.rows.find((row) => row.name === name);
    const isBaseline = name === this.names[0];
    if (!row) return this.renderPending(name, shown.length);
    const note = isBaseline ? "baseline" : activationNote(row.recipe);
    const head = html`<th scope="row">${name}${note === null ? nothing : html` <small>${note}</small>`}</th>`;
    if (row.error) return html`<tr>${head}<td class="why" colspan=${shown.length}>${row.error.message}</td></tr>`;
    return html`<tr class=${isBaseline ? "baseline" : ""}>${head}${shown.map((column) => html`<td>${cellText(column, row, isBaseline)}</td>`)}</tr>`;
  }

  private renderPending(name: string, span: number): TemplateResult {
    const atWork = this.atWork?.progress.name === name ? this.atWork : null;
    const waiting = this.running ? (this.atWork ? "waiting" : "fetching the model") : "not measured";
    return html`<tr>
      <th scope="row" class=${atWork ? "" : "soft"}>${name}</th>
      <td class="left soft" colspan=${span}>${atWork && this.running ? renderProgress(atWork) : waiting}</td>
    </tr>`;
  }

  /** The baseline stays on top; what is not measured keeps its place below what is. */
  private sortedNames(): readonly string[] {
    const { sorting } = this;
    if (!sorting) return this.names;
    const measured = this.rows.slice(1).filter(({ error }) => !error);
    const sign = sorting.descending ? -1 : 1;
    const sorted = measured.toSorted((a, b) => sign * (sorting.column.sortBy(a) - sorting.column.sortBy(b))).map(({ name }) => name);
    return [...new Set([...this.names.slice(0, 1), ...sorted, ...this.names])];
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
