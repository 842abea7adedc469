import type { Gpt2Config } from "../types.ts";
import type { CheckpointTensor } from "./types.ts";

/** A tensor of the model with the shape it has in the file. */
export interface ExpectedTensor extends CheckpointTensor {
  readonly fileShape: readonly number[];
}

/** Whether recipes give the tensor a format; position embeddings, biases and norms stay f32. */
export function isMatrix<T extends CheckpointTensor>(tensor: T): tensor is T & { readonly kind: "linear" | "embedding" } {
  return tensor.kind === "linear" || tensor.kind === "embedding";
}

/** Every tensor of the model: embeddings, blocks in order, the final norm, then a head of its own where it is not tied. */
export function gpt2Weights(config: Gpt2Config): ExpectedTensor[] {
  const { nLayer, nEmbd: C, nInner, nPositions, vocabSize: V } = config;
  const tensors: ExpectedTensor[] = [];
  const matrix = (name: string, kind: "embedding" | "position", rows: number): void => {
    tensors.push({ name, kind, shape: [rows, C], fileShape: [rows, C] });
  };
  const vector = (name: string, length: number): void => {
    tensors.push({ name, kind: "vector", shape: [1, length], fileShape: [length] });
  };
  const norm = (name: string): void => {
    vector(`${name}.weight`, C);
    vector(`${name}.bias`, C);
  };
  // GPT-2's Conv1D keeps [inputs, outputs]; every kernel wants [outputs, inputs], so reading transposes, once and only here.
  const linear = (name: string, inputs: number, outputs: number): void => {
    tensors.push({ name: `${name}.weight`, kind: "linear", shape: [outputs, inputs], fileShape: [inputs, outputs] });
    vector(`${name}.bias`, outputs);
  };
  matrix("wte.weight", "embedding", V);
  matrix("wpe.weight", "position", nPositions);
  for (let i = 0; i < nLayer; i++) {
    norm(`h.${i}.ln_1`);
    linear(`h.${i}.attn.c_attn`, C, 3 * C);
    linear(`h.${i}.attn.c_proj`, C, C);
    norm(`h.${i}.ln_2`);
    linear(`h.${i}.mlp.c_fc`, C, nInner);
    linear(`h.${i}.mlp.c_proj`, nInner, C);
  }
  norm("ln_f");
  if (!config.tieWordEmbeddings) matrix("lm_head.weight", "embedding", V);
  return tensors;
}

/** The matrix that turns final hidden states into logits. */
export function headName({ tieWordEmbeddings }: Gpt2Config): string {
  return tieWordEmbeddings ? "wte.weight" : "lm_head.weight";
}

/** What a quantized matrix has beside its codes: bitsandbytes' state of a 4-bit one, scales and zero points of an int8 one. */
const companions = /^(.+\.weight)(\.absmax|\.quant_map|\.nested_absmax|\.nested_quant_map|\.quant_state\.bitsandbytes__\w{1,16}|_scale|_zero_point)$/;

/** The model's tensor that an entry of a file belongs to, and what of it: "" itself, else what follows its name. GPT2LMHeadModel saves "transformer.h.0…", GPT2Model "h.0…". */
export function splitName(fileName: string, headIsWte: boolean): { name: string; suffix: string } {
  const full = fileName.startsWith("transformer.") ? fileName.slice("transformer.".length) : fileName;
  const [, name = full, suffix = ""] = companions.exec(full) ?? [];
  return { name: headIsWte && name === "lm_head.weight" ? "wte.weight" : name, suffix };
}

/** The model's name of an entry of a file. */
export function modelName(fileName: string, headIsWte: boolean): string {
  const { name, suffix } = splitName(fileName, headIsWte);
  return name + suffix;
}

/** Whether, among all tensor names of a checkpoint, lm_head.weight stands for wte: of a shared tensor safetensors' save_model keeps one name. */
export function isHeadWte(fileNames: readonly string[], config: Gpt2Config): boolean {
  return config.tieWordEmbeddings && !fileNames.some((name) => modelName(name, false) === "wte.weight");
}

/** Tile edge of the transpose: two 32 × 32 tiles of f32 are 8 KB, well within any L1 cache. */
const tile = 32;

/** f32 or f16 bits [rows, columns] -> [columns, rows]. */
export function transpose<Values extends Float32Array | Uint16Array>(values: Values, rows: number, columns: number): Values {
  const result = values.slice() as Values; // an array of the same kind, to be overwritten
  for (let row0 = 0; row0 < rows; row0 += tile) {
    const row1 = Math.min(row0 + tile, rows);
    for (let column0 = 0; column0 < columns; column0 += tile) {
      const column1 = Math.min(column0 + tile, columns);
      for (let column = column0; column < column1; column++) {
        for (let row = row0; row < row1; row++) result[column * rows + row] = values[row * columns + column]!;
      }
    }
  }
  return result;
}
