import { EngineError, show } from "../errors.ts";
import type { Activation, Gpt2Config } from "../types.ts";

const activations: readonly Activation[] = ["gelu_new", "gelu", "relu", "gelu_pytorch_tanh"];

/** Upper bounds far above every published GPT-2: what lies beyond is a mistake or an attack, and nobody allocates for it. */
const largest = { n_layer: 1024, n_head: 4096, n_embd: 65_536, n_inner: 1_048_576, n_positions: 1_048_576, vocab_size: 16_777_216 } as const;

/** Names that Hugging Face's GPT2Config takes for the same field. */
const aliases: Readonly<Partial<Record<keyof typeof largest, string>>> = {
  n_layer: "num_hidden_layers",
  n_head: "num_attention_heads",
  n_embd: "hidden_size",
  n_positions: "max_position_embeddings",
};

/**
 * The fields of config.json that change the arithmetic, with the defaults of Hugging Face's GPT2Config.
 * Throws `checkpoint` naming the field for a value out of bounds or an architecture that is not plain GPT-2.
 */
export function parseGpt2Config(json: unknown): Gpt2Config {
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new EngineError("checkpoint", `config.json holds ${show(json)}; expected an object.`, { file: "config.json" });
  }
  const fields = json as Readonly<Record<string, unknown>>;
  refuseOtherArchitectures(fields);

  const nEmbd = size(fields, "n_embd", 768);
  const nHead = size(fields, "n_head", 12);
  if (nEmbd % nHead !== 0) throw invalid("n_embd", nEmbd, `a multiple of n_head ${nHead}`);
  const vocabSize = size(fields, "vocab_size", 50257);
  return {
    nLayer: size(fields, "n_layer", 12),
    nHead,
    nEmbd,
    nInner: fields["n_inner"] === null ? 4 * nEmbd : size(fields, "n_inner", 4 * nEmbd),
    nPositions: size(fields, "n_positions", 1024),
    vocabSize,
    layerNormEpsilon: epsilon(fields["layer_norm_epsilon"]),
    activation: activation(fields["activation_function"]),
    scaleAttnWeights: flag(fields, "scale_attn_weights", true),
    scaleAttnByInverseLayerIdx: flag(fields, "scale_attn_by_inverse_layer_idx", false),
    tieWordEmbeddings: flag(fields, "tie_word_embeddings", true),
    bosTokenId: tokenId(fields, "bos_token_id", vocabSize),
    eosTokenId: tokenId(fields, "eos_token_id", vocabSize),
  };
}

/** reorder_and_upcast_attn passes: it changes the order of f16 arithmetic, and here attention is f32 anyway. */
function refuseOtherArchitectures(fields: Readonly<Record<string, unknown>>): void {
  const { model_type: modelType, quantization_config: quantization, pruned_heads: prunedHeads } = fields;
  if (modelType !== undefined && modelType !== "gpt2") throw invalid("model_type", modelType, '"gpt2"');
  if (flag(fields, "add_cross_attention", false)) throw invalid("add_cross_attention", true, "false; encoder-decoder models are not supported");
  if ((quantization ?? null) !== null && !isBitsandbytes4Bit(quantization)) throw invalid("quantization_config", quantization, "none, or bitsandbytes' 4-bit one; the engine quantizes the original weights itself");
  if (Object.keys(prunedHeads ?? {}).length > 0) throw invalid("pruned_heads", prunedHeads, "none");
}

/** As transformers writes it for a model whose linear matrices are NF4 or FP4; the tensors themselves say how. */
function isBitsandbytes4Bit(quantization: unknown): boolean {
  const { quant_method: method, load_in_4bit: is4Bit } = Object(quantization) as Readonly<Record<string, unknown>>;
  return method === "bitsandbytes" && is4Bit === true;
}

function size(fields: Readonly<Record<string, unknown>>, name: keyof typeof largest, fallback: number): number {
  const alias = aliases[name];
  const aliased = alias === undefined ? undefined : fields[alias];
  const value = fields[name] !== undefined ? fields[name] : aliased !== undefined ? aliased : fallback;
  if (aliased !== undefined && aliased !== value) throw invalid(alias!, aliased, `the same as ${name}, ${show(value)}`);
  if (typeof value === "number" && Number.isInteger(value) && value >= 1 && value <= largest[name]) return value;
  throw invalid(name, value, `an integer from 1 to ${largest[name]}`);
}

function epsilon(value: unknown = 1e-5): number {
  if (typeof value !== "number" || !(value > 0 && value < 1)) throw invalid("layer_norm_epsilon", value, "a number between 0 and 1");
  return value;
}

function activation(value: unknown = "gelu_new"): Activation {
  const known = activations.find((name) => name === value);
  if (!known) throw invalid("activation_function", value, `one of ${activations.join(", ")}`);
  return known;
}

function flag(fields: Readonly<Record<string, unknown>>, name: string, fallback: boolean): boolean {
  const value = fields[name] === undefined ? fallback : fields[name];
  if (typeof value !== "boolean") throw invalid(name, value, "true or false");
  return value;
}

/** null for an id outside the vocabulary: small vocabularies keep GPT-2's default of 50256 in their config. */
function tokenId(fields: Readonly<Record<string, unknown>>, name: string, vocabSize: number): number | null {
  const value = fields[name] === undefined ? 50256 : fields[name];
  if (value !== null && !Number.isInteger(value)) throw invalid(name, value, "a token id or null");
  const id = value as number | null;
  return id !== null && id >= 0 && id < vocabSize ? id : null;
}

function invalid(field: string, value: unknown, expected: string): EngineError {
  return new EngineError("checkpoint", `config.json: ${field} is ${show(value)}; expected ${expected}.`, { file: "config.json", field });
}
