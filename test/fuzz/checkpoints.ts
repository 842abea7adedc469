import { exportSafetensors, loadModel, type Model, type QuantizationRecipe } from "../../src/index.ts";
import { parseSafetensors } from "../../src/safetensors/index.ts";
import { seededCheckpoint } from "../fixtures/seededCheckpoint.ts";
import { writeSafetensors, type WrittenDtype, type WrittenTensor } from "../fixtures/safetensorsWriter.ts";
import { mutateBytes } from "./bytes.ts";
import type { Choices } from "./choices.ts";
import { mutateJson, type Node, toNode, toText } from "./json.ts";

export type Files = Readonly<Record<string, Uint8Array<ArrayBuffer>>>;
export type Tensors = Record<string, WrittenTensor>;

const encoder = new TextEncoder();
const decoder = new TextDecoder();
export const encode = (text: string): Uint8Array<ArrayBuffer> => encoder.encode(text);
export const jsonOf = (file: Uint8Array): Node => toNode(JSON.parse(decoder.decode(file)));
export const sizeOf = (files: Files): number => Object.values(files).reduce((sum, { length }) => sum + length, 0);

const shape = { nLayer: 1, nHead: 2, nEmbd: 2, nInner: 3, nPositions: 4, vocabSize: 7 } as const;

/** One layer of width 2, in a few forms: 1 to 2 KB each. */
export const floatCheckpoints: readonly Files[] = [
  seededCheckpoint(shape),
  seededCheckpoint({ ...shape, dtype: "F16", prefix: true, maskBuffers: true }),
  seededCheckpoint({ ...shape, dtype: "BF16", tied: false }),
];

/** The same model quantized in every way that files can be, 7 to 15 KB each; hashes: with the SHA-256 of each tensor, so that no changed byte is taken. */
export async function quantizedCheckpoints(hashes: boolean): Promise<Files[]> {
  const base = seededCheckpoint({ nLayer: 1, nHead: 2, nEmbd: 32, nInner: 32, nPositions: 2, vocabSize: 5 });
  const embedding = { type: "int8", mode: "absmax", granularity: "channel" } as const;
  const recipes: QuantizationRecipe[] = [
    { linear: { type: "int8", mode: "absmax", granularity: "tensor" }, embedding },
    { linear: { type: "int8", mode: "zeropoint", granularity: { group: 32 } }, embedding },
    { linear: { type: "nf4", block: 32 }, embedding: { type: "f16" } },
    { linear: { type: "nf4", block: 32, doubleQuantization: true }, embedding },
    { linear: { type: "fp4", block: 32 }, embedding, overrides: { "*.mlp.c_proj.weight": { type: "f16" } } },
  ];
  return Promise.all(
    recipes.map(async (quantization) => {
      using model = await loadModel(base, { backend: "cpu", quantization });
      const file = new Uint8Array(await new Response(exportSafetensors(model) as ReadableStream<Uint8Array<ArrayBuffer>>).arrayBuffer());
      const { metadata } = parseSafetensors(file);
      const kept = [...metadata].filter(([key]) => hashes || key !== "nibble.sha256");
      return { "config.json": base["config.json"], "model.safetensors": writeSafetensors(tensorsOf(file), Object.fromEntries(kept)) };
    }),
  );
}

/** The tensors of a file, to be changed and written again. */
export function tensorsOf(file: Uint8Array): Tensors {
  return Object.fromEntries([...parseSafetensors(file).tensors].map(([name, { dtype, shape, bytes }]) => [name, { dtype: dtype as WrittenDtype, shape, data: bytes }]));
}

/** A checkpoint in two files and their index. */
export function sharded(files: Files): Files {
  const tensors = Object.entries(tensorsOf(files["model.safetensors"]!));
  const nameOf = (i: number): string => `model-0000${1 + (i % 2)}-of-00002.safetensors`;
  const shard = (which: number): Uint8Array<ArrayBuffer> => writeSafetensors(Object.fromEntries(tensors.filter((_, i) => i % 2 === which)));
  const index = { metadata: { total_size: 1000 }, weight_map: Object.fromEntries(tensors.map(([name], i) => [name, nameOf(i)])) };
  return { "config.json": files["config.json"]!, [nameOf(0)]: shard(0), [nameOf(1)]: shard(1), "model.safetensors.index.json": encode(JSON.stringify(index)) };
}

const hostileLengths = [0n, 1n, 2n, 7n, 99_999_999n, 100_000_001n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n];

/** A changed safetensors file, and what was done to it: to its header as JSON, as text, to its length, or to any byte. */
export function mutateSafetensors(choices: Choices, file: Uint8Array<ArrayBuffer>): { file: Uint8Array<ArrayBuffer>; what: string } {
  const headerBytes = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const header = file.subarray(8, 8 + headerBytes);
  const joined = (text: Uint8Array, length = BigInt(text.length)): Uint8Array<ArrayBuffer> => {
    const bytes = Uint8Array.from([...new Uint8Array(8), ...text, ...file.subarray(8 + headerBytes)]);
    new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, length), true);
    return bytes;
  };
  const mode = choices.below(8);
  if (mode < 5) {
    const json = jsonOf(header);
    const whats = Array.from({ length: 1 + choices.below(3) }, () => mutateJson(choices, json, "header"));
    return { file: joined(encode(toText(json))), what: whats.join(", ") };
  }
  if (mode === 5) {
    const { bytes, what } = mutateBytes(choices, header);
    return { file: joined(bytes, choices.oneIn(2) ? undefined : BigInt(headerBytes)), what: `header: ${what}` };
  }
  if (mode === 6) {
    const length = choices.oneIn(2) ? choices.pick(hostileLengths) : BigInt(headerBytes + choices.below(33) - 16);
    return { file: joined(header, length), what: `header length ${length}` };
  }
  const { bytes, what } = mutateBytes(choices, file);
  return { file: bytes, what };
}

/** What a model must do that was loaded. legalWeights: they are those of a trained model or near, so that logits are finite. */
export async function useModel(model: Model, legalWeights: boolean): Promise<Float32Array> {
  const { vocabSize, nPositions } = model.config;
  const tokens = [0, vocabSize - 1].slice(0, nPositions);
  const logits = await model.logits(tokens);
  if (logits.length !== vocabSize) throw new Error(`${logits.length} logits for a vocabulary of ${vocabSize}`);
  if (legalWeights && !logits.every(Number.isFinite)) throw new Error(`logits hold ${logits.find((logit) => !Number.isFinite(logit))}`);
  const { tokens: generated } = await model.complete([0], { maxTokens: 2, temperature: 0 });
  if (generated.some((id) => !(id >= 0 && id < vocabSize))) throw new Error(`generated ${generated.join()}`);
  return logits;
}
