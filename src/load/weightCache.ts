import { gpt2Weights, isMatrix } from "../checkpoint/gpt2Weights.ts";
import type { Checkpoint } from "../checkpoint/types.ts";
import { EngineError, orAborted, throwIfAborted } from "../errors.ts";
import type { BackendBuilder } from "../model/backend.ts";
import { fetchPart } from "../parts.ts";
import { storedBytes } from "../quantize/formats.ts";
import { WEIGHT_LAYOUT_VERSION } from "../quantize/layout.ts";
import { formatOf, usesCalibration } from "../quantize/recipes.ts";
import { isSameVersion, type PinnedSource } from "../source/pinned.ts";
import { readPieces } from "../source/readPieces.ts";
import { isTransient } from "../source/retry.ts";
import { Sha256 } from "../source/sha256.ts";
import type { LoadOptions, ModelCache, QuantizationRecipe, QuantizationReport } from "../types.ts";
import { type CachedEnding, type CachedHead, type CachedTensor, Recording } from "./cacheRecording.ts";
import { DamagedRecord, RecordReader } from "./cacheRecords.ts";
import type { ProgressMeter } from "./progress.ts";
import { ENGINE_VERSION } from "./version.ts";

/** The cached weights of one checkpoint. */
export interface CachedCheckpoint extends CachedHead {
  /** Adds every tensor. Rejects with what restore() takes for no entry where they turn out to be damaged or of another version. */
  fill(builder: BackendBuilder, progress: ProgressMeter): Promise<QuantizationReport>;
}

/** What is cached is of another version of the file, or packed for another device: it is replaced when the source has been loaded. */
class StaleEntry extends Error {}

type CacheOptions = Pick<LoadOptions, "cache" | "integrity" | "signal" | "calibration" | "contextLength" | "backend"> & { recipe: QuantizationRecipe | null };

/** Over what the formats need: rows and columns are padded, and there are names. */
const EXPECTED_OVERHEAD = 1.1;

/**
 * The cached weights of one load. They are found under a hash of where the source is, the recipe, the calibration and the versions of engine and layout,
 * so that nothing has to be asked before. While they are read, the server is asked whether its files are still those that they were made of: by the hash
 * in the hub's LFS pointer, else by ETag (a weak one, too) or Last-Modified. What `integrity` names is compared with the hash that was verified then, and
 * nobody is asked. Where the server cannot be reached they are taken as they are, with a notice. Local files are known by name, size and date, contents
 * in memory by a hash. A file that was added since, such as a tokenizer, goes unnoticed.
 * No failure of the cache fails the load: it goes on from the source, with a notice.
 */
export class WeightCache {
  readonly #cache: ModelCache;
  readonly #key: string;
  readonly #source: PinnedSource;
  readonly #options: CacheOptions;
  readonly #notices: Set<string>;

  private constructor(cache: ModelCache, key: string, source: PinnedSource, options: CacheOptions, notices: Set<string>) {
    this.#cache = cache;
    this.#key = key;
    this.#source = source;
    this.#options = options;
    this.#notices = notices;
  }

  /** null where nothing is to be cached, or nothing can be. @param notices takes what happens to the cache, in sentences */
  static async open(source: PinnedSource, options: CacheOptions, notices: Set<string>): Promise<WeightCache | null> {
    const { cache = "opfs", signal } = options;
    if (cache === "none") return null;
    try {
      const opened = cache === "opfs" ? await (await fetchPart("The cache in the private file system", () => import("../source/cache/opfs.ts"), signal)).openOpfsCache() : cache;
      if (opened) return new WeightCache(opened, await keyOf(source, options), source, options, notices);
      if (options.cache === "opfs") notices.add("The model is not cached: there is no private file system here.");
    } catch (error) {
      throwIfAborted(signal);
      notices.add(notCached(error));
    }
    return null;
  }

  /** What `load` makes of the cached weights; null where there are none that are whole, of the present version and for this device. */
  async restore<T>(load: (cached: CachedCheckpoint) => Promise<T>, signal: AbortSignal | undefined): Promise<T | null> {
    const entry = await this.#trying(() => this.#cache.match(this.#key), signal);
    throwIfAborted(signal);
    if (!entry?.body) return null;
    const reader = new RecordReader(readPieces(entry.body, signal, (cause) => cause), signal);
    try {
      const head = (await reader.next()) as CachedHead;
      if (head.key !== this.#key) throw new DamagedRecord("It was put under another key.");
      return await load({ ...head, fill: (builder, progress) => this.#fill(builder, head, reader, progress, signal) });
    } catch (error) {
      throwIfAborted(signal);
      if (error instanceof StaleEntry) return null;
      if (!(error instanceof DamagedRecord)) throw error;
      this.#notices.add(`The cached model was damaged and has been deleted: ${error.message}`);
      await this.#trying(() => this.#cache.delete(this.#key), signal);
      throwIfAborted(signal);
      return null;
    } finally {
      await reader.close();
    }
  }

  /** Begins to cache what goes into a builder. null where the server gives a file no version, by which it could be known again. */
  async record(builder: BackendBuilder, checkpoint: Checkpoint, { recipe, notices = [] }: { recipe: QuantizationRecipe; notices?: readonly string[] }, signal: AbortSignal | undefined): Promise<Recording | null> {
    const { config, description, tokenizerFiles, tensors } = checkpoint;
    const opened = await this.#source.versions(signal);
    const files = [...new Set([...Object.keys(opened), ...checkpoint.weightFiles])];
    const unversioned = this.#source.currentVersions && Object.keys(opened).find((name) => opened[name]!.length === 0);
    if (unversioned !== undefined) {
      this.#notices.add(`The model is not cached: the server states neither ETag nor Last-Modified of ${unversioned}.`);
      return null;
    }
    const tensorBytes = tensors.map((tensor) => (isMatrix(tensor) ? storedBytes(formatOf(recipe, tensor.name, tensor.kind), tensor.shape) : 4 * tensor.shape[0] * tensor.shape[1]));
    const bytes = Math.ceil(EXPECTED_OVERHEAD * tensorBytes.reduce((sum, bytes) => sum + bytes));
    const put = async (entry: Response): Promise<void> => {
      await this.#trying(() => this.#cache.put(this.#key, entry, { source: description, recipe: recipe.name ?? null, bytes }), signal);
    };
    const recording = new Recording({ builder, put, versions: () => this.#versions(files, signal), signal });
    try {
      await recording.begin({ key: this.#key, config, recipe, description, tokenizerFiles, notices, layout: builder.layout, files });
      return recording;
    } catch (error) {
      recording.abandon(error);
      throw error;
    }
  }

  async #fill(builder: BackendBuilder, { config, layout, files }: CachedHead, reader: RecordReader, progress: ProgressMeter, signal: AbortSignal | undefined): Promise<QuantizationReport> {
    const integrityNames = Object.keys(this.#options.integrity ?? {});
    if (JSON.stringify(layout) !== JSON.stringify(builder.layout) || !integrityNames.every((name) => files.includes(name))) throw new StaleEntry();
    const asked = Promise.all(files.map((name) => this.#presentVersions(name, signal)));
    asked.catch(() => undefined); // it is awaited below, unless the entry fails first
    const tensorCount = gpt2Weights(config).length;
    for (let done = 1; done <= tensorCount; done++) {
      const { tensor, values, input } = (await reader.next()) as CachedTensor;
      await builder.add(tensor, values, input);
      progress.uploaded(done, tensorCount);
    }
    const { quantization, versions } = (await reader.next()) as CachedEnding;
    await reader.expectEnd();
    const present = await asked;
    if (!files.every((name, i) => present[i] === null || isSameVersion(present[i]!, versions[name]!))) throw new StaleEntry();
    this.#source.pin(versions);
    return { ...quantization, quantizeMs: 0 };
  }

  /** SourceFile.versions() of files that were read, with the hashes that were verified. */
  async #versions(files: readonly string[], signal: AbortSignal | undefined): Promise<CachedEnding["versions"]> {
    const stated = await this.#source.versions(signal);
    const verified = (name: string): string[] => Object.entries(this.#options.integrity ?? {}).flatMap(([file, hash]) => (file === name ? [hash.toLowerCase()] : []));
    return Object.fromEntries(files.map((name) => [name, [...(stated[name] ?? []), ...verified(name)]]));
  }

  /** What a file of the entry must be one of now; null where anything will do: the name of the source says it, or nobody can be asked. */
  async #presentVersions(name: string, signal: AbortSignal | undefined): Promise<readonly string[] | null> {
    const wanted = this.#options.integrity?.[name];
    if (wanted !== undefined) return [wanted.toLowerCase()];
    if (!this.#source.currentVersions) return null;
    try {
      return (await this.#source.currentVersions(name, signal)) ?? [];
    } catch (error) {
      throwIfAborted(signal);
      const status = error instanceof EngineError ? error.details["status"] : undefined;
      if (typeof status === "number" && !isTransient(status)) return []; // loading from the source will say why it is refused
      this.#notices.add("The model came from the cache; whether its files have changed could not be asked.");
      return null;
    }
  }

  /** What the cache answers; null where it fails, or has no answer when the signal fires, of which it does not know. */
  async #trying<T>(work: () => Promise<T>, signal: AbortSignal | undefined): Promise<T | null> {
    try {
      return await orAborted(work(), signal);
    } catch (error) {
      if (!signal?.aborted) this.#notices.add(notCached(error));
      return null;
    }
  }
}

async function keyOf(source: PinnedSource, { recipe, calibration, contextLength, backend = "auto", signal }: CacheOptions): Promise<string> {
  const isCalibrated = calibration !== undefined && (!recipe || usesCalibration(recipe));
  const parts = [ENGINE_VERSION, WEIGHT_LAYOUT_VERSION, await source.cacheName(signal), recipe, backend, isCalibrated ? { calibration, contextLength } : null];
  const hash = new Sha256();
  hash.update(new TextEncoder().encode(JSON.stringify(parts)));
  return hash.digest();
}

function notCached(error: unknown): string {
  return `The model is not cached: ${error instanceof Error ? error.message : String(error)}`;
}
