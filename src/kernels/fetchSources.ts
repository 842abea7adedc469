import { fetchPart } from "../parts.ts";

/** For what reads its inputs as int8 codes. @throws EngineError `network` */
export function fetchInt8Sources(): Promise<typeof import("./int8Sources.ts")> {
  return fetchPart("The kernels of int8 activations", () => import("./int8Sources.ts"));
}

/** For software adapters. @throws EngineError `network` */
export function fetchSoftwareSources(): Promise<typeof import("./softwareSources.ts")> {
  return fetchPart("The kernels of software adapters", () => import("./softwareSources.ts"));
}
