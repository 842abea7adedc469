import { gpt2Weights } from "../../checkpoint/gpt2Weights.ts";
import type { CheckpointTensor } from "../../checkpoint/types.ts";
import { EngineError } from "../../errors.ts";
import type { PackedRows } from "../../quantize/packRows.ts";
import type { Gpt2Config } from "../../types.ts";
import type { BackendOptions, MatrixInput } from "../backend.ts";
import { BorrowedMatrix } from "./borrowed.ts";
import type { CpuKernels, CpuMatrix } from "./kernels.ts";

export interface Norm {
  weight: Float32Array; // f32 [C]
  bias: Float32Array; // f32 [C]
}
export interface Linear {
  matrix: CpuMatrix; // [O, K]
  bias: Float32Array; // f32 [O]
}
export interface Layer {
  ln1: Norm;
  cAttn: Linear;
  attnCProj: Linear;
  ln2: Norm;
  cFc: Linear;
  mlpCProj: Linear;
}
export interface CpuWeights {
  wte: CpuMatrix; // [V, C]
  wpe: Float32Array; // f32 [contextLength, C]
  layers: Layer[];
  lnF: Norm;
  /** [V, C]: wte where the embeddings are tied. */
  head: CpuMatrix;
  /** Of what the model owns. */
  bytes: { weights: number; embedding: number; scales: number };
  /** All of the above by their names. */
  matrices: ReadonlyMap<string, CpuMatrix>;
  vectors: ReadonlyMap<string, Float32Array>;
}

/** Weights of another model, and the scratch that its loops restore rows into. */
export interface Lender {
  weights: CpuWeights;
  block: Float32Array; // f32 [BLOCK_ROWS, longest row padded]
}

/** Takes the tensors of one checkpoint in any order, each once. */
export class CpuWeightsCollector {
  private readonly kernels: CpuKernels;
  private readonly outlierThreshold: number | null; // null: activations stay f32
  private readonly config: Gpt2Config;
  private readonly contextLength: number;
  private readonly expected: ReadonlyMap<string, CheckpointTensor>;
  private readonly matrices = new Map<string, CpuMatrix>();
  private readonly vectors = new Map<string, Float32Array>(); // f32, position embeddings too
  private readonly bytes = { weights: 0, embedding: 0, scales: 0 };

  constructor(kernels: CpuKernels, { config, contextLength, activations = "float", outlierThreshold = Infinity }: Pick<BackendOptions, "config" | "contextLength" | "activations" | "outlierThreshold">) {
    this.kernels = kernels;
    this.outlierThreshold = activations === "int8" ? Math.fround(outlierThreshold) : null;
    this.config = config;
    this.contextLength = contextLength;
    this.expected = new Map(gpt2Weights(config).map((tensor) => [tensor.name, tensor]));
  }

  /** @throws EngineError `checkpoint` for a tensor that the config does not call for, has another shape, or came before */
  add({ name, kind, shape }: CheckpointTensor, values: PackedRows | Float32Array, { range = 0 }: MatrixInput = {}): void {
    const expected = this.expected.get(name);
    if (!expected) throw new EngineError("checkpoint", `Tensor "${name}" is not part of a GPT-2 with ${this.config.nLayer} layers.`, { tensor: name });
    if (this.matrices.has(name) || this.vectors.has(name)) throw new EngineError("checkpoint", `Tensor "${name}" came twice; expected it once.`, { tensor: name });
    const isMatrix = !(values instanceof Float32Array);
    const found = isMatrix ? values.shape : shape;
    if (kind !== expected.kind || found[0] !== expected.shape[0] || found[1] !== expected.shape[1] || (!isMatrix && values.length !== shape[0] * shape[1])) {
      const message = `Tensor "${name}" came as ${kind} [${found.join(", ")}]; expected ${expected.kind} [${expected.shape.join(", ")}].`;
      throw new EngineError("checkpoint", message, { tensor: name, found, expected: expected.shape });
    }
    if (isMatrix) {
      const { outlierThreshold } = this;
      const matrix = this.kernels.createMatrix(values, outlierThreshold === null ? null : { range: Math.fround(range), outlierThreshold });
      this.matrices.set(name, matrix);
      this.bytes[kind === "linear" ? "weights" : "embedding"] += matrix.codeBytes;
      this.bytes.scales += matrix.scaleBytes;
    } else {
      const kept = kind === "position" ? values.slice(0, this.contextLength * this.config.nEmbd) : values.slice();
      this.vectors.set(name, kept);
      this.bytes[kind === "position" ? "embedding" : "scales"] += kept.byteLength;
    }
  }

  /** What was not added comes from the lender. @throws EngineError `checkpoint` naming what is missing */
  finish(lender?: Lender): CpuWeights {
    for (const [name, matrix] of lender?.weights.matrices ?? []) if (!this.matrices.has(name)) this.matrices.set(name, new BorrowedMatrix(matrix, lender!.block, this.kernels));
    for (const [name, vector] of lender?.weights.vectors ?? []) if (!this.vectors.has(name)) this.vectors.set(name, vector);
    const missing = [...this.expected.keys()].filter((name) => !this.matrices.has(name) && !this.vectors.has(name));
    if (missing.length > 0) {
      const others = missing.length > 1 ? ` So are ${missing.length - 1} others.` : "";
      throw new EngineError("checkpoint", `Tensor "${missing[0]}" is missing; expected ${this.expected.size} tensors.${others}`, { missing });
    }
    const norm = (name: string): Norm => ({ weight: this.vectors.get(`${name}.weight`)!, bias: this.vectors.get(`${name}.bias`)! });
    const linear = (name: string): Linear => ({ matrix: this.matrices.get(`${name}.weight`)!, bias: this.vectors.get(`${name}.bias`)! });
    const wte = this.matrices.get("wte.weight")!;
    return {
      wte,
      wpe: this.vectors.get("wpe.weight")!,
      layers: Array.from({ length: this.config.nLayer }, (_, layer) => ({
        ln1: norm(`h.${layer}.ln_1`),
        cAttn: linear(`h.${layer}.attn.c_attn`),
        attnCProj: linear(`h.${layer}.attn.c_proj`),
        ln2: norm(`h.${layer}.ln_2`),
        cFc: linear(`h.${layer}.mlp.c_fc`),
        mlpCProj: linear(`h.${layer}.mlp.c_proj`),
      })),
      lnF: norm("ln_f"),
      head: this.matrices.get("lm_head.weight") ?? wte,
      bytes: this.bytes,
      matrices: this.matrices,
      vectors: this.vectors,
    };
  }

  /** Drops what was added. */
  clear(): void {
    this.matrices.clear();
    this.vectors.clear();
  }
}
