import type { exportSafetensors, loadModel } from "../index.ts";

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
  /** Creates or replaces a file, whole or not at all; gives its length. */
  writeFile(path: string, stream: ReadableStream<Uint8Array>, onBytes: (writtenBytes: number) => void): Promise<number>;
  loadModel: typeof loadModel;
  exportSafetensors: typeof exportSafetensors;
  /** Dawn, or null where the package "webgpu" is not installed. */
  requestGpu(): Promise<GPU | null>;
}
