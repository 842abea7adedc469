import { EngineError, show } from "../errors.ts";
import type { SentError } from "./protocol.ts";

/** Causes of causes that cross; one may be its own. */
const MAX_CAUSES = 8;
/** What the caller did wrong stays of its class. */
const builtIn = { TypeError, RangeError } as const;

/** An error as a message holds it. Of anything else that was thrown, what messages show. */
export function sendError(error: unknown, causes = MAX_CAUSES): SentError {
  if (!(error instanceof Error)) return { name: "Error", message: show(error), stack: undefined };
  const { name, message, stack, cause } = error;
  return {
    name,
    message,
    stack,
    ...(error instanceof EngineError ? { code: error.code, details: cloneable(error.details) } : {}),
    ...(cause !== undefined && causes > 0 ? { cause: sendError(cause, causes - 1) } : {}),
  };
}

/** The error again, with the stack that it had where it was thrown. */
export function restoreError({ name, message, stack, code, details, cause }: SentError): Error {
  const options = cause && { cause: restoreError(cause) };
  const error = code !== undefined ? new EngineError(code, message, details, options) : new (builtIn[name as keyof typeof builtIn] ?? Error)(message, options);
  if (error.name !== name) Object.defineProperty(error, "name", { value: name, configurable: true, writable: true });
  if (stack !== undefined) error.stack = stack;
  return error;
}

/** Each field as it is where a message can hold it, else as text. */
function cloneable(details: EngineError["details"]): EngineError["details"] {
  const field = (value: unknown): unknown => {
    try {
      return structuredClone(value);
    } catch {
      return show(value);
    }
  };
  return Object.fromEntries(Object.entries(details).map(([key, value]) => [key, field(value)]));
}
