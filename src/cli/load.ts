import { type LoadOptions, type Model, type ModelSource, type PresetName, presets } from "../index.ts";
import type { CliIo } from "./io.ts";
import { ProgressLine } from "./progress.ts";
import { type OptionSpecs, type ParsedOptions, UsageError } from "./usage.ts";

export const presetNames = Object.keys(presets) as PresetName[];

/** Options that every command with a model takes. */
export const modelOptions: OptionSpecs = {
  model: { value: "model", help: "folder, .safetensors file, hub id or URL [models/stories-12m inside the repository]" },
  backend: { value: "name", help: "auto, webgpu or cpu; auto takes WebGPU on real hardware only [auto]" },
  "kv-cache": { value: "format", help: "f32, f16 or int8 [f32 for the f32 recipe, else f16]" },
  context: { value: "tokens", help: "positions that the KV cache holds [all that the model has]" },
};

export type ModelChoice = Pick<LoadOptions, "backend" | "kvCache" | "contextLength">;

/** Checks everything that can be checked before a model is opened. */
export function parseModelChoice(options: ParsedOptions): ModelChoice {
  return {
    backend: options.choice("backend", ["auto", "webgpu", "cpu"]) ?? "auto",
    kvCache: options.choice("kv-cache", ["f32", "f16", "int8"]),
    contextLength: options.number("context", { least: 1, integer: true }),
  };
}

/** Comma-separated preset names. */
export function parsePresets(option: string): PresetName[] {
  return option.split(",").map((word) => {
    const preset = presetNames.find((name) => name === word.trim());
    if (preset === undefined) throw new UsageError(`Option --quantization has "${word.trim()}"; expected of ${presetNames.join(", ")}.`);
    return preset;
  });
}

/** What loads need; undefined where the CPU was asked for, or there is no package "webgpu". */
export async function requestGpu(io: CliIo, { backend }: Pick<ModelChoice, "backend">): Promise<GPU | undefined> {
  const gpu = backend === "cpu" ? null : await io.requestGpu();
  if (gpu === null && backend === "webgpu") throw new UsageError('Option --backend is "webgpu", which needs the package webgpu in Node: npm install webgpu.');
  return gpu ?? undefined;
}

/** Loads with a progress line. The caller disposes the model. */
export async function loadWithProgress(io: CliIo, source: ModelSource, choice: ModelChoice & Pick<LoadOptions, "quantization" | "calibration">): Promise<Model> {
  const { quantization } = choice;
  const name = typeof quantization === "string" ? quantization : quantization?.name;
  const gpu = await requestGpu(io, choice);
  const progress = new ProgressLine(io.stderr);
  try {
    return await io.loadModel(source, {
      ...choice,
      gpu,
      cache: "none",
      signal: io.signal,
      onProgress: ({ stage, fraction, file }) => progress.update(name ? `loading as ${name}` : "loading", fraction, file ? `${stage} ${file}` : stage),
    });
  } finally {
    progress.end();
  }
}

/** "WebGPU on mesa llvmpipe", "CPU". */
export function describeBackend({ adapter }: Pick<Model, "adapter">): string {
  if (adapter.backend === "cpu") return "CPU";
  return `WebGPU on ${[adapter.vendor, adapter.architecture, adapter.description].filter(Boolean).join(" ") || "an unnamed adapter"}`;
}
