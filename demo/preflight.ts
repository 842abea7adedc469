import { caches, type ModelPlan, type PresetName } from "nibble-webgpu";
import type { Choice } from "./choice.ts";
import { backend, planModel } from "./engine.ts";
import { megabytes } from "./panel/format.ts";
import { uncalibratedPresets } from "./panel/recipes.ts";

/** More than this is not downloaded before the user has seen how much it is. */
const largeBytes = 100e6;

/** What the user is to know before the weights are read. */
export interface Verdict {
  text: string;
  /** What to load it as: the preset asked for where that fits, else one that does; null: none would. */
  preset: PresetName | null;
}

/** Finds out, from the start of the files, what a load will take. null: it fits, and nobody need be asked. @throws as planModel() */
export async function verdict(choice: Choice, signal: AbortSignal): Promise<Verdict | null> {
  const { source, preset, hub, downloadBytes } = choice;
  const isLocal = downloadBytes === 0;
  if (!isLocal && downloadBytes !== null && downloadBytes < largeBytes) return null;
  const plan = await planModel(source, { quantization: preset, backend, hub, signal });
  if (plan.shortages.length > 0) return refusal(choice, plan);
  if (isLocal || (plan.downloadBytes ?? plan.memory.total) < largeBytes) return null;
  const size = plan.downloadBytes === null ? "of a size that the server does not tell" : `of ${megabytes(plan.downloadBytes)} MB`;
  const memory = plan.backend === "webgpu" ? "GPU memory" : "memory";
  return { text: `${choice.label} is a download ${size}. As ${preset} it fits: it will take ${megabytes(plan.memory.total)} MB of ${memory}.`, preset };
}

function refusal({ label, preset }: Choice, { shortages, fittingPresets, backend }: ModelPlan): Verdict {
  const { what, needBytes, limitBytes } = shortages[0]!;
  const fitting = uncalibratedPresets.filter((name) => fittingPresets.includes(name));
  const found = `${label} as ${preset} does not fit: ${what} needs ${megabytes(needBytes)} MB, and this ${backend === "webgpu" ? "GPU" : "browser"} allows ${megabytes(limitBytes)}.`;
  return { text: `${found} ${fitting.length > 0 ? `What would fit: ${fitting.join(", ")}.` : "No other weights would fit either."}`, preset: fitting[0] ?? null };
}

/** Whether the browser keeps it under that name. What it keeps may still be of another backend, or of files that have changed since. */
export async function isKept({ source, preset, hub }: Choice): Promise<boolean> {
  if (typeof source !== "string") return false;
  const kept = await caches.list().catch(() => []); // storage may be shut
  const name = `hub ${source.includes("@") ? source : `${source}@${hub?.revision ?? "main"}`}`;
  return kept.some((entry) => entry.source === name && entry.recipe === preset);
}
