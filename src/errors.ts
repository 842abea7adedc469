/** What went wrong in the world: the file, the network, the device, the memory. What the caller did wrong is a TypeError or RangeError instead. */
export type EngineErrorCode =
  | "unsupported"
  | "network"
  | "checkpoint"
  | "integrity"
  | "quantize"
  | "shader"
  | "outOfMemory"
  | "promptTooLong"
  | "deviceLost"
  | "storage"
  | "disposed"
  | "worker";

/** The one error class of the engine. The message says what was found, what was expected, and where; `details` repeats it as fields. */
export class EngineError extends Error {
  override readonly name = "EngineError" as const;
  readonly code: EngineErrorCode;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: EngineErrorCode, message: string, details: Readonly<Record<string, unknown>> = {}, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
    this.details = details;
  }
}

/** Throws `signal.reason`, untouched, when the signal has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw signal.reason;
}
