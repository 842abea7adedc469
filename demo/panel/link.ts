import { type QuantizationRecipe, validateRecipe } from "nibble-webgpu";
import { protocols, type Settings, type TextChoice } from "./settings.ts";
import { sha256 } from "./textReader.ts";

/** Texts up to this length travel in the link; of longer ones the hash. */
const LONGEST_TEXT = 2000;
const PREFIX = "#panel=";

/** What a link says. */
export interface LinkedRun {
  /** As modelName() has it. */
  model: string | null;
  /** As hex, of the text's UTF-8; null in a page that is no secure context. */
  textSha256: string | null;
  /** As that; null where no recipe had a use for it, too. */
  calibrationSha256: string | null;
  settings: Settings;
}

/** The address of this page with the run in its fragment. */
export async function linkTo(model: string | null, settings: Settings, text: string, calibration: string): Promise<string> {
  const run = {
    ...settings,
    model,
    text: linkedChoice(settings.text, text),
    textSha256: await sha256(text),
    calibration: linkedChoice(settings.calibration, calibration),
    calibrationSha256: calibration === "" ? null : await sha256(calibration),
  };
  const bytes = new TextEncoder().encode(JSON.stringify(run));
  const base64 = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return `${location.href.split("#")[0]}${PREFIX}${base64}`;
}

function linkedChoice(choice: TextChoice, text: string): TextChoice {
  if (choice.kind === "offered") return choice;
  return text.length <= LONGEST_TEXT ? { kind: "pasted", text } : { kind: "file", file: null };
}

/** Reads a fragment; what it does not say is as in `defaults`. null where it is no link of ours. @throws Error for one that is damaged */
export function readLink(fragment: string, defaults: Settings): LinkedRun | null {
  if (!fragment.startsWith(PREFIX)) return null;
  try {
    const base64 = fragment.slice(PREFIX.length).replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    return checkedRun(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)) as unknown, defaults);
  } catch (cause) {
    throw new Error(`The link is damaged: ${(cause as Error).message}`, { cause });
  }
}

/** Takes over what has the right type, field by field: anybody can write a link. */
function checkedRun(value: unknown, defaults: Settings): LinkedRun {
  const { model, textSha256, calibrationSha256, text, calibration, protocol, windowTokens, strideTokens, tokenLimit, chosen, own, continuation } = record(value);
  const { prompt, maxTokens, temperature, seed } = record(continuation ?? {});
  return {
    model: optional(model, isString) ?? null,
    textSha256: optional(textSha256, isString) ?? null,
    calibrationSha256: optional(calibrationSha256, isString) ?? null,
    settings: {
      text: text === undefined ? defaults.text : checkedText(record(text)),
      calibration: calibration === undefined ? defaults.calibration : checkedText(record(calibration)),
      protocol: optional(protocol, (word): word is Settings["protocol"] => isString(word) && Object.hasOwn(protocols, word)) ?? defaults.protocol,
      windowTokens: optional(windowTokens, isNumber) ?? null,
      strideTokens: optional(strideTokens, isNumber) ?? null,
      tokenLimit: optional(tokenLimit, isNumber) ?? null,
      chosen: optional(chosen, isStrings) ?? defaults.chosen,
      own: Array.isArray(own) ? own.map(ownRecipe) : [],
      continuation: {
        prompt: optional(prompt, isString) ?? defaults.continuation.prompt,
        maxTokens: optional(maxTokens, isNumber) ?? defaults.continuation.maxTokens,
        temperature: optional(temperature, isNumber) ?? defaults.continuation.temperature,
        seed: optional(seed, isNumber) ?? defaults.continuation.seed,
      },
    },
  };
}

function checkedText({ kind, label, text }: Record<string, unknown>): TextChoice {
  if (kind === "offered" && isString(label)) return { kind, label };
  if (kind === "pasted" && isString(text)) return { kind, text };
  if (kind === "file") return { kind, file: null };
  throw new TypeError("its text is neither offered, pasted nor a file.");
}

function ownRecipe(value: unknown): QuantizationRecipe {
  const recipe = validateRecipe(value);
  if (!recipe.name) throw new TypeError("it has a recipe without a name.");
  return recipe;
}

function record(value: unknown): Record<string, unknown> {
  if (typeof value !== "object" || value === null) throw new TypeError("it holds no settings.");
  return value as Record<string, unknown>;
}

function optional<T>(value: unknown, is: (value: unknown) => value is T): T | undefined {
  return is(value) ? value : undefined;
}

const isString = (value: unknown): value is string => typeof value === "string";
const isNumber = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);
const isStrings = (value: unknown): value is string[] => Array.isArray(value) && value.every(isString);
