import { open, rename, rm } from "node:fs/promises";
import { EngineError } from "../index.ts";

/**
 * Writes a stream under another name and renames it at the end, so that nobody finds half a file. Gives its length in bytes.
 * @throws EngineError `storage` where the disk fails, else what the stream fails with; either way nothing is left behind
 */
export async function writeStream(path: string, stream: ReadableStream<Uint8Array>, onBytes: (writtenBytes: number) => void): Promise<number> {
  const partial = `${path}.${process.pid}.partial`;
  try {
    let writtenBytes = 0;
    const file = await open(partial, "w");
    try {
      for await (const chunk of stream) {
        await file.writeFile(chunk); // from where the last one ended, and all of it
        writtenBytes += chunk.length;
        onBytes(writtenBytes);
      }
    } finally {
      await file.close();
    }
    await rename(partial, path);
    return writtenBytes;
  } catch (error) {
    await rm(partial, { force: true });
    const isOfDisk = error instanceof Error && "syscall" in error;
    throw isOfDisk ? new EngineError("storage", `Cannot write the file "${path}": ${error.message}`, { path }, { cause: error }) : error;
  } finally {
    await stream.cancel().catch(() => undefined); // what is left where the file could not be opened
  }
}
