import { type InputStatistics, MAGNITUDE_BINS, magnitudeBin } from "../../src/quantize/inputStatistics.ts";
import type { Gpt2Config } from "../../src/types.ts";
import { type ReferenceWeights, referenceHidden } from "./gpt2.ts";

/** The inputs of every linear matrix for some tokens, by its name: rows f64 [K]. */
export function referenceInputs(config: Gpt2Config, weights: ReferenceWeights, tokens: readonly number[]): Map<string, Float64Array[]> {
  const rows: Float64Array[] = [];
  referenceHidden(config, weights, tokens, { inputRounding: (values) => void rows.push(values.slice()) });
  const inputs = new Map<string, Float64Array[]>();
  for (let layer = 0; layer < config.nLayer; layer++) {
    for (const matrix of ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]) inputs.set(`h.${layer}.${matrix}.weight`, rows.splice(0, tokens.length));
  }
  return inputs;
}

/** What calibration sees of rows of K values, summed in f64. */
export function referenceStatistics(rows: readonly ArrayLike<number>[], K: number): InputStatistics & { gram: Float32Array } {
  const absmax = new Float32Array(K);
  const meanAbs = new Float64Array(K);
  const gram = new Float64Array(K * K);
  const histogram = new Uint32Array(MAGNITUDE_BINS);
  for (const row of rows) {
    for (let i = 0; i < K; i++) {
      const x = row[i]!;
      absmax[i] = Math.max(absmax[i]!, Math.abs(x));
      meanAbs[i]! += Math.abs(x) / rows.length;
      histogram[magnitudeBin(x)]!++;
      for (let j = 0; j < K; j++) gram[i * K + j]! += (x * row[j]!) / rows.length;
    }
  }
  return { rows: rows.length, absmax, meanAbs: Float32Array.from(meanAbs), histogram, gram: Float32Array.from(gram) };
}
