import activation from "../../shaders/activation.wgsl?raw";
import attentionDecode from "../../shaders/attention_decode.wgsl?raw";
import attentionPrefill from "../../shaders/attention_prefill.wgsl?raw";
import candidates from "../../shaders/candidates.wgsl?raw";
import embed from "../../shaders/embed.wgsl?raw";
import embedRow from "../../shaders/embed_row.wgsl?raw";
import gemm from "../../shaders/gemm.wgsl?raw";
import gemv from "../../shaders/gemv.wgsl?raw";
import gumbel from "../../shaders/gumbel.wgsl?raw";
import half from "../../shaders/half.wgsl?raw";
import kvAppend from "../../shaders/kv_append.wgsl?raw";
import kvCache from "../../shaders/kv_cache.wgsl?raw";
import kvShape from "../../shaders/kv_shape.wgsl?raw";
import kvWrite from "../../shaders/kv_write.wgsl?raw";
import finish from "../../shaders/finish.wgsl?raw";
import layerNorm from "../../shaders/layer_norm.wgsl?raw";
import loopBound from "../../shaders/loop_bound.wgsl?raw";
import matrix from "../../shaders/matrix.wgsl?raw";
import matrixShape from "../../shaders/matrix_shape.wgsl?raw";
import normalizer from "../../shaders/normalizer.wgsl?raw";
import output from "../../shaders/output.wgsl?raw";
import philox from "../../shaders/philox.wgsl?raw";
import prologue from "../../shaders/prologue.wgsl?raw";
import rowMoments from "../../shaders/row_moments.wgsl?raw";
import sample from "../../shaders/sample.wgsl?raw";
import sampling from "../../shaders/sampling.wgsl?raw";
import windowStart from "../../shaders/window_start.wgsl?raw";
import workgroupMax from "../../shaders/workgroup_max.wgsl?raw";
import workgroupSum from "../../shaders/workgroup_sum.wgsl?raw";
import step from "../../shaders/step.wgsl?raw";
import type { BindingKind, KernelSource } from "../gpu/pipeline.ts";

const pieces = {
  step,
  matrix_shape: matrixShape,
  matrix,
  loop_bound: loopBound,
  embed_row: embedRow,
  activation,
  finish,
  normalizer,
  output,
  prologue,
  row_moments: rowMoments,
  half,
  kv_shape: kvShape,
  kv_cache: kvCache,
  kv_append: kvAppend,
  window_start: windowStart,
  workgroup_sum: workgroupSum,
  workgroup_max: workgroupMax,
  sampling,
  candidates,
  philox,
  gumbel,
};

export function kernel(name: string, wgsl: string, ...bindings: BindingKind[]): KernelSource {
  return { name, wgsl, pieces, bindings };
}

/** A kernel that takes more pieces than those that most share. */
export function withPieces(source: KernelSource, more: KernelSource["pieces"]): KernelSource {
  return { ...source, pieces: { ...source.pieces, ...more } };
}

/** The kernels of loading and generating with what their group 0 binds, in the order of its WGSL header. */
export const kernels = {
  gemv: kernel("gemv", gemv, "step", "uniform", "read", "read", "read", "read", "read", "write"),
  head: kernel("gemv", gemv, "step", "uniform", "read", "read", "read", "read", "read", "write", "uniform", "read", "write"),
  gemm: kernel("gemm", gemm, "step", "uniform", "read", "read", "read", "read", "read", "write"),
  gemmOutliers: kernel("gemm", gemm, "step", "uniform", "read", "read", "read", "read", "read", "write", "read"),
  embed: kernel("embed", embed, "step", "uniform", "read", "read", "read", "read", "write"),
  layerNorm: kernel("layer_norm", layerNorm, "step", "uniform", "read", "read", "write"),
  kvWrite: kernel("kv_write", kvWrite, "step", "uniform", "read", "write", "write"),
  attentionDecode: kernel("attention_decode", attentionDecode, "step", "uniform", "read", "write", "write", "write"),
  attentionPrefill: kernel("attention_prefill", attentionPrefill, "step", "uniform", "read", "read", "read", "write"),
  sample: kernel("sample", sample, "step", "uniform", "uniform", "read", "read", "read", "read", "write", "write", "write"),
  sampleCandidates: kernel("sample", sample, "step", "uniform", "uniform", "read", "read", "read", "read", "write", "write", "write", "read"),
} as const;
