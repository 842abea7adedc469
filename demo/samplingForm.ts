import type { GenerateOptions } from "nibble-webgpu";
import { element } from "./element.ts";
import { storedSettings, storeSettings } from "./settingsStore.ts";

const numbers = {
  temperature: element("temperature", HTMLInputElement),
  topK: element("topK", HTMLInputElement),
  topP: element("topP", HTMLInputElement),
  minP: element("minP", HTMLInputElement),
  repetitionPenalty: element("repetitionPenalty", HTMLInputElement),
  frequencyPenalty: element("frequencyPenalty", HTMLInputElement),
  presencePenalty: element("presencePenalty", HTMLInputElement),
  maxTokens: element("maxTokens", HTMLInputElement),
  seed: element("seed", HTMLInputElement),
} satisfies Partial<Record<keyof GenerateOptions, HTMLInputElement>>;
const stop = element("stop", HTMLTextAreaElement);
const fields = [...Object.values(numbers), stop];

/** The fields of the sampling settings: filled with what was stored, stored when they change. */
export class SamplingForm {
  constructor() {
    const stored = storedSettings();
    for (const field of fields) {
      field.value = stored[field.id] ?? field.defaultValue;
      field.addEventListener("input", () => this.store());
    }
    element("defaults", HTMLButtonElement).addEventListener("click", () => {
      for (const field of fields) field.value = field.defaultValue;
      this.store();
    });
  }

  /** What generate() takes; an empty field leaves its option out. */
  read(): GenerateOptions & { seed: number } {
    const entries = Object.entries(numbers).filter(([, { value }]) => value !== "");
    const given = Object.fromEntries(entries.map(([name, input]) => [name, input.valueAsNumber])) as GenerateOptions;
    const stops = stop.value.split("\n").filter((line) => line !== "");
    return {
      ...given,
      seed: given.seed ?? crypto.getRandomValues(new Uint16Array(1))[0]!, // short, to be typed again
      stop: stops.map((line) => line.replaceAll("\\n", "\n")),
    };
  }

  private store(): void {
    storeSettings(Object.fromEntries(fields.filter((field) => field.validity.valid).map((field) => [field.id, field.value])));
  }
}
