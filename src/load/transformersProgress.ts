import type { LoadProgress } from "../types.ts";

/** What transformers.js calls `progress_callback` with. progress: percent. */
export type TransformersProgressEvent =
  | { status: "initiate" | "download" | "done"; name: string; file: string }
  | { status: "progress"; name: string; file: string; progress: number; loaded: number; total: number }
  | { status: "ready"; task: "text-generation"; model: string };

/**
 * An `onProgress` that calls back as transformers.js does, so that its progress bars can stay: `loadModel(id, { onProgress: transformersProgress(callback, id) })`.
 * `ready` comes when the model is complete; quantizing and compiling, which transformers.js does not have, are not reported.
 * Source: https://huggingface.co/docs/transformers.js/api/utils/core
 */
export function transformersProgress(callback: (event: TransformersProgressEvent) => void, name: string): (progress: LoadProgress) => void {
  const started = new Set<string>();
  let current: string | null = null;
  let isReady = false;
  const finish = (): void => {
    if (current !== null) callback({ status: "done", name, file: current });
    current = null;
  };
  return ({ stage, file, loaded, total, fraction }) => {
    if (stage === "download" && file !== undefined) {
      if (file !== current) finish();
      if (!started.has(file)) {
        started.add(file);
        callback({ status: "initiate", name, file });
        callback({ status: "download", name, file });
      }
      current = file;
      callback({ status: "progress", name, file, progress: total ? (100 * loaded) / total : 0, loaded, total: total ?? 0 });
    }
    if (fraction < 1 || isReady) return;
    isReady = true;
    finish();
    callback({ status: "ready", task: "text-generation", model: name });
  };
}
