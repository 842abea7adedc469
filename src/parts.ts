import { EngineError, orAborted, throwIfAborted } from "./errors.ts";

/**
 * A part of the engine that is a file of its own, because most loads do without it. worker.js, quantizer.js and static.js have it inside them.
 * A failure is not kept: the next call asks again.
 * @param name for messages: "the CPU backend"
 * @throws EngineError `network` naming the part; signal.reason on abort
 */
export async function fetchPart<Part>(name: string, importPart: () => Promise<Part>, signal?: AbortSignal): Promise<Part> {
  throwIfAborted(signal);
  try {
    return await orAborted(importPart(), signal);
  } catch (cause) {
    throwIfAborted(signal);
    throw new EngineError("network", `${name} could not be fetched: ${(cause as Error).message}; expected its file where the engine's own lies.`, { part: name }, { cause });
  }
}
