import type { LoadOptions, ModelSource, PresetName } from "nibble-webgpu";
import { registry, type RegisteredModel } from "../models/registry.ts";
import { modelName } from "./panel/modelName.ts";

/** A model that the lists offer. */
export interface Offered {
  label: string;
  source: ModelSource;
  /** Its token lives as long as the page; it is written nowhere. */
  hub?: LoadOptions["hub"];
  integrity?: LoadOptions["integrity"];
  /** Of the weights; null: nobody knows before the download. */
  downloadBytes: number | null;
}

/** What the user asked for. */
export interface Choice extends Offered {
  preset: PresetName;
}

export const registered: readonly Offered[] = registry.map((entry) => ({
  label: entry.label,
  source: sourceOf(entry),
  integrity: entry.sha256 === undefined ? undefined : { "model.safetensors": `sha256-${entry.sha256}` },
  downloadBytes: entry.downloadBytes,
}));

function sourceOf({ id, source }: RegisteredModel): ModelSource {
  return source === "embedded" ? new URL(`models/${id}/`, document.baseURI) : id;
}

/** What someone typed: a hub id, or an address, which may be relative to the page. */
export function typedSource(text: string): ModelSource {
  const isAddress = /^(https?:|[./])/i.test(text) && URL.canParse(text, document.baseURI);
  return isAddress ? new URL(text, document.baseURI) : text;
}

/** What the panel's links call so: a model of the lists, or one from elsewhere. */
export function modelNamed(name: string): Offered {
  return registered.find(({ source }) => modelName(source) === name) ?? { label: name, source: typedSource(name), downloadBytes: null };
}

export function pickedFiles(files: readonly File[]): Offered {
  const weights = files.find(({ name }) => name.endsWith(".safetensors")) ?? files[0]!;
  const folder = weights.webkitRelativePath.split("/").at(-2);
  return { label: folder ?? weights.name, source: files, downloadBytes: 0 };
}
