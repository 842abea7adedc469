import type { ComparisonRow } from "nibble-webgpu";
import { css, html, LitElement, type PropertyValues, type TemplateResult } from "lit";
import { customElement, property } from "lit/decorators.js";
import { divergenceCaption, sizeCaption } from "./captions.ts";
import type { Draw } from "./charts/chartFigure.ts";
import "./charts/chartFigure.ts";
import { percentileHeight } from "./charts/labels.ts";
import { partStyles } from "./panelStyles.ts";

/** Size against perplexity and against KL divergence, and how KL divergence spreads over the tokens. */
@customElement("perplexity-sizes")
export class SizeView extends LitElement {
  static override styles = [
    partStyles,
    css`
      .charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 22px 28px; }
      .captions { display: grid; gap: 18px; align-content: center; }
    `,
  ];

  @property({ attribute: false }) rows: readonly ComparisonRow[] = [];
  /** Names of what is or will be measured, the baseline first. */
  @property({ attribute: false }) names: readonly string[] = [];
  /** What saved charts say of engine and adapter. */
  @property() origin = "";
  private sizes: Draw | null = null;
  private divergences: Draw | null = null;
  private spread: Draw | null = null;

  protected override willUpdate(changed: PropertyValues<this>): void {
    if (!changed.has("rows") && !changed.has("names")) return;
    const names = this.names.slice(1);
    const measured = this.rows.filter(({ error }) => !error);
    const compared = measured.filter(({ klDivergence }) => klDivergence.max > 0);
    this.sizes = measured.length === 0 ? null : (plots, width) => plots.sizePlot(measured, "perplexity", width);
    this.divergences = compared.length === 0 ? null : (plots, width) => plots.sizePlot(compared, "klDivergence", width);
    this.spread = compared.length === 0 ? null : (plots, width) => plots.percentilePlot(compared, names, width);
  }

  override render(): TemplateResult {
    const { origin } = this;
    return html`
      <div class="charts">
        <perplexity-figure .origin=${origin} name="size-perplexity" heading="Size and perplexity" note="lower left is better; bars are ± of the difference" placeholder="one dot per recipe, when it is measured" .draw=${this.sizes}></perplexity-figure>
        <perplexity-figure .origin=${origin} name="size-divergence" heading="Size and KL divergence" note="bars are ± of the mean" placeholder="one dot per recipe" .draw=${this.divergences}></perplexity-figure>
        <perplexity-figure .origin=${origin} name="divergence-percentiles" heading="KL divergence, token by token" note="from the middle token to the worst" placeholder="one line per recipe" .height=${percentileHeight(this.names.length - 1)} .draw=${this.spread}></perplexity-figure>
        <div class="captions">
          <p class="caption">${sizeCaption(this.rows)}</p>
          <p class="caption">${divergenceCaption(this.rows)}</p>
        </div>
      </div>
    `;
  }
}
