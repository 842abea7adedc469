import { EngineError } from "../errors.ts";

/** values: f32 [rows of a block]; throws `shader` with the index in the text of the first token whose value is NaN or infinite. */
export function checkFinite(quantity: string, values: Float32Array, firstTarget: number): void {
  const i = values.findIndex((value) => !Number.isFinite(value));
  if (i < 0) return;
  throw new EngineError("shader", `${quantity} of token ${firstTarget + i} of the text is ${values[i]}; expected a finite number.`, {
    token: firstTarget + i,
    value: values[i],
  });
}
