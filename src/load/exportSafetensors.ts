import { gpt2Weights } from "../checkpoint/gpt2Weights.ts";
import { metadataKeys } from "../checkpoint/metadata.ts";
import type { CheckpointTensor, StoredEntry } from "../checkpoint/types.ts";
import { EngineError, throwIfAborted } from "../errors.ts";
import { checkWatching } from "../generate/options.ts";
import { requireStorable, storeTensor } from "../quantize/stored.ts";
import { compareEntries, writeHeader } from "../safetensors/write.ts";
import { sha256 } from "../source/sha256.ts";
import type { Model, QuantizationReport } from "../types.ts";
import { LoadedModel } from "./model.ts";
import { ENGINE_VERSION } from "./version.ts";

const LAYOUT = "Quantized matrices lie as [outputs, inputs]; those in F32 and F16 as GPT-2's Conv1D has them, [inputs, outputs], and embeddings as [tokens, width].";

/** An entry of the file to be. */
interface PlannedEntry {
  /** In the file. */
  name: string;
  dtype: StoredEntry["dtype"];
  shape: readonly number[];
  tensor: CheckpointTensor;
  /** null for codes and weights, which are read back again when their turn comes. */
  bytes: Uint8Array<ArrayBuffer> | null;
}

/**
 * A loaded model as a safetensors file, with the checkpoint's names (without `transformer.`), bit for bit what the model computes with. loadModel() reads it
 * back beside the same config.json and tokenizer files: the same codes and scales, no quantization anew. Everything is read from the device twice, once for
 * the hashes that stand in the header, and when the stream is pulled; one tensor (and the scales of all) is in memory at a time.
 *
 * In Python, `safetensors.torch.load_file(path)` opens the file, whose names mean, for a matrix `x` = "h.0.mlp.c_fc.weight":
 * - f32, f16: `x`, F32 or F16, in GPT-2's own orientation; beside config.json `GPT2LMHeadModel.from_pretrained(folder)` reads such a file.
 * - int8: `x` I8 [outputs, inputs]; `x_scale` F32 [1], [outputs, 1] or [outputs, groups]; for zero-point `x_zero_point`, I8 or I32, of the scale's shape:
 *   `w = (x.float() - x_zero_point) * x_scale`, with groups after `x_scale.repeat_interleave(group, 1)[:, :inputs]`; then `w.T` is Conv1D's weight.
 * - nf4, fp4: what bitsandbytes' `QuantState.from_dict` takes: `x` U8 [values / 2, 1], the first of two codes in a byte's upper half, `x.absmax`,
 *   `x.quant_map`, `x.quant_state.bitsandbytes__nf4` (or `__fp4`), with double quantization `x.nested_absmax` and `x.nested_quant_map`. Where the embedding
 *   is f16 or f32, transformers reads it with `"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}`
 *   in config.json.
 *
 * `__metadata__` holds the recipe (`nibble.recipe`, JSON), each tensor's SHA-256 (`nibble.sha256`, JSON), the ranges of static
 * int8 activations (`nibble.inputRanges`, JSON), the version and where the checkpoint came from.
 *
 * Calls on the model may go on meanwhile and take turns with it. Cancelling the stream ends it; dispose() fails it with `disposed`.
 * @throws TypeError for a model that loadModel() did not make. The stream fails with signal.reason, and with EngineError `unsupported` for int4, for blocks
 * that do not divide the rows of a matrix, for LLM.int8()'s f16 columns, and for a model that was loaded with a shorter contextLength and keeps only a part
 * of its position embeddings
 */
export function exportSafetensors(model: Model, { signal }: { signal?: AbortSignal } = {}): ReadableStream<Uint8Array> {
  if (!(model instanceof LoadedModel)) throw new TypeError("model was not made by loadModel().");
  checkWatching({ signal });
  const ended = new AbortController();
  const chunks = writeChunks(model, signal, ended);
  return new ReadableStream<Uint8Array>(
    {
      async pull(stream) {
        const { done, value } = await chunks.next();
        if (done) stream.close();
        else stream.enqueue(value);
      },
      async cancel(reason) {
        ended.abort(reason);
        await chunks.return().catch(() => undefined); // what was under way ends with the reason, which is known
      },
    },
    { highWaterMark: 0 }, // nothing is read before it is asked for
  );
}

/** The header, then the bytes of each entry. ended: follows the caller's signal, and fires when the stream is cancelled. */
async function* writeChunks(model: LoadedModel, signal: AbortSignal | undefined, ended: AbortController): AsyncGenerator<Uint8Array, void, undefined> {
  throwIfAborted(signal);
  requireExportable(model);
  const abort = (): void => ended.abort(signal?.reason);
  signal?.addEventListener("abort", abort);
  try {
    const tensors = gpt2Weights(model.config);
    const entries: PlannedEntry[] = [];
    const hashes: Record<string, string> = {};
    for (const tensor of tensors) {
      for (const [suffix, { dtype, shape, bytes }] of await readEntries(model, tensor, ended.signal)) {
        const name = tensor.name + suffix;
        hashes[name] = await sha256(bytes);
        entries.push({ name, dtype, shape, tensor, bytes: suffix === "" ? null : bytes });
      }
    }
    entries.sort(compareEntries);
    yield writeHeader(entries, {
      format: "pt",
      [metadataKeys.version]: ENGINE_VERSION,
      [metadataKeys.source]: model.description,
      [metadataKeys.layout]: LAYOUT,
      [metadataKeys.recipe]: JSON.stringify(model.quantization.recipe),
      ...inputRanges(model.quantization),
      [metadataKeys.hashes]: JSON.stringify(hashes),
    });
    for (const { tensor, bytes } of entries) yield bytes ?? (await readEntries(model, tensor, ended.signal)).get("")!.bytes;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

/** What calibration found for int8 activations, without which the model would have to be calibrated again. */
function inputRanges({ tensors }: QuantizationReport): Record<string, string> {
  const ranges = tensors.flatMap(({ name, input }) => (input?.range === undefined ? [] : [[name, input.range] as const]));
  return ranges.length > 0 ? { [metadataKeys.ranges]: JSON.stringify(Object.fromEntries(ranges)) } : {};
}

async function readEntries(model: LoadedModel, tensor: CheckpointTensor, signal: AbortSignal): Promise<ReadonlyMap<string, StoredEntry>> {
  const values = await model.readTensor(tensor.name, signal);
  if (!(values instanceof Float32Array)) return storeTensor(tensor, values);
  const shape = tensor.kind === "vector" ? [values.length] : tensor.shape;
  return new Map([["", { dtype: "F32", shape, bytes: new Uint8Array(values.buffer as ArrayBuffer) }]]);
}

/** Says what cannot be exported before anything is read. */
function requireExportable({ quantization, config, contextLength }: LoadedModel): void {
  for (const { name, format, shape, input } of quantization.tensors) {
    requireStorable(name, format, shape);
    if (!input?.f16Columns) continue;
    const message = `Tensor "${name}" keeps ${input.f16Columns} of ${shape[1]} columns in f16 beside its int8 codes, for which there is no layout that other programs read; load it without calibration to export the codes alone.`;
    throw new EngineError("unsupported", message, { tensor: name, f16Columns: input.f16Columns });
  }
  if (contextLength === config.nPositions) return;
  const message = `The model was loaded with contextLength ${contextLength} and keeps ${contextLength} of ${config.nPositions} rows of "wpe.weight"; load it without contextLength to export it.`;
  throw new EngineError("unsupported", message, { contextLength, nPositions: config.nPositions });
}
