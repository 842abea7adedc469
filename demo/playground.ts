import type { FinishReason, GeneratedToken, GenerateOptions, MemoryReport, Model, TokenAlternative } from "nibble-webgpu";
import { element, textElement } from "./element.ts";
import { figure, megabytes, rate } from "./panel/format.ts";

const alternativesPerToken = 5;
const hint = "Point at a word, or focus the text and step with the arrow keys, to see what else the model considered.";

const form = element("playground", HTMLFormElement);
const promptBox = element("prompt", HTMLTextAreaElement);
const exampleRow = element("examples", HTMLDivElement);
const generateButton = element("generate", HTMLButtonElement);
const continueButton = element("continue", HTMLButtonElement);
const outcome = element("outcome", HTMLSpanElement);
const settingsSummary = element("settingsSummary", HTMLSpanElement);
const output = element("output", HTMLDivElement);
const alternatives = element("alternatives", HTMLDivElement);
const settings = {
  temperature: element("temperature", HTMLInputElement),
  topK: element("topK", HTMLInputElement),
  topP: element("topP", HTMLInputElement),
  minP: element("minP", HTMLInputElement),
  maxTokens: element("maxTokens", HTMLInputElement),
  seed: element("seed", HTMLInputElement),
};

/** Prompt, settings, streaming text and figures; one generation at a time. */
export class Playground {
  private model: Model | null = null;
  private controller: AbortController | null = null;
  private running: Promise<void> = Promise.resolve();
  /** Prompt as given, and what was generated since; together the text that Continue goes on from. */
  private prompt = "";
  private tokens: GeneratedToken[] = [];
  private contextFull = false;

  constructor(private readonly showError: (error: unknown) => void) {
    for (const example of exampleRow.children) example.addEventListener("click", () => (promptBox.value = example.textContent));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.controller) this.stop();
      else this.start("");
    });
    form.addEventListener("invalid", () => (form.querySelector("details")!.open = true), true); // a closed field cannot show its complaint
    form.addEventListener("input", () => this.describeSettings());
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stop();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !this.controller) form.requestSubmit();
    });
    continueButton.addEventListener("click", () => {
      if (!form.reportValidity()) return;
      generateButton.focus(); // which now says Stop; this button is disabled meanwhile
      this.start(this.prompt + this.tokens.map(({ text }) => text).join(""));
    });
    output.addEventListener("pointerover", ({ target }) => {
      if (target instanceof HTMLElement && target.dataset.index !== undefined) this.showAlternatives(Number(target.dataset.index));
    });
    output.addEventListener("focus", () => this.showAlternatives(this.current()));
    output.addEventListener("keydown", (event) => {
      const next = { ArrowRight: this.current() + 1, ArrowLeft: this.current() - 1, Home: 0, End: this.tokens.length - 1 }[event.key];
      if (next === undefined || this.tokens.length === 0) return;
      event.preventDefault();
      this.showAlternatives(next);
      output.querySelector(".current")?.scrollIntoView({ block: "nearest" });
    });
    this.describeSettings();
    this.clearAlternatives();
  }

  /** Generates with `model` from now on. null: there is none. */
  use(model: Model | null): void {
    this.model = model;
    this.contextFull = false;
    this.updateButtons();
    element("context", HTMLElement).textContent = model ? String(model.config.nPositions) : "–";
    element("bitsPerWeight", HTMLElement).textContent = model ? figure(model.quantization.bitsPerWeight) : "–";
    element("memoryLabel", HTMLElement).textContent = model?.adapter.backend === "webgpu" ? "GPU memory" : "memory";
    for (const id of ["speed", "firstToken", "tokens"]) element(id, HTMLElement).textContent = "–";
    this.showMemory();
  }

  stop(): void {
    this.controller?.abort(new DOMException("Stopped by the user.", "AbortError"));
  }

  /** Stops, and resolves when the model is no longer in use. */
  async release(): Promise<void> {
    this.stop();
    await this.running;
  }

  /** Continues `text`, or starts anew from the prompt box when it is "". */
  private start(text: string): void {
    const { model } = this;
    if (!model || this.controller) return;
    this.showError(null);
    if (text === "") {
      text = promptBox.value;
      this.prompt = text;
      this.tokens = [];
      output.replaceChildren(textElement("b", text));
    }
    this.clearAlternatives();
    this.controller = new AbortController();
    this.updateButtons();
    this.running = this.generate(model, text, this.controller.signal).finally(() => {
      this.controller = null;
      this.updateButtons();
    });
  }

  private async generate(model: Model, text: string, signal: AbortSignal): Promise<void> {
    const options = readSettings();
    outcome.textContent = `seed ${options.seed}`;
    output.ariaBusy = "true";
    const startMs = performance.now();
    let firstMs = 0;
    let newTokens = 0;
    let summary = null;
    try {
      const promptTokens = model.encode(text);
      const generation = model.generate(promptTokens, { ...options, logProbs: alternativesPerToken, signal });
      try {
        for await (const token of generation) {
          const nowMs = performance.now();
          if (newTokens++ === 0) firstMs = nowMs;
          showFigures(firstMs - startMs, promptTokens.length, newTokens, nowMs - firstMs);
          this.append(token);
        }
      } finally {
        summary = generation.summary;
      }
    } catch (error) {
      if (!signal.aborted) this.showError(error);
    }
    output.ariaBusy = "false";
    if (summary && newTokens > 0) showFigures(firstMs - startMs, summary.promptTokens, summary.newTokens, summary.decodeMs);
    const reason: FinishReason = signal.aborted ? "cancelled" : (summary?.finishReason ?? "failed");
    this.contextFull = reason === "contextFull";
    outcome.textContent = `seed ${options.seed} · ${describeFinish(reason, model)}`;
    this.showMemory();
  }

  private append(token: GeneratedToken): void {
    const span = textElement("span", token.text);
    span.dataset.index = String(this.tokens.length);
    this.tokens.push(token);
    const followsEnd = output.scrollTop + output.clientHeight > output.scrollHeight - 40;
    output.append(span);
    if (followsEnd) output.scrollTop = output.scrollHeight;
  }

  private updateButtons(): void {
    generateButton.textContent = this.controller ? "Stop" : "Generate";
    generateButton.disabled = !this.model;
    continueButton.disabled = !this.model || this.controller !== null || this.tokens.length === 0 || this.contextFull;
  }

  private describeSettings(): void {
    const { temperature, topK, seed } = settings;
    const parts = [`temperature ${temperature.value || "?"}`, `top-k ${topK.value || "off"}`, `seed ${seed.value || "random"}`];
    settingsSummary.textContent = parts.join(" · ");
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

  private showMemory(): void {
    const memory = this.model?.memory;
    element("memory", HTMLElement).textContent = memory ? `${megabytes(memory.total)} MB` : "–";
    const parts = memory ? memoryParts(memory).filter(([, bytes]) => bytes > 0) : [];
    const bar = element("memoryBar", HTMLDivElement);
    bar.replaceChildren(
      ...parts.map(([, bytes], i) => {
        const part = textElement("span", "", `part${i}`);
        part.style.flexGrow = String(bytes);
        return part;
      }),
    );
    element("memoryKey", HTMLUListElement).replaceChildren(...parts.map(([name, bytes], i) => textElement("li", `${name} ${megabytes(bytes)}`, `part${i}`)));
  }
}

function memoryParts(memory: MemoryReport): [name: string, bytes: number][] {
  return [
    ["blocks", memory.weights],
    ["scales", memory.scales],
    ["embedding", memory.embedding],
    ["cache", memory.kvCache],
    ["work", memory.activations + memory.staging],
  ];
}

function readSettings(): GenerateOptions & { seed: number } {
  const number = (input: HTMLInputElement): number | undefined => (input.value === "" ? undefined : input.valueAsNumber);
  return {
    temperature: number(settings.temperature),
    topK: number(settings.topK),
    topP: number(settings.topP),
    minP: number(settings.minP),
    maxTokens: number(settings.maxTokens),
    seed: number(settings.seed) ?? crypto.getRandomValues(new Uint16Array(1))[0]!, // short, to be typed again
  };
}

/** decodeMs: from the first new token to the last. */
function showFigures(firstTokenMs: number, promptTokens: number, newTokens: number, decodeMs: number): void {
  element("firstToken", HTMLElement).textContent = `${figure(firstTokenMs, firstTokenMs < 10 ? 1 : 0)} ms`;
  element("tokens", HTMLElement).textContent = `${promptTokens} + ${newTokens}`;
  const tokensPerSecond = ((newTokens - 1) / decodeMs) * 1000;
  element("speed", HTMLElement).textContent = newTokens > 1 ? `${rate(tokensPerSecond)} tok/s` : "–";
}

function describeFinish(reason: FinishReason, model: Model): string {
  switch (reason) {
    case "endOfText":
      return "the model ended the text";
    case "contextFull":
      return `the context of ${model.config.nPositions} tokens is full`;
    case "cancelled":
      return "stopped";
    case "failed":
      return "failed";
    default:
      return "done";
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
