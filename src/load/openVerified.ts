import { openCheckpoint } from "../checkpoint/openCheckpoint.ts";
import type { Checkpoint, ReadBlocksOptions, ReadOptions } from "../checkpoint/types.ts";
import { Pacer } from "../model/cpu/pacer.ts";
import { verifiedSource } from "../source/integrity.ts";
import type { CheckpointSource } from "../source/types.ts";
import type { LoadOptions } from "../types.ts";
import { fetchRestore } from "./stored.ts";

interface OpenOptions extends Pick<LoadOptions, "integrity" | "signal"> {
  /** For checkpoints that are read more than once: what is remote is downloaded whole, once, and read from there. */
  download?: (source: CheckpointSource) => Promise<CheckpointSource>;
}

/**
 * Opens a checkpoint whose passes resolve only when every file has the hash that `integrity` or the server states.
 * @throws TypeError for a malformed `integrity` or a name in it that is no file of the load; EngineError as openCheckpoint
 */
export async function openVerified(source: CheckpointSource, { signal, integrity, download }: OpenOptions): Promise<Checkpoint> {
  const pacer = new Pacer();
  const breathe = async (signal: AbortSignal | undefined): Promise<void> => {
    if (pacer.isDue()) await pacer.rest(signal);
  };
  const verified = verifiedSource(source, { integrity, breathe });
  const checkpoint = await openCheckpoint(download ? await download(verified) : verified, { signal, fetchRestore });
  verified.expectNames(checkpoint.weightFiles);
  const verifying = <T, Options extends ReadOptions>(read: (options?: Options) => AsyncGenerator<T>) =>
    async function* (options?: Options): AsyncGenerator<T> {
      yield* read(options);
      await verified.finish(options?.signal ?? signal);
    };
  return { ...checkpoint, read: verifying((options?: ReadOptions) => checkpoint.read(options)), readBlocks: verifying((options?: ReadBlocksOptions) => checkpoint.readBlocks(options)) };
}
