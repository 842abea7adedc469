import { EngineError, loadModelInWorker } from "nibble-webgpu";

try {
  const model = await loadModelInWorker(new URL("/model/", location.href), { backend: "cpu", cache: "none" });
  const { text } = await model.complete("Once upon a time", { maxTokens: 12, temperature: 0 });
  model.dispose();
  const error = await model.complete("").catch((reason) => reason);
  globalThis.result = { text, isEngineError: error instanceof EngineError };
} catch (error) {
  globalThis.result = { error: String(error) };
}
