import type * as Nibble from "nibble-webgpu";
import { gpt2MediumShape, gpt2SmallShape, seededCheckpoint } from "../fixtures/seededCheckpoint.ts";
import type { Subject } from "./measure.ts";
import { tokenTraffic } from "./traffic.ts";

/** The package: the built one in Node, the sources in a page. Handed in, so that Node runs what users run. */
export type Engine = typeof Nibble;
export type ModelFiles = Readonly<Record<string, Uint8Array>>;

/** Models by name. Seeded noise is as fast as a trained model of its shape. */
export const shapeNames = ["embedded", "124m", "355m"] as const;
export type ShapeName = (typeof shapeNames)[number];

/** A token that no model picks, so that no generation ends before its last token. */
const NEVER_ID = 43_453; // " SolidGoldMagikarp"

/** config.json and model.safetensors of a model; `read` gives the files of the embedded one by their path in the repository. */
export async function modelFiles(shape: ShapeName, read: (path: string) => Promise<Uint8Array>): Promise<ModelFiles> {
  if (shape !== "embedded") return seededCheckpoint({ ...(shape === "124m" ? gpt2SmallShape : gpt2MediumShape), eosTokenId: NEVER_ID });
  const config = JSON.parse(new TextDecoder().decode(await read("models/stories-12m/config.json"))) as Record<string, unknown>;
  return {
    "config.json": new TextEncoder().encode(JSON.stringify({ ...config, eos_token_id: NEVER_ID })),
    "model.safetensors": await read("models/stories-12m/model.safetensors"),
  };
}

export interface NibbleSubjectOptions {
  shape: ShapeName;
  files: ModelFiles;
  quantization: Nibble.PresetName;
  backend: "webgpu" | "cpu";
  gpu?: GPU;
}

/** Loads our engine. */
export async function nibbleSubject(engine: Engine, { shape, files, quantization, backend, gpu }: NibbleSubjectOptions): Promise<Subject> {
  const startMs = performance.now();
  const model = await engine.loadModel(files, { quantization, backend, gpu, cache: "none" });
  const { config } = model;
  return {
    name: `nibble ${backend} ${quantization}`,
    shape,
    loadMs: performance.now() - startMs,
    nPositions: config.nPositions,
    vocabSize: config.vocabSize,
    generate: (prompt, newTokens) => model.complete(prompt, { maxTokens: newTokens, temperature: 0 }),
    logits: (prompt) => model.logits(prompt),
    score: async (text, windowTokens) => (await model.perplexity(text, { protocol: "disjoint", windowTokens })).scoredTokens,
    bytesPerToken: (position) => tokenTraffic(config, model.memory, position).totalBytes,
    dispose: () => model.dispose(),
  };
}
