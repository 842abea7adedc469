import { gpt2Weights } from "../../checkpoint/gpt2Weights.ts";
import type { CheckpointTensor } from "../../checkpoint/types.ts";
import type { Shortage, TensorFormat } from "../../types.ts";
import type { BackendOptions } from "../backend.ts";
import { type MemoryPlan, noBytes, withTotal } from "../plan.ts";
import { createArrays, createCaches } from "./arrays.ts";
import { countArrays } from "./kernels.ts";
import { plainMatrixBytes, simdMatrixBytes } from "./matrixBytes.ts";
import { plainKernels } from "./plain.ts";
import { MATRICES_LIMIT_BYTES, OWN_ARRAY_BYTES } from "./simd.ts";
import { compiledLoops } from "./simd/loops.ts";
import { MEMORY_LIMIT_BYTES, memoryBytes } from "./simd/memory.ts";

/** The longest ArrayBuffer that every browser makes. */
const ARRAY_LIMIT_BYTES = 2 ** 32;

const sum = (bytes: readonly number[]): number => bytes.reduce((total, each) => total + each, 0);

/** @param simd whether the loops are WebAssembly's, in whose memory most arrays lie */
export function planCpu(options: BackendOptions, formatOf: (tensor: CheckpointTensor) => TensorFormat, simd = compiledLoops() !== null): MemoryPlan {
  const { config, contextLength } = options;
  const memory = noBytes();
  const inMemory = simd ? [...OWN_ARRAY_BYTES] : [];
  let countedBytes = 0; // of those in the WebAssembly memory that are counted by purpose
  const others: { what: string; bytes: number }[] = [];
  for (const tensor of gpt2Weights(config)) {
    const { name, kind, shape } = tensor;
    if (kind === "vector") memory.scales += 4 * shape[1];
    else if (kind === "position") memory.embedding += 4 * contextLength * shape[1];
    else {
      const format = formatOf(tensor);
      const { arrayBytes, ...there } = simdMatrixBytes(format, shape);
      const isThere = simd && memoryBytes([...inMemory, ...arrayBytes]) <= MATRICES_LIMIT_BYTES;
      const { codeBytes, scaleBytes } = isThere ? there : plainMatrixBytes(format, shape);
      memory[kind === "linear" ? "weights" : "embedding"] += codeBytes;
      memory.scales += scaleBytes;
      if (isThere) {
        inMemory.push(...arrayBytes);
        countedBytes += codeBytes + scaleBytes;
      } else others.push({ what: name, bytes: codeBytes });
    }
  }
  const arrays = countArrays(plainKernels, (kernels) => createArrays(kernels, options));
  memory.kvCache = sum(countArrays(plainKernels, (kernels) => createCaches(kernels, options)));
  memory.activations = sum(arrays) - memory.kvCache;
  const shortages: Shortage[] = [];
  if (simd) {
    const needBytes = memoryBytes([...inMemory, ...arrays]);
    memory.staging = needBytes - countedBytes - sum(arrays);
    if (needBytes > MEMORY_LIMIT_BYTES) shortages.push({ what: "the memory of the WebAssembly loops", needBytes, limitBytes: MEMORY_LIMIT_BYTES, limit: "WebAssembly.Memory" });
  } else others.push(...arrays.map((bytes) => ({ what: "an array of the KV cache or the activations", bytes })));
  const longest = others.reduce((most, each) => (each.bytes > most.bytes ? each : most), { what: "", bytes: 0 });
  if (longest.bytes > ARRAY_LIMIT_BYTES) shortages.push({ what: longest.what, needBytes: longest.bytes, limitBytes: ARRAY_LIMIT_BYTES, limit: "ArrayBuffer" });
  return { memory: withTotal(memory), shortages };
}
