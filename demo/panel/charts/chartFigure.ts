import { css, html, LitElement, type TemplateResult } from "lit";
import { customElement, property, query, state } from "lit/decorators.js";
import { saveFile, standaloneSvg, toPng } from "../exportFiles.ts";
import { partStyles } from "../panelStyles.ts";

type Plots = typeof import("./plots.ts");

/** Draws with the chart library, of which 98 kB (gzip) are loaded when the first chart is shown. */
export type Draw = (plots: Plots, width: number) => SVGSVGElement;

let loading: Promise<Plots> | null = null;

/** One chart with its caption, as wide as its place, drawn anew when `draw` changes, and to be saved as SVG or PNG. */
@customElement("perplexity-figure")
export class ChartFigure extends LitElement {
  static override styles = [
    partStyles,
    css`
      figcaption { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 0 10px; align-items: baseline; font-size: 0.92rem; margin-bottom: 8px; }
      figcaption b { font-weight: 600; overflow-wrap: anywhere; }
      figcaption small { grid-column: 1 / -1; }
      .row { gap: 4px; min-height: 1.9rem; }
      #chart { --plot-background: var(--card-color); }
      figure { position: relative; }
      .empty { position: absolute; inset: 50% 0 auto; text-align: center; }
      svg { display: block; max-width: 100%; overflow: visible; }
      svg text { font: 12px system-ui, sans-serif; fill: var(--soft-color); white-space: pre; }
      svg .name, svg .name text { fill: var(--ink-color); }
      svg .halo { paint-order: stroke; stroke: var(--card-color); stroke-width: 3px; }
      svg [role="button"] { cursor: pointer; }
      svg [aria-pressed="true"] { stroke: var(--ink-color); stroke-width: 2px; }
      svg [role="button"]:focus-visible { outline: none; stroke: var(--ink-color); stroke-width: 3px; }
      p { color: var(--warn-color); }
    `,
  ];

  /** null: there is nothing to draw yet. */
  @property({ attribute: false }) draw: Draw | null = null;
  /** Kept free for the drawing, px. */
  @property({ type: Number }) height = 270;
  @property() heading = "";
  @property() note = "";
  /** What stands in the place of a chart to come. */
  @property() placeholder = "";
  /** What saved files say below the drawing: engine and adapter. */
  @property() origin = "";
  /** Of saved files, without extension. */
  @property() name = "chart";
  @state() private width = 0;
  @state() private failure = "";
  @query("#chart") private chart!: HTMLDivElement;
  private readonly resize = new ResizeObserver(([entry]) => (this.width = Math.floor(entry!.contentRect.width)));

  override firstUpdated(): void {
    this.resize.observe(this.chart);
  }

  override updated(): void {
    this.chart.style.minHeight = `${this.height}px`; // an attribute would need a policy with inline styles
    void this.redraw();
  }

  override render(): TemplateResult {
    return html`
      <figure>
        <figcaption>
          <b>${this.heading}</b>
          <span class="row" role="group" aria-label=${`Save ${this.heading}`}>
            ${(["svg", "png"] as const).map((kind) => html`<button class="small plain" ?hidden=${this.draw === null} @click=${() => void this.save(kind)}>${kind.toUpperCase()}</button>`)}
          </span>
          <small>${this.note}</small>
        </figcaption>
        <div id="chart"></div>
        <small class="empty" ?hidden=${this.draw !== null}>${this.placeholder}</small>
        <p ?hidden=${this.failure === ""} role="alert">${this.failure}</p>
      </figure>
    `;
  }

  private drawn: { draw: Draw | null; width: number } = { draw: null, width: 0 };

  /** A chart that is not shown has no width, and waits until it has. */
  private async redraw(): Promise<void> {
    const { draw, width } = this;
    if (width === 0 || (draw === this.drawn.draw && width === this.drawn.width)) return;
    this.drawn = { draw, width };
    if (draw === null) return this.chart.replaceChildren();
    try {
      const plots = await (loading ??= import("./plots.ts"));
      if (this.draw === draw && this.width === width) this.chart.replaceChildren(draw(plots, width));
      this.failure = "";
    } catch (error) {
      loading = null;
      this.failure = `The chart could not be drawn: ${(error as Error).message}`;
    }
  }

  private async save(kind: "svg" | "png"): Promise<void> {
    const drawing = this.chart.querySelector("svg");
    if (!drawing) return;
    const picture = standaloneSvg(drawing, getComputedStyle(this).getPropertyValue("--card-color"), `${this.heading}: ${this.note}`, this.origin);
    saveFile(`${this.name}.${kind}`, kind === "svg" ? new Blob([picture.svg], { type: "image/svg+xml" }) : await toPng(picture));
  }
}
