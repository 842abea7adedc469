import type { LoadOptions } from "nibble-webgpu";

/** How the page loads a model: the one place that knows where the engine runs. */
export { loadModelInWorker as openModel } from "nibble-webgpu";

const asked = new URLSearchParams(location.search).get("backend");
/** "?backend=cpu" or "?backend=webgpu" in the page's address. */
export const backend: NonNullable<LoadOptions["backend"]> = asked === "webgpu" || asked === "cpu" ? asked : "auto";
