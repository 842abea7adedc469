import { calibratedField, describeFormat, presets, type QuantizationRecipe, validateRecipe } from "nibble-webgpu";
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { partStyles } from "./panelStyles.ts";
import { formatNamed, formatsByKind, presetNames, recipeOf } from "./recipes.ts";

/** A recipe as the form holds it: text that may not be valid yet. */
interface Draft {
  name: string;
  linear: string;
  embedding: string;
  activations: "float" | "dynamic" | "static";
  observer: NonNullable<QuantizationRecipe["observer"]>;
  outlierThreshold: string;
  rounding: NonNullable<QuantizationRecipe["rounding"]>;
  activationOrder: "no" | "yes";
  equalization: NonNullable<QuantizationRecipe["equalization"]>;
  smoothing: string;
  overrides: readonly { glob: string; format: string }[];
}

type Field = keyof Draft;

/** A form for a recipe of the user's own. Fires `save` (detail: QuantizationRecipe) and `close`. What is wrong stands beside the field that it is in. */
@customElement("perplexity-recipe-editor")
export class RecipeEditor extends LitElement {
  static override styles = [
    partStyles,
    css`
      form { border: 1px solid var(--line-color); border-radius: 8px; padding: 14px; display: grid; gap: 14px; }
      .override { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr) auto; gap: 8px; align-items: center; margin-top: 6px; }
      legend { font-size: 0.92rem; color: var(--soft-color); }
      .override ~ .row { margin-top: 8px; }
      .error { color: var(--warn-color); font-size: 0.85rem; }
      @media (max-width: 760px) { .override { grid-template-columns: minmax(0, 1fr) auto; } .override select { grid-row: 2; } }
    `,
  ];

  /** Names that are taken. */
  @property({ attribute: false }) taken: readonly string[] = [];
  /** There is text to calibrate with. */
  @property({ type: Boolean }) calibrated = false;
  @state() private draft = draftOf(presets.nf4, "");
  @state() private problem: { field: Field; message: string } | null = null;

  /** Begins with a copy of `recipe`, under another name. */
  edit(recipe: QuantizationRecipe, name: string): void {
    this.draft = draftOf(recipe, name);
    this.problem = null;
  }

  override render(): TemplateResult {
    const { draft } = this;
    return html`
      <form @submit=${(event: Event) => this.save(event)} novalidate>
        <div class="fields">
          ${this.text("name", "Name", "my recipe")}
          <label>Start from
            <select @change=${(event: Event) => this.edit(recipeOf((event.target as HTMLSelectElement).value as (typeof presetNames)[number]), draft.name)}>
              <option value="" disabled selected>a preset…</option>
              ${presetNames.map((name) => html`<option>${name}</option>`)}
            </select>
          </label>
          ${this.format("linear", "Matrices of the blocks")} ${this.format("embedding", "Embedding and head")}
          ${this.words("activations", "Inputs of the matrices", { float: "float", dynamic: "int8, one scale per token", static: "int8, calibrated ranges" })}
          ${draft.activations === "static" ? this.words("observer", "Range found by", { minmax: "largest magnitude", percentile: "99.99th percentile", mse: "least squared error" }) : nothing}
          ${this.text("outlierThreshold", "Outlier threshold, LLM.int8()", "none", "Inputs at least this large stay float, beside int8 inputs.")}
          ${this.words("rounding", "Rounding", { nearest: "to nearest", gptq: "GPTQ, calibrated" })}
          ${draft.rounding === "gptq" ? this.words("activationOrder", "Columns are rounded", { no: "in their order", yes: "those with the largest inputs first" }) : nothing}
          ${this.words("equalization", "Equalization", { none: "none", smoothquant: "SmoothQuant, calibrated", awq: "AWQ, calibrated" })}
          ${draft.equalization === "smoothquant" ? this.text("smoothing", "Smoothing α", "0.5", "0 to 1, or search") : nothing}
        </div>
        <fieldset>
          <legend>Overrides: tensors that take another format. The last that matches wins; * stands for anything, as in h.0.* or *.mlp.c_proj.weight.</legend>
          ${draft.overrides.map((override, i) => this.renderOverride(override, i))}
          ${this.error("overrides")}
          <p class="row"><button type="button" class="small" @click=${() => this.change("overrides", [...draft.overrides, { glob: "h.0.*", format: describeFormat(presets.int8.linear) }])}>Add an override</button></p>
        </fieldset>
        <div class="row">
          <button class="primary">Add recipe</button>
          <button type="button" @click=${() => this.dispatchEvent(new CustomEvent("close"))}>Close</button>
        </div>
      </form>
    `;
  }

  private renderOverride({ glob, format }: Draft["overrides"][number], i: number): TemplateResult {
    const { overrides } = this.draft;
    const replace = (change: Partial<Draft["overrides"][number]>): void => this.change("overrides", overrides.map((other, j) => (i === j ? { ...other, ...change } : other)));
    return html`<div class="override">
      <input aria-label=${`Tensors of override ${i + 1}`} .value=${glob} spellcheck="false" autocapitalize="off" @input=${(event: Event) => replace({ glob: valueOf(event) })} />
      <select aria-label=${`Format of override ${i + 1}`} @change=${(event: Event) => replace({ format: valueOf(event) })}>${formatOptions(format)}</select>
      <button type="button" class="small" aria-label=${`Remove override ${i + 1}`} @click=${() => this.change("overrides", overrides.filter((_, j) => i !== j))}>Remove</button>
    </div>`;
  }

  private text(field: "name" | "outlierThreshold" | "smoothing", label: string, placeholder: string, note = ""): TemplateResult {
    return html`<label>${label}
      <input
        .value=${this.draft[field]}
        placeholder=${placeholder}
        autocomplete="off"
        spellcheck="false"
        aria-invalid=${this.problem?.field === field}
        aria-describedby=${`${field}-note`}
        @input=${(event: Event) => this.change(field, valueOf(event))}
      />
      <small id=${`${field}-note`}>${this.error(field) === nothing ? note : this.error(field)}</small>
    </label>`;
  }

  private words<F extends "activations" | "observer" | "rounding" | "activationOrder" | "equalization">(field: F, label: string, words: Readonly<Record<Draft[F], string>>): TemplateResult {
    return html`<label>${label}
      <select aria-invalid=${this.problem?.field === field} @change=${(event: Event) => this.change(field, valueOf(event) as Draft[F])}>
        ${Object.entries<string>(words).map(([value, text]) => html`<option value=${value} .selected=${value === this.draft[field]}>${text}</option>`)}
      </select>
      ${this.error(field)}
    </label>`;
  }

  private format(field: "linear" | "embedding", label: string): TemplateResult {
    return html`<label>${label}<select @change=${(event: Event) => this.change(field, valueOf(event))}>${formatOptions(this.draft[field])}</select>${this.error(field)}</label>`;
  }

  private error(field: Field): TemplateResult | typeof nothing {
    return this.problem?.field === field ? html`<span class="error" role="alert">${this.problem.message}</span>` : nothing;
  }

  private change<F extends Field>(field: F, value: Draft[F]): void {
    this.draft = { ...this.draft, [field]: value };
    if (this.problem?.field === field) this.problem = null;
  }

  private save(event: Event): void {
    event.preventDefault();
    this.problem = this.problemOf(this.draft);
    if (!this.problem) this.dispatchEvent(new CustomEvent("save", { detail: validateRecipe(recipeFrom(this.draft)) }));
  }

  /** What the engine would refuse, and what only the panel knows. */
  private problemOf(draft: Draft): { field: Field; message: string } | null {
    if (draft.name.trim() === "") return { field: "name", message: "The recipe has no name; expected one to find its row by." };
    if (this.taken.includes(draft.name.trim())) return { field: "name", message: `There is a recipe named ${draft.name.trim()}; expected another name.` };
    if (draft.overrides.some(({ glob }) => glob.trim() === "")) return { field: "overrides", message: "An override has no tensors; expected a name with or without *." };
    const globs = draft.overrides.map(({ glob }) => glob.trim());
    if (new Set(globs).size < globs.length) return { field: "overrides", message: "Two overrides have the same tensors; expected them to differ." };
    try {
      const field = calibratedField(validateRecipe(recipeFrom(draft)));
      if (field === null || this.calibrated) return null;
      return { field: fieldOf(field), message: `${field} needs calibration text, and the panel has none.` };
    } catch (error) {
      const message = (error as Error).message.replace(/^quantization\./, "");
      return { field: fieldOf(message), message };
    }
  }
}

const fields: readonly Field[] = ["linear", "embedding", "activations", "observer", "outlierThreshold", "rounding", "activationOrder", "equalization", "smoothing", "overrides"];

/** The field that a message of the engine begins with. */
function fieldOf(message: string): Field {
  return fields.find((field) => message.startsWith(field)) ?? "name";
}

function recipeFrom(draft: Draft): QuantizationRecipe {
  const { activations, observer, outlierThreshold, rounding, activationOrder, equalization, smoothing } = draft;
  return {
    name: draft.name.trim(),
    linear: formatNamed(draft.linear),
    embedding: formatNamed(draft.embedding),
    ...(activations === "float" ? {} : { activations: { type: "int8", ranges: activations } }),
    ...(activations === "static" ? { observer } : {}),
    ...(outlierThreshold.trim() === "" ? {} : { outlierThreshold: Number(outlierThreshold) }),
    ...(rounding === "nearest" ? {} : { rounding }),
    ...(rounding === "gptq" && activationOrder === "yes" ? { activationOrder: true } : {}),
    ...(equalization === "none" ? {} : { equalization }),
    ...(equalization === "smoothquant" && smoothing.trim() !== "" ? { smoothing: smoothing.trim() === "search" ? "search" : Number(smoothing) } : {}),
    ...(draft.overrides.length === 0 ? {} : { overrides: Object.fromEntries(draft.overrides.map(({ glob, format }) => [glob.trim(), formatNamed(format)])) }),
  };
}

function draftOf(recipe: QuantizationRecipe, name: string): Draft {
  const { linear, embedding = { type: "f16" }, activations = "float", observer = "minmax", outlierThreshold, rounding = "nearest", activationOrder = false, equalization = "none", smoothing, overrides = {} } = recipe;
  return {
    name,
    linear: describeFormat(linear),
    embedding: describeFormat(embedding),
    activations: activations === "float" ? "float" : activations.ranges,
    observer,
    outlierThreshold: outlierThreshold === undefined ? "" : String(outlierThreshold),
    rounding,
    activationOrder: activationOrder ? "yes" : "no",
    equalization,
    smoothing: smoothing === undefined ? "" : String(smoothing),
    overrides: Object.entries(overrides).map(([glob, format]) => ({ glob, format: describeFormat(format) })),
  };
}

function formatOptions(chosen: string): TemplateResult[] {
  return formatsByKind.map(([kind, formats]) => html`<optgroup label=${kind}>${formats.map(([name]) => html`<option .selected=${name === chosen}>${name}</option>`)}</optgroup>`);
}

function valueOf(event: Event): string {
  return (event.target as HTMLInputElement | HTMLSelectElement).value;
}
