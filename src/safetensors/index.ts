export { EngineError } from "../errors.ts";
export { type Dtype, dtypeBytes, type FloatDtype, isFloatDtype, toFloat32, type TypedView, typedView } from "./dtypes.ts";
export { maxHeaderBytes, parseSafetensorsHeader, readHeaderLength, type SafetensorsEntry, type SafetensorsHeader } from "./header.ts";
export { parseSafetensors, type Safetensors, type SafetensorsTensor } from "./parse.ts";
