// What this runtime writes with the embedded model, as one line of JSON. Usage: runtime.mjs FOLDER BACKEND
import { readFile } from "node:fs/promises";
import { loadModel, loadModelInWorker } from "nibble-webgpu";

const [folder, backend] = process.argv.slice(2);
const names = ["config.json", "model.safetensors"];
const files = Object.fromEntries(await Promise.all(names.map(async (name) => [name, new Uint8Array(await readFile(`${folder}/${name}`))])));
// Dawn, where the runtime has no WebGPU of its own.
const gpu = backend === "webgpu" && !globalThis.navigator?.gpu ? (await import("webgpu")).create([]) : undefined;

async function story(load, options) {
  try {
    const model = await load(files, options);
    const { text } = await model.complete("Once upon a time", { maxTokens: 12, temperature: 0 });
    model.dispose();
    return { text, by: model.adapter.description, notices: model.adapter.notices };
  } catch (error) {
    return { error: String(error) };
  }
}
const direct = await story(loadModel, { backend, gpu, cache: "none" });
const inWorker = globalThis.Worker && backend === "cpu" ? await story(loadModelInWorker, { backend, cache: "none" }) : undefined;
console.log(JSON.stringify({ direct, inWorker }));
