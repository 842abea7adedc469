import type { GeneratedToken, TokenAlternative } from "nibble-webgpu";
import { element, textElement } from "./element.ts";

const hint = "Point at a word, tap it, or focus the text and step with the arrow keys, to see what else the model considered.";

const output = element("output", HTMLDivElement);
const alternatives = element("alternatives", HTMLDivElement);
const spoken = element("spoken", HTMLParagraphElement);

/** The prompt and what the model wrote after it, token by token, each with the alternatives it had. All of it is text nodes, never HTML. */
export class TokenText {
  /** As given. */
  private prompt = "";
  private tokens: GeneratedToken[] = [];
  private unspoken = "";
  /** The user has not scrolled away from the end. */
  private followsEnd = true;
  private scrolling = 0;

  constructor() {
    output.addEventListener("scroll", () => (this.followsEnd = output.scrollTop + output.clientHeight > output.scrollHeight - 40));
    const show = ({ target }: Event): void => {
      if (target instanceof HTMLElement && target.dataset.index !== undefined) this.showAlternatives(Number(target.dataset.index));
    };
    output.addEventListener("pointerover", show);
    output.addEventListener("click", show);
    output.addEventListener("focus", () => this.showAlternatives(this.current()));
    output.addEventListener("keydown", (event) => {
      const next = { ArrowRight: this.current() + 1, ArrowLeft: this.current() - 1, Home: 0, End: this.tokens.length - 1 }[event.key];
      if (next === undefined || this.tokens.length === 0) return;
      event.preventDefault();
      this.showAlternatives(next);
      output.querySelector(".current")?.scrollIntoView({ block: "nearest" });
    });
    this.clearAlternatives();
  }

  get isEmpty(): boolean {
    return this.tokens.length === 0;
  }

  /** Prompt and continuation. */
  get text(): string {
    return this.prompt + this.tokens.map(({ text }) => text).join("");
  }

  begin(prompt: string): void {
    this.prompt = prompt;
    this.tokens = [];
    this.followsEnd = true;
    output.replaceChildren(textElement("b", prompt));
  }

  setBusy(isBusy: boolean): void {
    output.ariaBusy = String(isBusy);
    if (isBusy) this.clearAlternatives();
    else this.speak();
  }

  append(token: GeneratedToken): void {
    const span = textElement("span", token.text);
    span.dataset.index = String(this.tokens.length);
    this.tokens.push(token);
    output.append(span);
    this.scrolling ||= requestAnimationFrame(() => {
      this.scrolling = 0;
      if (this.followsEnd) output.scrollTop = output.scrollHeight; // the text is laid out here, for all tokens of a frame at once
    });
    this.unspoken += token.text;
    if (/[.!?]["”]?\s*$/.test(token.text)) this.speak();
  }

  /** Selects all of it, for the user to copy. */
  select(): void {
    getSelection()?.selectAllChildren(output);
  }

  /** Screen readers are given whole sentences. */
  private speak(): void {
    spoken.textContent = this.unspoken.trim();
    this.unspoken = "";
  }

  private current(): number {
    return Number(output.querySelector<HTMLElement>(".current")?.dataset.index ?? 0);
  }

  private clearAlternatives(): void {
    output.querySelector(".current")?.classList.remove("current");
    alternatives.replaceChildren(textElement("p", hint));
  }

  private showAlternatives(index: number): void {
    const token = this.tokens[index];
    if (!token) return;
    this.clearAlternatives();
    output.querySelector(`[data-index="${index}"]`)?.classList.add("current");
    const top = token.top ?? [];
    const shown = top.some(({ id }) => id === token.id) ? top : [...top, token];
    const list = document.createElement("ol");
    list.append(...shown.map((alternative) => alternativeRow(alternative, alternative.id === token.id)));
    alternatives.replaceChildren(list);
  }
}

function alternativeRow({ text, logProb }: TokenAlternative, taken: boolean): HTMLLIElement {
  const probability = Math.exp(logProb);
  const row = textElement("li", "", taken ? "taken" : "");
  const bar = document.createElement("i");
  bar.style.width = `${probability * 100}%`;
  const cell = document.createElement("span");
  cell.append(bar);
  row.append(textElement("span", visible(text)), cell, textElement("span", `${(probability * 100).toFixed(1)} %`, "num"));
  return row;
}

/** Shows a leading space and line breaks, which tell tokens apart. */
function visible(text: string): string {
  return text.replace(/^ /, "␣").replaceAll("\n", "⏎") || "part of a character";
}
