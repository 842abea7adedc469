import { describeFormat, type ComparisonRow, type LoadProgress, type TensorInspection, type TensorReport } from "nibble-webgpu";
import { css, html, LitElement, nothing, type PropertyValues, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { tensorCaption, tensorNote } from "./captions.ts";
import type { Draw } from "./charts/chartFigure.ts";
import "./charts/chartFigure.ts";
import type { MapCell } from "./charts/plots.ts";
import { engine } from "./engine.ts";
import { percent } from "./format.ts";
import type { Measurement } from "./measurement.ts";
import { partStyles } from "./panelStyles.ts";

const BINS = 120;

interface Inspected {
  tensor: TensorReport;
  inspection: TensorInspection;
}

/** Where a recipe's error sits, layer by layer, and what it did to the weights of one tensor. */
@customElement("perplexity-tensors")
export class TensorView extends LitElement {
  static override styles = [
    partStyles,
    css`
      .charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 18px 28px; margin-top: 14px; }
      .caption { margin-top: 14px; min-height: 4.8rem; }
    `,
  ];

  @property({ attribute: false }) rows: readonly ComparisonRow[] = [];
  @property({ attribute: false }) measurement: Measurement | null = null;
  /** What saved charts say of engine and adapter. */
  @property() origin = "";
  @state() private recipe = "";
  @state() private inspected: Inspected | null = null;
  @state() private status = "";
  private controller: AbortController | null = null;
  private map: Draw | null = null;
  private histogram: Draw | null = null;

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.controller?.abort();
  }

  protected override willUpdate(changed: PropertyValues): void {
    if (changed.has("measurement")) this.forget();
    const row = this.row();
    if (changed.has("rows") || changed.has("recipe") || changed.has("measurement")) {
      const cells = row ? cellsOf(row) : [];
      this.map = cells.length === 0 ? null : (plots, width) => plots.tensorMap(cells, this.inspected?.tensor.name ?? null, (tensor) => void this.inspect(tensor), width);
    }
    const { inspected } = this;
    if (changed.has("inspected")) this.histogram = inspected && ((plots, width) => plots.histogramPlot(inspected.inspection, width));
  }

  override render(): TemplateResult {
    const candidates = this.candidates();
    const row = this.row();
    const { inspected } = this;
    return html`
      <div class="row">
        <label>Recipe <select ?disabled=${!row} @change=${(event: Event) => this.choose((event.target as HTMLSelectElement).value)}>${candidates.map(({ name }) => html`<option .selected=${name === row?.name}>${name}</option>`)}</select></label>
        <span class="number soft" role="status">${this.status}</span>
      </div>
      <div class="charts">
        <perplexity-figure .origin=${this.origin} name="tensor-errors" heading="Where the error sits" note="error beside the size of the weights; choose a square" placeholder="one square per matrix, when a recipe is measured" .draw=${this.map}></perplexity-figure>
        <perplexity-figure
          .origin=${this.origin}
          name=${`weights-${inspected?.tensor.name ?? ""}`}
          heading=${inspected ? inspected.tensor.name : "Weights of a tensor"}
          note=${inspected ? "line: before; bars: after; marks: the levels of the worst group" : "before and after, with the levels"}
          placeholder="choose a square"
          .draw=${this.histogram}
        ></perplexity-figure>
      </div>
      <p class="caption">${inspected && row ? this.describe(inspected, row) : "Each square is one matrix of one layer. Errors are alike where weights are bell-shaped; a matrix with a few huge weights stands out, for they set the step of all that share their scale."}</p>
    `;
  }

  private describe({ tensor, inspection }: Inspected, { recipe }: ComparisonRow): TemplateResult {
    const { rounding = "nearest", equalization = "none" } = recipe;
    const differs = rounding !== inspection.rounding || equalization !== "none";
    return html`<b>${tensor.name}</b>, ${tensorNote(tensor.format, tensor.sqnrDb)}. ${tensorCaption(inspection)}
      ${inspection.rounding === "gptq" ? " These are GPTQ's codes: not always the nearest, since each makes up for the errors before it." : nothing}
      ${differs ? " The picture shows the weights of the file rounded to nearest; what the recipe moved between matrices before is not in it." : nothing}`;
  }

  private candidates(): readonly ComparisonRow[] {
    return this.rows.slice(1).filter(({ error }) => !error);
  }

  private row(): ComparisonRow | undefined {
    return this.candidates().find(({ name }) => name === this.recipe) ?? this.candidates().at(-1);
  }

  private choose(name: string): void {
    const tensorName = this.inspected?.tensor.name;
    this.recipe = name;
    const tensor = this.row()?.tensors.find((other) => other.name === tensorName);
    if (tensor) void this.inspect(tensor);
  }

  private forget(): void {
    this.controller?.abort();
    this.inspected = null;
    this.status = "";
  }

  /** Reads the tensor from the checkpoint again, which may be a download, and rounds it as the recipe does; for GPTQ the model is loaded. */
  private async inspect(tensor: TensorReport): Promise<void> {
    const { source, load } = this.measurement!;
    this.controller?.abort();
    this.controller = new AbortController();
    const { signal } = this.controller;
    this.status = `Reading ${tensor.name}…`;
    try {
      const onProgress = ({ stage, fraction }: LoadProgress): void => void (this.status = `${tensor.name}: ${stage}, ${percent(fraction)}`);
      const inspection = await engine.inspect(source, tensor.name, { ...load, quantization: this.row()!.recipe, bins: BINS, signal, onProgress });
      this.inspected = { tensor, inspection };
      this.status = `${tensor.name}, ${inspection.shape.join(" × ")}, ${describeFormat(tensor.format)}`;
    } catch (error) {
      if (!signal.aborted) this.status = (error as Error).message;
    }
  }
}

/** The matrices of the blocks, and beside them what is in no block. */
function cellsOf({ tensors }: ComparisonRow): MapCell[] {
  return tensors.map((tensor) => {
    const [, layer = "–", matrix = tensor.name.replace(/\.weight$/, "")] = /^(h\.\d+)\.(.+?)(?:\.weight)?$/.exec(tensor.name) ?? [];
    return { tensor, layer, matrix };
  });
}
