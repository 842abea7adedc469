export { EngineError, type EngineErrorCode } from "./errors.ts";
export { compareQuantizations } from "./load/compareQuantizations.ts";
export { loadModel } from "./load/loadModel.ts";
export { quantizationError, type QuantizationError } from "./quantize/error.ts";
export { describeFormat } from "./quantize/formats.ts";
export { type HistogramOptions, weightHistogram } from "./quantize/histogram.ts";
export { dequantizeTensor, quantizeTensor } from "./quantize/nearest.ts";
export { presets } from "./quantize/recipes.ts";
export type * from "./types.ts";
