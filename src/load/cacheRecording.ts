import type { CheckpointTensor } from "../checkpoint/types.ts";
import { throwIfAborted } from "../errors.ts";
import type { BackendBuilder, MatrixInput } from "../model/backend.ts";
import type { PackedWeights, WeightLayout } from "../quantize/layout.ts";
import type { Gpt2Config, QuantizationRecipe, QuantizationReport } from "../types.ts";
import { encodeRecord } from "./cacheRecords.ts";

/** What a cached model begins with; its tensors follow, each a record, and then the ending. */
export interface CachedHead {
  /** Under which it was put: an entry that came under another name is none. */
  key: string;
  config: Gpt2Config;
  recipe: QuantizationRecipe;
  /** Checkpoint.description */
  description: string;
  tokenizerFiles: Readonly<Record<string, string>>;
  /** Of calibration: what the model's adapter reports. */
  notices: readonly string[];
  layout: WeightLayout;
  /** Names of the files that it was made of. */
  files: readonly string[];
}

export interface CachedTensor {
  tensor: CheckpointTensor;
  values: PackedWeights | Float32Array;
  input?: MatrixInput;
}

/** Its being there says that nothing is missing. */
export interface CachedEnding {
  quantization: QuantizationReport;
  /** SourceFile.versions() by name; "sha256-…" too where `integrity` named the file. */
  versions: Readonly<Record<string, readonly string[]>>;
}

export interface RecordingParts {
  builder: BackendBuilder;
  /** Takes the entry; its failures are not the load's. */
  put: (entry: Response) => Promise<void>;
  versions: () => Promise<CachedEnding["versions"]>;
  signal: AbortSignal | undefined;
}

/**
 * Takes tensors for a builder and writes them to a cache on the way, as fast as both take them. What the cache does not want, it stops sending. Nobody may
 * write into a tensor's arrays afterwards: the cache may still hold pieces of them.
 */
export class Recording {
  readonly builder: BackendBuilder;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #parts: RecordingParts;
  /** Resolves when the cache wants no more, because it has all or because it failed. */
  readonly #ended: Promise<void>;
  #hasEnded = false;
  #records = 0;

  constructor(parts: RecordingParts) {
    const { builder, put } = parts;
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    this.#parts = parts;
    this.#writer = writable.getWriter();
    this.#ended = put(new Response(readable)).then(() => void (this.#hasEnded = true));
    this.builder = {
      layout: builder.layout,
      add: async (tensor, values, input) => {
        await builder.add(tensor, values, input);
        await this.#write({ tensor, values, input } satisfies CachedTensor);
      },
      finish: (signal) => builder.finish(signal),
      abandon: () => builder.abandon(),
    };
  }

  begin(head: CachedHead): Promise<void> {
    return this.#write(head);
  }

  /** Resolves when the cache has it all. */
  async finish(quantization: QuantizationReport): Promise<void> {
    await this.#write({ quantization, versions: await this.#parts.versions() } satisfies CachedEnding);
    await this.#unlessEnded(this.#writer.close());
    await this.#ended;
    throwIfAborted(this.#parts.signal);
  }

  /** The cache is to keep nothing of it. */
  abandon(reason: unknown): void {
    this.#writer.abort(reason).catch(() => undefined); // where it has ended, there is nothing to abort
  }

  async #write(record: unknown): Promise<void> {
    for (const piece of await encodeRecord(this.#records++, record, this.#parts.signal)) {
      if (this.#hasEnded) return;
      await this.#unlessEnded(this.#writer.write(piece));
      throwIfAborted(this.#parts.signal);
    }
  }

  /** A cache may want no more without reading to the end. */
  async #unlessEnded(writing: Promise<void>): Promise<void> {
    await Promise.race([writing.catch(() => this.#ended), this.#ended]);
  }
}
