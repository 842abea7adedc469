import { EngineError } from "../errors.ts";
import { firstNonFinite } from "../quantize/finite.ts";

/** logits: f32 [V]; throws `shader` for NaN and Infinity. */
export function requireFiniteLogits(logits: Float32Array): void {
  const id = firstNonFinite(logits);
  if (id >= 0) throw new EngineError("shader", `Logits hold ${logits[id]} at id ${id}; expected finite numbers.`, { id, value: logits[id] });
}
