import { gpt2Weights, headName, isMatrix } from "../checkpoint/gpt2Weights.ts";
import type { CheckpointTensor } from "../checkpoint/types.ts";
import { BufferUsage } from "../gpu/constants.ts";
import { type BufferMaker, CountedBuffers, type MemoryPurpose } from "../gpu/device.ts";
import type { Variants } from "../gpu/pipeline.ts";
import { cacheBytes, headChunks, maxSplits, type AttentionForm } from "../kernels/attention.ts";
import { candidateBytes, codeRowBytes, fitsPrologue } from "../kernels/linear.ts";
import { createMatrixBuffers, weightUsage } from "../kernels/matrix.ts";
import { COLUMN_PADDING, packedLayout, padTo } from "../quantize/pack.ts";
import type { Gpt2Config, Shortage, TensorFormat } from "../types.ts";
import type { BackendOptions } from "./backend.ts";
import { createLoopBuffers, STEPS_BYTES } from "./decodeLoop.ts";
import { type MemoryPlan, noBytes, withTotal } from "./plan.ts";

/** Tokens per prefill submit: bounds the time of one dispatch (drivers reset after about 2 s) and the activations. */
const CHUNK_TOKENS = 256;

const { storage, uniform, copySrc, copyDst, mapRead } = BufferUsage;

/** f32s per row of each activation: widths padded so that a row is whole 32-value chunks, the padding zero. */
export function stridesOf(config: Gpt2Config): { c: number; qkv: number; inner: number; vocabulary: number } {
  return {
    c: padTo(config.nEmbd, COLUMN_PADDING),
    qkv: padTo(3 * config.nEmbd, COLUMN_PADDING),
    inner: padTo(config.nInner, COLUMN_PADDING),
    vocabulary: padTo(config.vocabSize, COLUMN_PADDING),
  };
}

export function attentionForm({ config, contextLength, kvCache }: BackendOptions): AttentionForm {
  return { heads: config.nHead, headSize: config.nEmbd / config.nHead, positions: contextLength, kv: kvCache };
}

/** f32 [contextLength, C padded] */
export function createPositionBuffer(gpu: BufferMaker, { config, contextLength }: BackendOptions): GPUBuffer {
  return gpu.createBuffer("wpe", contextLength * stridesOf(config).c * 4, weightUsage, "embedding");
}

export interface LayerBuffers {
  /** Norm and bias in front of or in each matrix: f32 gamma [C padded], beta [C padded], bias [N padded to 4]. */
  attnAux: GPUBuffer;
  projAux: GPUBuffer;
  fcAux: GPUBuffer;
  mlpProjAux: GPUBuffer;
  /** See AttentionBuffers. */
  cache: GPUBuffer;
  kvScales: GPUBuffer;
  shape: GPUBuffer;
}

/** Everything that the graph of a model has on the device beside its matrices and wpe. T = chunkTokens. */
export interface GraphBuffers {
  chunkTokens: number;
  /** Uniform Steps, STEPS_BYTES. */
  step: GPUBuffer;
  /** u32 [T] */
  tokens: GPUBuffer;
  /** f32 [V padded] */
  logits: GPUBuffer;
  /** f32 [V padded], to be mapped */
  staging: GPUBuffer;
  /** f32 [contextLength, C padded] */
  hidden: GPUBuffer;
  /** Bound where a kernel reads nothing. */
  none: GPUBuffer;
  /** f32 [T, C padded] each */
  x: GPUBuffer;
  x2: GPUBuffer;
  normed: GPUBuffer;
  mixed: GPUBuffer;
  /** f32 [T, 3C padded] */
  qkv: GPUBuffer;
  /** f32 [T, nInner padded] */
  inner: GPUBuffer;
  /** Where activations are int8: rows of codeRowBytes(), T of the widest and contextLength of the final hidden states. */
  xCodes: GPUBuffer | undefined;
  hiddenCodes: GPUBuffer | undefined;
  /** See AttentionBuffers.y of decode. */
  partials: GPUBuffer;
  layers: readonly LayerBuffers[];
  /** gamma and beta of ln_f */
  finalAux: GPUBuffer;
}

export function createGraphBuffers(gpu: BufferMaker, options: BackendOptions): GraphBuffers {
  const { config, contextLength } = options;
  const { nHead: H, nEmbd: C, nInner, nLayer } = config;
  const chunkTokens = Math.min(CHUNK_TOKENS, contextLength);
  const strides = stridesOf(config);
  const form = attentionForm(options);
  const withCodes = options.activations === "int8";
  const withOutliers = options.outlierThreshold !== undefined;
  const make = (label: string, sizeBytes: number, usage: number = storage, purpose: MemoryPurpose = "activations"): GPUBuffer => gpu.createBuffer(label, sizeBytes, usage, purpose);
  const rows = (label: string, stride: number): GPUBuffer => make(label, chunkTokens * stride * 4);
  const aux = (label: string, hasNorm: boolean, outputs: number): GPUBuffer => make(`${label}.aux`, ((hasNorm ? 2 * strides.c : 0) + padTo(outputs, 4)) * 4, storage | copyDst, "scales");
  const layer = (h: string): LayerBuffers => {
    const bytes = cacheBytes(form);
    return {
      attnAux: aux(`${h}.attn`, true, 3 * C),
      projAux: aux(`${h}.attn.c_proj`, false, C),
      fcAux: aux(`${h}.mlp`, true, nInner),
      mlpProjAux: aux(`${h}.mlp.c_proj`, false, C),
      cache: make(`${h}.kv`, bytes.cache, storage, "kvCache"),
      kvScales: make(bytes.scales > 0 ? `${h}.kv.scales` : `${h}.kv.none`, bytes.scales, storage, "kvCache"),
      shape: make(`${h}.attn.shape`, 32, uniform | copyDst),
    };
  };
  return {
    chunkTokens,
    step: make("steps", STEPS_BYTES, uniform | copyDst),
    tokens: make("tokens", chunkTokens * 4, storage | copyDst),
    logits: make("logits", strides.vocabulary * 4, storage | copySrc),
    staging: make("logits.staging", strides.vocabulary * 4, mapRead | copyDst, "staging"),
    hidden: make("hidden", contextLength * strides.c * 4),
    none: make("none", 16),
    x: rows("x", strides.c),
    x2: rows("x2", strides.c),
    normed: rows("normed", strides.c),
    mixed: rows("mixed", strides.c),
    qkv: rows("qkv", strides.qkv),
    inner: rows("inner", strides.inner),
    xCodes: withCodes ? make("codes", chunkTokens * codeRowBytes(Math.max(C, nInner), withOutliers)) : undefined,
    hiddenCodes: withCodes ? make("hidden.codes", contextLength * codeRowBytes(C, withOutliers)) : undefined,
    partials: make("attention.partials", H * maxSplits(contextLength) * (headChunks(form.headSize) + 1) * 16),
    layers: Array.from({ length: nLayer }, (_, i) => layer(`h.${i}`)),
    finalAux: aux("ln_f", true, 0),
  };
}

/** What decides on the buffers of a model. */
export interface GpuTraits {
  limits: Pick<GPUSupportedLimits, "maxBufferSize" | "maxStorageBufferBindingSize">;
  variants: Pick<Variants, "tuning" | "gemv">;
}

/** Tuning, which waits for the weights, may choose kernels whose buffer of candidates for the next token is larger or smaller: at most 8 V bytes. */
export function planGpu(options: BackendOptions, formatOf: (tensor: CheckpointTensor) => TensorFormat, { limits: { maxBufferSize, maxStorageBufferBindingSize }, variants }: GpuTraits): MemoryPlan {
  const { config, contextLength } = options;
  const counted = new CountedBuffers();
  let wteParts: readonly unknown[] = [];
  let headParts: readonly unknown[] = [];
  for (const tensor of gpt2Weights(config)) {
    if (tensor.kind === "position") createPositionBuffer(counted, options);
    if (!isMatrix(tensor)) continue;
    const { parts } = packedLayout({ format: formatOf(tensor), shape: tensor.shape }, Math.min(maxBufferSize, maxStorageBufferBindingSize));
    for (const part of parts) createMatrixBuffers(counted, tensor.name, part, tensor.kind === "linear" ? "weights" : "embedding");
    if (tensor.name === "wte.weight") wteParts = parts;
    if (tensor.name === headName(config)) headParts = parts;
  }
  createGraphBuffers(counted, options);
  if (fitsPrologue(config.nEmbd, options) && wteParts.length === 1) createLoopBuffers(counted, config.vocabSize, contextLength, candidateBytes({ variants }, { rows: config.vocabSize, parts: headParts }));

  const memory = noBytes();
  const shortages: Shortage[] = [];
  for (const { label, size, purpose, isMapped } of counted.buffers) {
    memory[purpose] += size;
    const limit = size > maxBufferSize ? "maxBufferSize" : size > maxStorageBufferBindingSize && !isMapped ? "maxStorageBufferBindingSize" : null;
    if (limit === null || shortages.some((found) => found.limit === limit && found.needBytes === size)) continue; // each layer has the same
    shortages.push({ what: `buffer "${label}"`, needBytes: size, limitBytes: limit === "maxBufferSize" ? maxBufferSize : maxStorageBufferBindingSize, limit });
  }
  return { memory: withTotal(memory), shortages };
}
