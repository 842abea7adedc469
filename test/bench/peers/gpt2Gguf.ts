import { toHalfBits } from "../../../src/quantize/half.ts";
import { parseSafetensors, toFloat32 } from "../../../src/safetensors/index.ts";
import { gpt2Vocabulary } from "../../fixtures/tokenizers.ts";
import { mergePiece } from "../../../src/tokenizer/merge.ts";
import type { ModelFiles } from "../nibbleSubject.ts";
import { readShape, transpose } from "./gpt2Onnx.ts";

/** llama.cpp's formats: 8 or 4 bits in blocks of 32 with an f16 scale; it quantizes activations to int8, per block of 32. */
export const ggufFormats = ["q8_0", "q4_0"] as const;
export type GgufFormat = (typeof ggufFormats)[number];
export const isGgufFormat = (format: string): format is GgufFormat => (ggufFormats as readonly string[]).includes(format);

const BLOCK = 32;
const ALIGNMENT_BYTES = 32;
/** GGUF's numbers of types of values and of tensors. */
const U32 = 4;
const F32 = 6;
const STRING = 8;
const ARRAY = 9;
const tensorTypes = { f32: 0, q4_0: 2, q8_0: 8 } as const;

/** Bytes that grow. Numbers are little-endian. */
class Writer {
  readonly parts: Uint8Array<ArrayBuffer>[] = [];
  byteLength = 0;

  bytes(bytes: Uint8Array<ArrayBuffer>): this {
    this.parts.push(bytes);
    this.byteLength += bytes.length;
    return this;
  }
  u32(value: number): this {
    return this.bytes(new Uint8Array(Uint32Array.of(value).buffer));
  }
  u64(value: number): this {
    return this.bytes(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer));
  }
  string(text: string): this {
    const utf8 = new TextEncoder().encode(text);
    return this.u64(utf8.length).bytes(utf8);
  }
  pad(): this {
    return this.bytes(new Uint8Array(-this.byteLength & (ALIGNMENT_BYTES - 1)));
  }
}

/**
 * A GPT-2 checkpoint (gelu_new, tied head, GPT-2's own vocabulary) as a GGUF file, version 3; the embedding, which is the head too, in q8_0 in both
 * formats, as in our presets. Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
export function gpt2Gguf(files: ModelFiles, format: GgufFormat): Blob {
  const { n_layer: L, n_head: H, n_embd: C, n_positions: P, vocab_size: V, layer_norm_epsilon: epsilon } = readShape(files);
  const { tensors } = parseSafetensors(files["model.safetensors"]!);
  const read = (name: string): Float32Array => {
    const tensor = tensors.get(name);
    if (!tensor) throw new Error(`Tensor "${name}" is missing; expected a checkpoint without the prefix "transformer.".`);
    return toFloat32(tensor.bytes, tensor.dtype);
  };

  const fields = new Writer();
  let fieldCount = 0;
  const field = (name: string, type: number): Writer => {
    fieldCount++;
    return fields.string(name).u32(type);
  };
  const strings = (name: string, values: readonly string[]): void => {
    field(name, ARRAY).u32(STRING).u64(values.length);
    for (const value of values) fields.string(value);
  };
  field("general.architecture", STRING).string("gpt2");
  for (const [name, value] of Object.entries({ context_length: P, embedding_length: C, block_count: L, feed_forward_length: 4 * C, "attention.head_count": H })) field(`gpt2.${name}`, U32).u32(value);
  field("gpt2.attention.layer_norm_epsilon", F32).bytes(new Uint8Array(Float32Array.of(epsilon).buffer));
  field("tokenizer.ggml.model", STRING).string("gpt2");
  field("tokenizer.ggml.pre", STRING).string("gpt-2");
  strings("tokenizer.ggml.tokens", gpt2Vocabulary().tokens.map((token, id) => (isUtf8(token!) ? named(token!) : `<${id}>`)));
  strings("tokenizer.ggml.merges", gpt2Merges());
  for (const name of ["bos", "eos"]) field(`tokenizer.ggml.${name}_token_id`, U32).u32(V - 1);

  const index = new Writer();
  const contents = new Writer();
  let tensorCount = 0;
  /** shape: rows and columns; GGUF has the columns first. */
  const add = (name: string, shape: readonly number[], values: Float32Array, type: keyof typeof tensorTypes): void => {
    index.string(name).u32(shape.length);
    for (const size of shape.toReversed()) index.u64(size);
    index.u32(tensorTypes[type]).u64(contents.byteLength);
    contents.bytes(type === "f32" ? new Uint8Array(values.slice().buffer) : quantizeGgml(values, type)).pad();
    tensorCount++;
  };
  const vector = (name: string, theirs: string): void => {
    const values = read(name);
    add(theirs, [values.length], values, "f32");
  };
  const both = (name: string, theirs: string, [K, N]: readonly [K: number, N: number]): void => {
    add(`${theirs}.weight`, [N, K], transpose(read(`${name}.weight`), K, N), format);
    vector(`${name}.bias`, `${theirs}.bias`);
  };
  const norm = (name: string, theirs: string): void => {
    for (const part of ["weight", "bias"]) vector(`${name}.${part}`, `${theirs}.${part}`);
  };
  add("token_embd.weight", [V, C], read("wte.weight"), "q8_0");
  add("position_embd.weight", [P, C], read("wpe.weight"), "f32");
  for (let i = 0; i < L; i++) {
    const [ours, theirs] = [`h.${i}`, `blk.${i}`];
    norm(`${ours}.ln_1`, `${theirs}.attn_norm`);
    both(`${ours}.attn.c_attn`, `${theirs}.attn_qkv`, [C, 3 * C]);
    both(`${ours}.attn.c_proj`, `${theirs}.attn_output`, [C, C]);
    norm(`${ours}.ln_2`, `${theirs}.ffn_norm`);
    both(`${ours}.mlp.c_fc`, `${theirs}.ffn_up`, [C, 4 * C]);
    both(`${ours}.mlp.c_proj`, `${theirs}.ffn_down`, [4 * C, C]);
  }
  norm("ln_f", "output_norm");

  const head = new Writer().bytes(new TextEncoder().encode("GGUF")).u32(3).u64(tensorCount).u64(fieldCount);
  for (const part of [...fields.parts, ...index.parts]) head.bytes(part);
  return new Blob([...head.pad().parts, ...contents.parts]);
}

/** Blocks of an f16 scale and 32 codes: int8, or pairs of nibbles offset by 8, of which the low ones are the first half of the block. */
export function quantizeGgml(values: Float32Array, format: GgufFormat): Uint8Array<ArrayBuffer> {
  const [codeBytes, most] = format === "q8_0" ? [BLOCK, 127] : [BLOCK / 2, 7];
  const largest = new Float32Array(values.length / BLOCK);
  for (let i = 0; i < values.length; i++) largest[i / BLOCK | 0] = Math.max(largest[i / BLOCK | 0]!, Math.abs(values[i]!));
  const scales = toHalfBits(largest.map((value) => value / most)).bits;
  const bytes = new Uint8Array(largest.length * (2 + codeBytes));
  for (let block = 0, at = 0; block < largest.length; block++) {
    const inverse = largest[block]! > 0 ? most / largest[block]! : 0;
    const code = (i: number): number => Math.round(values[block * BLOCK + i]! * inverse);
    bytes[at++] = scales[block]!;
    bytes[at++] = scales[block]! >> 8;
    for (let i = 0; i < codeBytes; i++) bytes[at++] = format === "q8_0" ? code(i) : (code(i) + 8) | ((code(i + BLOCK / 2) + 8) << 4);
  }
  return bytes;
}

/** GPT-2's names of the 256 bytes: a visible character for each. */
const byteNames = ((): string[] => {
  const isVisible = (byte: number): boolean => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let hidden = 0;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isVisible(byte) ? byte : 256 + hidden++));
})();

/** A byte string in GPT-2's names. */
function named(bytes: string): string {
  return Array.from(bytes, (char) => byteNames[char.charCodeAt(0)]!).join("");
}

/** Answers with a part of a character in them break wllama's own messages, so such tokens go by their number; no prompt of a benchmark has any. */
function isUtf8(bytes: string): boolean {
  return !new TextDecoder().decode(Uint8Array.from(bytes, (char) => char.charCodeAt(0))).includes("\uFFFD");
}

/** GPT-2's merges in their order, "left right": what each token falls into without the merge that makes it. */
export function gpt2Merges(): string[] {
  const { tokens, byteIds, merges } = gpt2Vocabulary();
  return tokens.slice(0, -1).flatMap((bytes, id) => {
    if (bytes!.length < 2) return [];
    const before = { rank: (left: number, right: number): number => ((rank) => (rank < id ? rank : -1))(merges.rank(left, right)), merged: (rank: number): number => rank };
    return mergePiece(Array.from(bytes!, (char) => byteIds[char.charCodeAt(0)]!), before).map((part) => named(tokens[part]!)).join(" ");
  });
}
