import type { QuantizationRecipe } from "nibble-webgpu";
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property, query, state } from "lit/decorators.js";
import { recipeCaption } from "./captions.ts";
import { partStyles } from "./panelStyles.ts";
import "./recipeEditor.ts";
import type { RecipeEditor } from "./recipeEditor.ts";
import { activationNote, nameOf, needsCalibration, type Recipe, recipeNote, recipeOf } from "./recipes.ts";
import type { Settings, TextChoice } from "./settings.ts";
import "./textChoice.ts";

/** Which recipes are measured, and the user's own. Fires `change` (detail: what of the settings is new). */
@customElement("perplexity-recipes")
export class RecipeControls extends LitElement {
  static override styles = [
    partStyles,
    css`
      .recipes { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); gap: 8px 14px; }
      .recipe { display: grid; grid-template-columns: auto minmax(0, 1fr) auto; gap: 8px; align-items: baseline; line-height: 1.3; }
      .recipe label { display: grid; grid-template-columns: subgrid; grid-column: span 2; cursor: pointer; color: inherit; align-items: baseline; }
      .recipe small { display: block; }
      .caption, perplexity-text-choice { margin: 12px 0; }
    `,
  ];

  @property({ attribute: false }) offered: readonly Recipe[] = [];
  @property({ attribute: false }) own: readonly QuantizationRecipe[] = [];
  @property({ attribute: false }) chosen: readonly string[] = [];
  @property() baseline = "";
  /** Text for the recipes that need it; what is offered, what is chosen, and whether there is any. */
  @property({ attribute: false }) calibrationLabels: readonly string[] = [];
  @property({ attribute: false }) calibration!: TextChoice;
  @property({ type: Boolean }) calibrated = false;
  @property({ type: Boolean }) disabled = false;
  @state() private editing = false;
  @state() private latest = "";
  @query("perplexity-recipe-editor") private editor!: RecipeEditor | null;

  override render(): TemplateResult {
    const all = [...this.offered, ...this.own];
    return html`
      <fieldset ?disabled=${this.disabled}>
        <legend class="visually-hidden">Recipes to measure</legend>
        <div class="recipes">${all.map((recipe) => this.renderRecipe(recipe))}</div>
      </fieldset>
      <p class="caption">${recipeCaption(all.find((recipe) => nameOf(recipe) === this.latest) ?? null)}</p>
      <perplexity-text-choice
        label="Calibrate on"
        own-label="Text to calibrate on"
        note="For recipes that look at the inputs first: text like that the model will meet, but not the one it is measured on."
        .offered=${this.calibrationLabels}
        .choice=${this.calibration}
        .disabled=${this.disabled}
        @change=${({ detail }: CustomEvent<TextChoice>) => this.fire({ calibration: detail })}
      ></perplexity-text-choice>
      ${this.editing
        ? html`<perplexity-recipe-editor
            .taken=${all.map(nameOf)}
            .calibrated=${this.calibrated}
            @save=${({ detail }: CustomEvent<QuantizationRecipe>) => this.add(detail)}
            @close=${() => (this.editing = false)}
          ></perplexity-recipe-editor>`
        : html`<button class="small" ?disabled=${this.disabled} @click=${() => (this.editing = true)}>New recipe…</button>`}
    `;
  }

  private renderRecipe(recipe: Recipe): TemplateResult {
    const name = nameOf(recipe);
    const isBaseline = name === this.baseline;
    const lacks = needsCalibration(recipe) && !this.calibrated;
    const isOwn = this.own.some((other) => other.name === name);
    const describe = (): void => void (this.latest = name);
    return html`<div class="recipe" @pointerenter=${describe} @focusin=${describe}>
      <label>
        <input type="checkbox" .checked=${isBaseline || this.chosen.includes(name)} ?disabled=${isBaseline || lacks} @change=${(event: Event) => this.tick(name, (event.target as HTMLInputElement).checked)} />
        <span><span class="number">${name}</span> <small>${isBaseline ? "the baseline" : recipeNote(recipe)}${lacks ? "; needs calibration text" : ""}</small></span>
      </label>
      ${isOwn
        ? html`<span>
            <button class="small plain" aria-label=${`Edit a copy of ${name}`} ?disabled=${this.disabled} @click=${() => void this.editCopy(recipe)}>copy</button>
            <button class="small plain" aria-label=${`Remove ${name}`} ?disabled=${this.disabled} @click=${() => this.drop(name)}>remove</button>
          </span>`
        : nothing}
    </div>`;
  }

  private tick(name: string, isTicked: boolean): void {
    const others = this.chosen.filter((other) => other !== name);
    this.fire({ chosen: isTicked ? [...others, name] : others });
  }

  private add(recipe: QuantizationRecipe): void {
    this.editing = false;
    this.latest = recipe.name!;
    this.fire({ own: [...this.own, recipe], chosen: [...this.chosen, recipe.name!] });
  }

  private drop(name: string): void {
    this.fire({ own: this.own.filter((recipe) => recipe.name !== name), chosen: this.chosen.filter((other) => other !== name) });
  }

  private async editCopy(recipe: Recipe): Promise<void> {
    this.editing = true;
    await this.updateComplete;
    this.editor?.edit(recipeOf(recipe), `${nameOf(recipe)} 2`);
  }

  private fire(detail: Partial<Settings>): void {
    this.dispatchEvent(new CustomEvent("change", { detail }));
  }
}

/** "int8, nf4; int8-dynamic with int8 inputs": what is ticked, in one line. */
export function chosenSummary(recipes: readonly Recipe[]): string {
  if (recipes.length === 0) return "none ticked";
  return recipes.map((recipe) => `${nameOf(recipe)}${activationNote(recipeOf(recipe)) === null ? "" : " (int8 inputs)"}`).join(", ");
}
