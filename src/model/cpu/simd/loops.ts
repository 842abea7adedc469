import base64 from "./kernels.as";

/** The exports of kernels.as. Their parameters are described there: addresses, strides in bytes, counts. */
type Loop =
  | "multiplyFloats"
  | "multiplyInt8"
  | "restoreInt8"
  | "multiplyInt8Codes"
  | "widenInt8"
  | "multiplyCodes"
  | "multiplyStoredCodes"
  | "multiplyNibbles"
  | "restoreNibbles"
  | "restoreScales"
  | "multiplyHalves"
  | "restoreHalves"
  | "roundHalves"
  | "largestMagnitude"
  | "quantize"
  | "addBias"
  | "layerNorm"
  | "geluTanh"
  | "softmax"
  | "sumExp";
export type Loops = Readonly<Record<Loop, (...parameters: number[]) => number>>;

let compiled: WebAssembly.Module | null | undefined;

/** The loops over one memory; null where there is no WebAssembly, no SIMD in it, or a Content-Security-Policy that forbids it. */
export function createLoops(memory: WebAssembly.Memory): Loops | null {
  const module = compiledLoops();
  return module && (new WebAssembly.Instance(module, { env: { memory } }).exports as Loops);
}

/** What createLoops() instantiates, compiled once; null where it gives null. */
export function compiledLoops(): WebAssembly.Module | null {
  if (compiled === undefined) compiled = typeof WebAssembly === "undefined" ? null : compile();
  return compiled;
}

function compile(): WebAssembly.Module | null {
  try {
    return new WebAssembly.Module(Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)));
  } catch {
    return null;
  }
}
