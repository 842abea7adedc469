import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property } from "lit/decorators.js";
import { partStyles } from "./panelStyles.ts";
import { type Protocol, protocols, type Settings, type TextChoice } from "./settings.ts";
import "./textChoice.ts";

/** What is measured, as far as it can be known before the run. */
export interface TextOutlook {
  /** Of the whole text. null: not known yet. */
  textTokens: number | null;
  /** Of what will be scored. null: not known yet, or wrong. */
  plan: { windows: number; scoredTokens: number; windowTokens: number; strideTokens: number } | null;
  /** What is wrong, and with which field: text, windowTokens, strideTokens. */
  problem: { field: string; message: string } | null;
}

const lengths: readonly (number | null)[] = [256, 512, 2048, 8192, null];

/** Which text, how much of it, and in what windows. Fires `change` (detail: what of the settings is new). */
@customElement("perplexity-text")
export class TextControls extends LitElement {
  static override styles = [
    partStyles,
    css`
      fieldset { display: grid; gap: 14px; }
    `,
  ];

  @property({ attribute: false }) labels: readonly string[] = [];
  @property({ attribute: false }) settings!: Settings;
  @property({ attribute: false }) outlook!: TextOutlook;
  @property({ type: Boolean }) disabled = false;

  override render(): TemplateResult {
    const { text, tokenLimit, protocol, windowTokens, strideTokens } = this.settings;
    const { textTokens, plan } = this.outlook;
    return html`
      <fieldset ?disabled=${this.disabled}>
        <legend class="visually-hidden">Text and protocol</legend>
        <perplexity-text-choice
          label="Read"
          own-label="Text to measure on"
          .offered=${this.labels}
          .choice=${text}
          .note=${textTokens === null ? "tokens are counted when the model's tokenizer is here" : `${textTokens.toLocaleString("en")} tokens`}
          .disabled=${this.disabled}
          @change=${({ detail }: CustomEvent<TextChoice>) => this.fire({ text: detail })}
        ></perplexity-text-choice>
        ${this.error("text")}
        <div class="fields">
          <label>Length
            <select id="length" @change=${(event: Event) => this.fire({ tokenLimit: JSON.parse(valueOf(event)) as number | null })}>
              ${[...new Set([...lengths.slice(0, -1), tokenLimit, null])].map((length) => html`<option value=${String(length)} .selected=${length === tokenLimit}>${length === null ? "all tokens" : `first ${length.toLocaleString("en")} tokens`}</option>`)}
            </select>
            <small>${plan ? `${plan.scoredTokens.toLocaleString("en")} scored, in ${plan.windows} windows` : " "}</small>
          </label>
          <label>Protocol
            <select id="protocol" @change=${(event: Event) => this.fire({ protocol: valueOf(event) as Protocol })}>
              ${Object.entries(protocols).map(([value, { label }]) => html`<option value=${value} .selected=${value === protocol}>${label}</option>`)}
            </select>
          </label>
          ${this.number("windowTokens", "Window, tokens", windowTokens, plan?.windowTokens)}
          ${protocol === "strided" ? this.number("strideTokens", "Stride, tokens", strideTokens, plan?.strideTokens) : nothing}
        </div>
        <p class="caption">${protocols[protocol].caption}</p>
      </fieldset>
    `;
  }

  private number(field: "windowTokens" | "strideTokens", label: string, value: number | null, inEffect: number | undefined): TemplateResult {
    const isWrong = this.outlook.problem?.field === field;
    return html`<label>${label}
      <input
        id=${field}
        type="number"
        min="1"
        step="1"
        .value=${value === null ? "" : String(value)}
        placeholder=${inEffect ?? ""}
        aria-invalid=${isWrong}
        aria-describedby=${`${field}-error`}
        @input=${(event: Event) => this.fire({ [field]: valueOf(event) === "" ? null : Number(valueOf(event)) })}
      />
      <span id=${`${field}-error`}>${this.error(field)}</span>
    </label>`;
  }

  private error(field: string): TemplateResult | typeof nothing {
    const { problem } = this.outlook;
    return problem?.field === field ? html`<small class="warn" role="alert">${problem.message}</small>` : nothing;
  }

  private fire(detail: Partial<Settings>): void {
    this.dispatchEvent(new CustomEvent("change", { detail }));
  }
}

function valueOf(event: Event): string {
  return (event.target as HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement).value;
}
