import { compareQuantizationsInWorker, inspectTensorInWorker, loadModelInWorker, openTokenizer } from "nibble-webgpu";

/** All that the panel asks of the engine. To run it elsewhere, name other functions of the same signatures here. */
export const engine = { compare: compareQuantizationsInWorker, load: loadModelInWorker, openTokenizer, inspect: inspectTensorInWorker };
