import type { FinishReason, Model } from "nibble-webgpu";
import { element } from "./element.ts";
import { showMemory, showModel, showRun } from "./figures.ts";
import { SamplingForm } from "./samplingForm.ts";
import { TokenText } from "./tokenText.ts";

const alternativesPerToken = 5;

const form = element("playground", HTMLFormElement);
const promptBox = element("prompt", HTMLTextAreaElement);
const exampleRow = element("examples", HTMLDivElement);
const generateButton = element("generate", HTMLButtonElement);
const continueButton = element("continue", HTMLButtonElement);
const copyButton = element("copy", HTMLButtonElement);
const outcome = element("outcome", HTMLSpanElement);

/** Prompt, settings, streaming text and figures; one generation at a time. */
export class Playground {
  private model: Model | null = null;
  private controller: AbortController | null = null;
  private running: Promise<void> = Promise.resolve();
  private contextFull = false;
  private readonly written = new TokenText();
  private readonly sampling = new SamplingForm();

  constructor(private readonly showError: (error: unknown) => void) {
    for (const example of exampleRow.children) example.addEventListener("click", () => (promptBox.value = example.textContent));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.controller) this.stop();
      else this.start("");
    });
    form.addEventListener("invalid", () => (element("moreSettings", HTMLDetailsElement).open = true), true); // a closed field cannot show its complaint
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stop();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !this.controller) form.requestSubmit();
    });
    continueButton.addEventListener("click", () => {
      if (!form.reportValidity()) return;
      generateButton.focus(); // which now says Stop; this button is disabled meanwhile
      this.start(this.written.text);
    });
    copyButton.addEventListener("click", () => void this.copy());
  }

  /** Generates with `model` from now on. null: there is none. */
  use(model: Model | null): void {
    this.model = model;
    this.contextFull = false;
    this.updateButtons();
    showModel(model);
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
      this.written.begin(text);
    }
    this.controller = new AbortController();
    this.updateButtons();
    this.running = this.generate(model, text, this.controller.signal).finally(() => {
      this.controller = null;
      this.updateButtons();
    });
  }

  private async generate(model: Model, text: string, signal: AbortSignal): Promise<void> {
    const options = this.sampling.read();
    outcome.textContent = `seed ${options.seed}`;
    this.written.setBusy(true);
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
          showRun({ firstTokenMs: firstMs - startMs, promptTokens: promptTokens.length, newTokens, decodeMs: nowMs - firstMs });
          this.written.append(token);
        }
      } finally {
        summary = generation.summary;
      }
    } catch (error) {
      if (!signal.aborted) this.showError(error);
    }
    this.written.setBusy(false);
    if (summary && newTokens > 0) showRun({ firstTokenMs: firstMs - startMs, ...summary });
    const reason: FinishReason = signal.aborted ? "cancelled" : (summary?.finishReason ?? "failed");
    this.contextFull = reason === "contextFull";
    outcome.textContent = `seed ${options.seed} · ${describeFinish(reason, model)}`;
    showMemory(model.memory);
  }

  private async copy(): Promise<void> {
    try {
      await navigator.clipboard.writeText(this.written.text);
      outcome.textContent = "copied";
    } catch {
      this.written.select(); // the browser grants no clipboard, as on plain http
      outcome.textContent = "selected, ready to copy";
    }
  }

  private updateButtons(): void {
    generateButton.textContent = this.controller ? "Stop" : "Generate";
    generateButton.disabled = !this.model;
    continueButton.disabled = !this.model || this.controller !== null || this.written.isEmpty || this.contextFull;
    copyButton.disabled = this.written.isEmpty;
  }
}

function describeFinish(reason: FinishReason, model: Model): string {
  switch (reason) {
    case "endOfText":
      return "the model ended the text";
    case "stop":
      return "reached a stop text";
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
