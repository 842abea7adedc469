import type { calibrate, compareQuantizations, exportSafetensors, loadModel } from "../index.ts";

export interface Output {
  write(text: string): void;
  /** Someone watches. */
  readonly isTTY: boolean;
}

/** Everything that a command touches outside itself, so that tests can hand in their own. */
export interface CliIo {
  stdout: Output;
  stderr: Output;
  /** Fires on Ctrl-C, and when nobody reads stdout any more. */
  signal: AbortSignal;
  /** Whole text of a file; "-" is stdin. */
  readText(path: string): Promise<string>;
  /** Replaces the file, or makes it. */
  writeText(path: string, text: string): Promise<void>;
  /** The same for many bytes, whole or not at all; gives their number. */
  writeStream(path: string, stream: ReadableStream<Uint8Array>, onBytes: (writtenBytes: number) => void): Promise<number>;
  loadModel: typeof loadModel;
  exportSafetensors: typeof exportSafetensors;
  compareQuantizations: typeof compareQuantizations;
  calibrate: typeof calibrate;
  /** Dawn, or null where the package "webgpu" is not installed. */
  requestGpu(): Promise<GPU | null>;
}
