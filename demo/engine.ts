import type { LoadOptions } from "nibble-webgpu";

/** How the page loads and plans models: the one place that knows where the engine runs. */
export { loadModelInWorker as openModel, planModelInWorker as planModel } from "nibble-webgpu";

const asked = new URLSearchParams(location.search).get("backend");
/** "?backend=cpu" or "?backend=webgpu" in the page's address. */
export const backend: NonNullable<LoadOptions["backend"]> = asked === "webgpu" || asked === "cpu" ? asked : "auto";
