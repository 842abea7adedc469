import { EngineError } from "../../errors.ts";

/** Makes arrays. @param need begins a sentence: "The KV cache needs" @throws EngineError `outOfMemory` where the engine has no room for them */
export function allocating<T>(need: string, make: () => T): T {
  try {
    return make();
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    throw new EngineError("outOfMemory", `${need} more memory than there is: ${cause.message}.`, {}, { cause });
  }
}
