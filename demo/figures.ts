import type { MemoryReport, Model } from "nibble-webgpu";
import { element, textElement } from "./element.ts";
import { figure, megabytes, rate } from "./panel/format.ts";

/** What a run has taken so far. */
export interface RunFigures {
  firstTokenMs: number;
  promptTokens: number;
  newTokens: number;
  /** From the first new token to the last. */
  decodeMs: number;
}

const bar = element("memoryBar", HTMLDivElement);
const key = element("memoryKey", HTMLUListElement);

function show(id: string, text: string): void {
  element(id, HTMLElement).textContent = text;
}

/** null: there is no model. */
export function showModel(model: Model | null): void {
  show("context", model ? String(model.config.nPositions) : "–");
  show("bitsPerWeight", model ? figure(model.quantization.bitsPerWeight) : "–");
  show("memoryLabel", model?.adapter.backend === "webgpu" ? "GPU memory" : "memory");
  for (const id of ["speed", "firstToken", "tokens"]) show(id, "–");
  showMemory(model?.memory ?? null);
}

export function showRun({ firstTokenMs, promptTokens, newTokens, decodeMs }: RunFigures): void {
  show("firstToken", `${figure(firstTokenMs, firstTokenMs < 10 ? 1 : 0)} ms`);
  show("tokens", `${promptTokens} + ${newTokens}`);
  show("speed", newTokens > 1 ? `${rate(((newTokens - 1) / decodeMs) * 1000)} tok/s` : "–");
}

export function showMemory(memory: MemoryReport | null): void {
  show("memory", memory ? `${megabytes(memory.total)} MB` : "–");
  const parts = memory ? partsOf(memory).filter(([, bytes]) => bytes > 0) : [];
  bar.replaceChildren(
    ...parts.map(([, bytes], i) => {
      const part = textElement("span", "", `part${i}`);
      part.style.flexGrow = String(bytes);
      return part;
    }),
  );
  key.replaceChildren(...parts.map(([name, bytes], i) => textElement("li", `${name} ${megabytes(bytes)}`, `part${i}`)));
}

function partsOf(memory: MemoryReport): [name: string, bytes: number][] {
  return [
    ["blocks", memory.weights],
    ["scales", memory.scales],
    ["embedding", memory.embedding],
    ["cache", memory.kvCache],
    ["work", memory.activations + memory.staging],
  ];
}
