/** Reads checkpoints for the oracle without any of the engine's own reading code: a second opinion on names, dtypes and transposes. */
import { toHalfBits } from "../../src/quantize/half.ts";
import { assembleTensor, dequantizeTensor, quantizeTensor } from "../../src/quantize/nearest.ts";
import { formatOf } from "../../src/quantize/recipes.ts";
import { packFor } from "../../src/quantize/packFor.ts";
import type { CheckpointTensor } from "../../src/checkpoint/types.ts";
import type { BackendBuilder } from "../../src/model/backend.ts";
import type { Activation, Gpt2Config, QuantizationRecipe, QuantizedTensor } from "../../src/types.ts";
import { type ReferenceOptions, type ReferenceTensor, type ReferenceWeights, roundToCodes, roundToF16 } from "./gpt2.ts";

export interface ReferenceCheckpoint {
  config: Gpt2Config;
  weights: ReferenceWeights;
}

/** A checkpoint given as file name -> content: config.json and one or more .safetensors. */
export function referenceCheckpoint(files: Readonly<Record<string, Uint8Array>>): ReferenceCheckpoint {
  const json = JSON.parse(new TextDecoder().decode(files["config.json"])) as Record<string, unknown>;
  const nEmbd = json.n_embd as number;
  const config: Gpt2Config = {
    nLayer: json.n_layer as number,
    nHead: json.n_head as number,
    nEmbd,
    nInner: (json.n_inner as number | null | undefined) ?? 4 * nEmbd,
    nPositions: json.n_positions as number,
    vocabSize: json.vocab_size as number,
    layerNormEpsilon: (json.layer_norm_epsilon as number | undefined) ?? 1e-5,
    activation: (json.activation_function as Activation | undefined) ?? "gelu_new",
    scaleAttnWeights: (json.scale_attn_weights as boolean | undefined) ?? true,
    scaleAttnByInverseLayerIdx: (json.scale_attn_by_inverse_layer_idx as boolean | undefined) ?? false,
    tieWordEmbeddings: (json.tie_word_embeddings as boolean | undefined) ?? true,
    bosTokenId: (json.bos_token_id as number | null | undefined) ?? null,
    eosTokenId: (json.eos_token_id as number | null | undefined) ?? null,
  };
  const weights = new Map<string, ReferenceTensor>();
  for (const [fileName, bytes] of Object.entries(files)) {
    if (!fileName.endsWith(".safetensors")) continue;
    for (const [fullName, tensor] of readSafetensors(bytes)) {
      const name = fullName.replace(/^transformer\./, "");
      if (/\.attn\.(bias|masked_bias)$/.test(name)) continue; // the causal mask
      weights.set(name, tensorKind(name) === "linear" ? transposed(tensor) : tensor);
    }
  }
  return { config, weights };
}

/**
 * The weights as a recipe stores them: matrices quantized and restored, the rest as they are. Kernels are judged against the oracle on these.
 * f16Columns: of each layer's matrices behind a norm, rounded to f16 instead; right where all their inputs are outliers.
 */
export function dequantizedWeights(weights: ReferenceWeights, recipe: QuantizationRecipe, f16Columns: readonly number[] = []): ReferenceWeights {
  return new Map(
    [...weights].map(([name, tensor]) => {
      const kind = tensorKind(name);
      if (kind !== "linear" && kind !== "embedding") return [name, tensor];
      const stored = quantized(name, kind, tensor, recipe, f16Columns);
      const values = dequantizeTensor(stored);
      if (stored.f16Columns) tensor.values.forEach((value, i) => f16Columns.includes(i % stored.shape[1]) && (values[i] = roundToF16(value)));
      return [name, { shape: tensor.shape, values }];
    }),
  );
}

function quantized(name: string, kind: "linear" | "embedding", tensor: ReferenceTensor, recipe: QuantizationRecipe, f16Columns: readonly number[]): QuantizedTensor {
  const values = Float32Array.from(tensor.values);
  const [rows, columns] = matrixShape(tensor);
  const stored = quantizeTensor(values, [rows, columns], formatOf(recipe, name, kind));
  if (f16Columns.length === 0 || !/c_attn|c_fc/.test(name)) return stored;
  const kept = values.filter((_, i) => f16Columns.includes(i % columns));
  return assembleTensor(stored.format, stored.shape, { ...stored, f16Columns: { columns: Uint32Array.from(f16Columns), weights: toHalfBits(kept).bits } });
}

/** Static ranges of int8 activations, by the matrix that takes them. */
export type InputRanges = Readonly<Record<string, number>>;

/** What a recipe's int8 activations do to the inputs of its int8 matrices; see `ReferenceOptions.inputRounding`. */
export function inputRoundingOf(recipe: QuantizationRecipe, ranges: InputRanges = {}): ReferenceOptions["inputRounding"] {
  return (values, name) => {
    const { type } = formatOf(recipe, name, tensorKind(name) === "embedding" ? "embedding" : "linear");
    if (type === "int8") roundToCodes(values, { range: ranges[name], outlierThreshold: recipe.outlierThreshold });
  };
}

/** Feeds a builder as the loader does, so that backends are tested without it. */
export async function addReferenceWeights(builder: BackendBuilder, weights: ReferenceWeights, recipe: QuantizationRecipe, ranges: InputRanges = {}, f16Columns: readonly number[] = []): Promise<void> {
  for (const [name, tensor] of weights) {
    const kind = tensorKind(name);
    const values = kind === "linear" || kind === "embedding" ? packFor(builder.layout, quantized(name, kind, tensor, recipe, f16Columns)) : Float32Array.from(tensor.values);
    await builder.add({ name, kind, shape: matrixShape(tensor) }, values, { range: ranges[name] });
  }
}

export function tensorKind(name: string): CheckpointTensor["kind"] {
  if (name === "wte.weight" || name === "lm_head.weight") return "embedding";
  if (name === "wpe.weight") return "position";
  return /\.(c_attn|c_proj|c_fc)\.weight$/.test(name) ? "linear" : "vector";
}

function matrixShape({ shape }: ReferenceTensor): [rows: number, columns: number] {
  return shape.length === 1 ? [1, shape[0]!] : [shape[0]!, shape[1]!];
}

/** Conv1D's [inputs, outputs] as [outputs, inputs]. */
function transposed({ shape, values }: ReferenceTensor): ReferenceTensor {
  const [inputs, outputs] = [shape[0]!, shape[1]!];
  const turned = new Float32Array(values.length);
  for (let i = 0; i < inputs; i++) for (let o = 0; o < outputs; o++) turned[o * inputs + i] = values[i * outputs + o]!;
  return { shape: [outputs, inputs], values: turned };
}

/** All floating-point tensors of a well-formed file as f32; f64 narrows, as in the engine. */
function* readSafetensors(bytes: Uint8Array): Generator<[name: string, tensor: ReferenceTensor]> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const headerBytes = Number(view.getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + headerBytes))) as Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    const read = elementReaders[dtype];
    if (name === "__metadata__" || !read) continue;
    const values = new Float32Array(shape.reduce((product, n) => product * n, 1));
    const begin = 8 + headerBytes + data_offsets[0];
    const elementBytes = (data_offsets[1] - data_offsets[0]) / values.length;
    for (let i = 0; i < values.length; i++) values[i] = read(view, begin + i * elementBytes);
    yield [name, { shape, values }];
  }
}

const elementReaders: Readonly<Record<string, (view: DataView, offset: number) => number>> = {
  F64: (view, offset) => view.getFloat64(offset, true),
  F32: (view, offset) => view.getFloat32(offset, true),
  BF16: (view, offset) => bf16ToNumber(view.getUint16(offset, true)),
  F16: (view, offset) => f16ToNumber(view.getUint16(offset, true)),
};

/** A bfloat16 is the upper half of an f32. */
function bf16ToNumber(bits: number): number {
  return new Float32Array(Uint32Array.of(bits << 16).buffer)[0]!;
}

function f16ToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}
