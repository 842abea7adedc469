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

const SHOWN_CHARACTERS = 80;
const SHOWN_ITEMS = 8;

/**
 * A value of a file's or a caller's as messages show it: text in quotes, of an array its first items, of an object only that it is one.
 * Short whatever it is, and not recursive: what JSON.parse() takes can be nested too deep for JSON.stringify().
 */
export function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > SHOWN_CHARACTERS ? `${value.slice(0, SHOWN_CHARACTERS)}…` : value);
  if (Array.isArray(value)) {
    const items = value.slice(0, SHOWN_ITEMS).map((item) => (Array.isArray(item) ? "[…]" : show(item)));
    return `[${items.join(", ")}${value.length > SHOWN_ITEMS ? ", …" : ""}]`;
  }
  if (typeof value === "object" && value !== null) return "an object";
  return typeof value === "function" ? "a function" : String(value);
}

/** Settles as `work` does, or rejects with `signal.reason` where the signal fires first; the work then goes on unheard. */
export async function orAborted<T>(work: T | Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  let abort = (): void => undefined;
  const aborted = new Promise<never>((_, reject) => (abort = () => reject(signal?.reason)));
  if (signal?.aborted) abort();
  signal?.addEventListener("abort", abort);
  try {
    return await Promise.race([aborted, work]);
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

/** Throws `signal.reason`, untouched, when the signal has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw signal.reason;
}

/** values: f32, one for each token from `firstTarget` on; throws `shader` with the index in the text of the first whose value is NaN or infinite. */
export function checkFinite(quantity: string, values: Float32Array, firstTarget: number): void {
  const i = values.findIndex((value) => !Number.isFinite(value));
  if (i < 0) return;
  throw new EngineError("shader", `${quantity} of token ${firstTarget + i} of the text is ${values[i]}; expected a finite number.`, {
    token: firstTarget + i,
    value: values[i],
  });
}
