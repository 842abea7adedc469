import { loadModel } from "nibble-webgpu/static";

async function answer(port) {
  try {
    const model = await loadModel(new URL("/model/", location.href), { backend: "cpu", cache: "none" });
    port.postMessage({ text: (await model.complete("Once upon a time", { maxTokens: 12, temperature: 0 })).text });
  } catch (error) {
    port.postMessage({ error: String(error) });
  }
}
addEventListener("message", (event) => event.waitUntil(answer(event.ports[0])));
