import { parseSafetensors, toFloat32 } from "../../../src/safetensors/index.ts";
import type { ModelFiles } from "../nibbleSubject.ts";
import { OnnxGraph } from "./onnx.ts";

/**
 * q8, q4: 8 or 4 bits in blocks of 32 with f32 activations (the embedding, which is the head too, in 8 bits in both, as in our presets).
 * q8-dynamic: int8 weights and int8 activations, whose range is found anew for each matrix product.
 */
export const onnxFormats = ["q8", "q4", "q8-dynamic"] as const;
export type OnnxFormat = (typeof onnxFormats)[number];

/** The fields of config.json that the graph depends on. */
export interface OnnxShape {
  n_layer: number;
  n_head: number;
  n_embd: number;
  n_positions: number;
  vocab_size: number;
  layer_norm_epsilon: number;
}

const BLOCK = 32;
/** MatMulNBits: let the kernel quantize activations to int8 where it is faster so. What onnxruntime's own converters choose. */
const ACCURACY_INT8 = 4;

export function readShape(files: ModelFiles): OnnxShape {
  return JSON.parse(new TextDecoder().decode(files["config.json"])) as OnnxShape;
}

/**
 * A GPT-2 checkpoint (gelu_new, tied head) as an ONNX model in the form that is fastest in onnxruntime: its own fused operators, cache in and
 * out, logits of the last position only.
 * Inputs: tokens and positions i64 [1, T]; past.i.key and past.i.value f32 [1, H, S, D] for each layer; lastPosition i32 [1] = S + T − 1;
 * positionCount i32 [] = S + T. Outputs: logits f32 [1, 1, V]; present.i.key and present.i.value f32 [1, H, S + T, D].
 */
export function gpt2Onnx(files: ModelFiles, format: OnnxFormat): Uint8Array<ArrayBuffer> {
  const { n_layer: L, n_head: H, n_embd: C, n_positions, vocab_size: V, layer_norm_epsilon: epsilon } = readShape(files);
  const D = C / H;
  const { tensors } = parseSafetensors(files["model.safetensors"]!);
  const graph = new OnnxGraph();

  const read = (name: string): Float32Array => {
    const tensor = tensors.get(name);
    if (!tensor) throw new Error(`Tensor "${name}" is missing; expected a checkpoint without the prefix "transformer.".`);
    return toFloat32(tensor.bytes, tensor.dtype);
  };
  const vector = (name: string): string => {
    const values = read(name);
    return graph.constant(name, [values.length], values);
  };
  const norm = (name: string): [gamma: string, beta: string] => [vector(`${name}.weight`), vector(`${name}.bias`)];

  /** x · Wᵀ for W f32 [N, K]; a MatMulInteger takes it as [K, N]. */
  const matmul = (x: string, name: string, N: number, K: number, weights: { outputsFirst: () => Float32Array; inputsFirst: () => Float32Array }, bits: 4 | 8): string => {
    if (format !== "q8-dynamic") {
      const { codes, scales } = quantizeBlocks(weights.outputsFirst(), bits);
      const constants = [graph.constant(`${name}.codes`, [N, K / BLOCK, (BLOCK * bits) / 8], codes), graph.constant(`${name}.scales`, [N, K / BLOCK], scales)];
      return graph.node("MatMulNBits", [x, ...constants], { contrib: true, ints: { K, N, bits, block_size: BLOCK, accuracy_level: ACCURACY_INT8 } });
    }
    const { codes, scale } = quantizeTensorwise(weights.inputsFirst());
    const [quantized, xScale, xZero] = [`${name}.x`, `${name}.x.scale`, `${name}.x.zero`];
    graph.node("DynamicQuantizeLinear", [x], { outputs: [quantized, xScale, xZero] });
    const product = graph.node("MatMulInteger", [quantized, graph.constant(`${name}.codes`, [K, N], codes), xZero]);
    const scales = graph.node("Mul", [xScale, graph.constant(`${name}.scale`, [], Float32Array.of(scale))]);
    return graph.node("Mul", [graph.node("Cast", [product], { ints: { to: 1 /* float32 */ } }), scales]);
  };
  /** A Conv1D, whose weight lies as [inputs, outputs]. */
  const linear = (x: string, name: string, N: number, K: number): string => {
    const weight = read(`${name}.weight`);
    return matmul(x, name, N, K, { outputsFirst: () => transpose(weight, K, N), inputsFirst: () => weight }, format === "q4" ? 4 : 8);
  };

  graph.input("tokens", "int64", [1, "T"]);
  graph.input("positions", "int64", [1, "T"]);
  graph.input("lastPosition", "int32", [1]);
  graph.input("positionCount", "int32", []);

  const wte = read("wte.weight");
  let embedded: string;
  if (format === "q8-dynamic") {
    const { codes, scale } = quantizeTensorwise(wte);
    const rows = graph.node("Gather", [graph.constant("wte.codes", [V, C], codes), "tokens"]);
    embedded = graph.node("DequantizeLinear", [rows, graph.constant("wte.scale", [], Float32Array.of(scale))]);
  } else {
    const { codes, scales } = quantizeBlocks(wte, 8);
    const constants = [graph.constant("wte.codes", [V, C], codes), graph.constant("wte.scales", [V, C / BLOCK], scales)];
    embedded = graph.node("GatherBlockQuantized", [constants[0]!, "tokens", constants[1]!], { contrib: true, ints: { bits: 8, block_size: BLOCK, gather_axis: 0, quantize_axis: 1 } });
  }
  let residual = graph.node("Add", [embedded, graph.node("Gather", [graph.constant("wpe", [n_positions, C], read("wpe.weight")), "positions"])]);
  let normed = graph.node("LayerNormalization", [residual, ...norm("h.0.ln_1")], { ints: { axis: -1 }, floats: { epsilon } });

  for (let i = 0; i < L; i++) {
    const layer = `h.${i}`;
    /** residual += x + bias, and the layer norm of the sum. */
    const addAndNorm = (x: string, biasName: string, normName: string): void => {
      const outputs = [`${normName}.y`, "", "", `${normName}.x`];
      normed = graph.node("SkipLayerNormalization", [x, residual, ...norm(normName), vector(biasName)], { contrib: true, outputs, floats: { epsilon } });
      residual = outputs[3]!;
    };
    const past = ["key", "value"].map((part) => graph.input(`past.${i}.${part}`, "float32", [1, H, "S", D]));
    const present = [`present.${i}.key`, `present.${i}.value`];
    for (const name of present) graph.output(name, "float32", [1, H, "S + T", D]);

    const qkv = graph.node("Add", [linear(normed, `${layer}.attn.c_attn`, 3 * C, C), vector(`${layer}.attn.c_attn.bias`)]);
    const attention = graph.node("GroupQueryAttention", [qkv, "", "", ...past, "lastPosition", "positionCount"], {
      contrib: true,
      outputs: [`${layer}.attn`, ...present],
      ints: { num_heads: H, kv_num_heads: H },
    });
    addAndNorm(linear(attention, `${layer}.attn.c_proj`, C, C), `${layer}.attn.c_proj.bias`, `${layer}.ln_2`);
    const inner = graph.node("FastGelu", [linear(normed, `${layer}.mlp.c_fc`, 4 * C, C), vector(`${layer}.mlp.c_fc.bias`)], { contrib: true });
    addAndNorm(linear(inner, `${layer}.mlp.c_proj`, C, 4 * C), `${layer}.mlp.c_proj.bias`, i + 1 < L ? `h.${i + 1}.ln_1` : "ln_f");
  }

  const ranges = [-1, Number.MAX_SAFE_INTEGER, 1].map((value, i) => graph.constant(`last.${i}`, [1], BigInt64Array.of(BigInt(value))));
  const last = graph.node("Slice", [normed, ...ranges]);
  const logits = matmul(last, "head", V, C, { outputsFirst: () => wte, inputsFirst: () => transpose(wte, V, C) }, 8);
  graph.node("Identity", [logits], { outputs: ["logits"] });
  graph.output("logits", "float32", [1, 1, V]);
  return graph.toModel();
}

/** [columns, rows] of a matrix [rows, columns]. */
export function transpose(values: Float32Array, rows: number, columns: number): Float32Array {
  const turned = new Float32Array(values.length);
  const STEP = 32; // rows at a time, so that what is written stays in the processor's cache
  for (let begin = 0; begin < rows; begin += STEP) {
    const end = Math.min(rows, begin + STEP);
    for (let c = 0; c < columns; c++) for (let r = begin; r < end; r++) turned[c * rows + r] = values[r * columns + c]!;
  }
  return turned;
}

/** Symmetric blocks of 32 as MatMulNBits has them: codes are offset by half the range; of 4-bit codes the lower nibble comes first. */
export function quantizeBlocks(values: Float32Array, bits: 4 | 8): { codes: Uint8Array; scales: Float32Array } {
  const middle = 2 ** (bits - 1);
  const scales = new Float32Array(values.length / BLOCK);
  const codes = new Uint8Array((values.length * bits) / 8);
  for (let block = 0; block < scales.length; block++) {
    const begin = block * BLOCK;
    let largest = 0;
    for (let i = begin; i < begin + BLOCK; i++) largest = Math.max(largest, Math.abs(values[i]!));
    scales[block] = largest / (middle - 1);
    const inverse = largest > 0 ? (middle - 1) / largest : 0;
    for (let i = begin; i < begin + BLOCK; i++) {
      const code = Math.round(values[i]! * inverse) + middle;
      if (bits === 8) codes[i] = code;
      else codes[i >> 1]! |= code << (4 * (i & 1));
    }
  }
  return { codes, scales };
}

/** One scale for the whole tensor, as onnxruntime's quantizer does by default. */
function quantizeTensorwise(values: Float32Array): { codes: Int8Array; scale: number } {
  let largest = 0;
  for (const value of values) largest = Math.max(largest, Math.abs(value));
  const codes = new Int8Array(values.length);
  for (let i = 0; i < values.length; i++) codes[i] = Math.round((values[i]! * 127) / largest);
  return { codes, scale: largest / 127 };
}
