import { EngineError, loadModel, loadModelInWorker } from "nibble-webgpu";

const source = new URL("/model/", location.href);
const options = { backend: "cpu", cache: "none" };
const complete = (model) => model.complete("Once upon a time", { maxTokens: 12, temperature: 0 });
const scripts = () => performance.getEntriesByType("resource").map(({ name }) => name).filter((name) => name.endsWith(".js"));

try {
  const model = await loadModelInWorker(source, options);
  const { text } = await complete(model);
  model.dispose();
  const error = await complete(model).catch((reason) => reason);

  const atFirst = scripts();
  const failures = [];
  const load = () => loadModel(source, options);
  const here = await load().catch((reason) => {
    failures.push(`${reason.code}: ${reason.details?.part}`);
    return load();
  });
  const textHere = (await complete(here)).text;
  here.dispose();
  globalThis.result = { text, textHere, parts: scripts().filter((name) => !atFirst.includes(name)), failures, isEngineError: error instanceof EngineError };
} catch (error) {
  globalThis.result = { error: String(error) };
}
