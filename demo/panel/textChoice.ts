import { css, html, LitElement, type TemplateResult } from "lit";
import { customElement, property } from "lit/decorators.js";
import { partStyles } from "./panelStyles.ts";
import type { TextChoice } from "./settings.ts";

/** One of the offered texts, or one of the user's. Fires `change` (detail: TextChoice). */
@customElement("perplexity-text-choice")
export class TextChooser extends LitElement {
  static override styles = [
    partStyles,
    css`
      fieldset { display: grid; gap: 4px; }
      .given { display: grid; gap: 4px; margin-top: 8px; }
      .given input { width: 100%; }
    `,
  ];

  @property() label = "";
  /** Of the texts that are offered. */
  @property({ attribute: false }) offered: readonly string[] = [];
  @property({ attribute: false }) choice!: TextChoice;
  /** Of the field for a text of the user's. */
  @property({ attribute: "own-label" }) ownLabel = "";
  @property() note = "";
  @property({ type: Boolean }) disabled = false;

  override render(): TemplateResult {
    const { choice, offered } = this;
    const chosen = choice.kind === "offered" ? choice.label : choice.kind;
    return html`
      <fieldset ?disabled=${this.disabled}>
        <legend class="visually-hidden">${this.ownLabel}</legend>
        <div class="fields">
          <label>${this.label}
            <select aria-describedby="note" @change=${(event: Event) => this.choose((event.target as HTMLSelectElement).value)}>
              ${(offered.length > 0 ? offered : ["none"]).map((label) => html`<option value=${label} .selected=${label === chosen}>${label}</option>`)}
              <option value="pasted" .selected=${chosen === "pasted"}>pasted text</option>
              <option value="file" .selected=${chosen === "file"}>a text file</option>
            </select>
          </label>
        </div>
        <small id="note">${this.note}</small>
        <label class="given" ?hidden=${choice.kind !== "pasted"}>${this.ownLabel}
          <textarea rows="5" spellcheck="false" .value=${choice.kind === "pasted" ? choice.text : ""} @input=${(event: Event) => this.fire({ kind: "pasted", text: (event.target as HTMLTextAreaElement).value })}></textarea>
        </label>
        <label class="given" ?hidden=${choice.kind !== "file"}>Plain text, UTF-8
          <input type="file" accept="text/plain,.txt,.md,.raw" @change=${(event: Event) => this.fire({ kind: "file", file: (event.target as HTMLInputElement).files?.[0] ?? null })} />
        </label>
      </fieldset>
    `;
  }

  private choose(value: string): void {
    if (value === "pasted") this.fire({ kind: "pasted", text: "" });
    else if (value === "file") this.fire({ kind: "file", file: null });
    else this.fire({ kind: "offered", label: value });
  }

  private fire(detail: TextChoice): void {
    this.dispatchEvent(new CustomEvent("change", { detail }));
  }
}
