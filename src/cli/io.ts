import type { compareQuantizations, loadModel } from "../index.ts";

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
  loadModel: typeof loadModel;
  compareQuantizations: typeof compareQuantizations;
  /** Dawn, or null where the package "webgpu" is not installed. */
  requestGpu(): Promise<GPU | null>;
}
