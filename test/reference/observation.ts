import type { InputStatistics } from "../../src/quantize/inputStatistics.ts";
import type { Gpt2Config } from "../../src/types.ts";
import { tolerances } from "../tolerances.ts";
import { inputStatistics, referenceHidden, type ReferenceWeights } from "./gpt2.ts";
import { nmse } from "./metrics.ts";

/** What the oracle's linear matrices take over these windows, f64 [rows, K], by name. */
export function referenceInputs(config: Gpt2Config, weights: ReferenceWeights, windows: readonly (readonly number[])[]): Map<string, number[]> {
  const inputs = new Map<string, number[]>();
  for (const window of windows) {
    referenceHidden(config, weights, window, { onInput: (name, x) => inputs.set(name, [...(inputs.get(name) ?? []), ...x]) });
  }
  return inputs;
}

/** Why statistics are not the oracle's for these rows, [rows, K]; null where they agree. */
export function disagreement(found: InputStatistics, x: readonly number[]): string | null {
  const K = found.absmax.length;
  const expected = inputStatistics(x, K);
  if (found.rows !== expected.rows) return `${found.rows} rows; expected ${expected.rows}`;
  const moved = found.histogram.reduce((sum, count, bin) => sum + Math.abs(count - expected.histogram[bin]!), 0) / 2;
  if (!(moved <= tolerances.histogramMoved * x.length)) return `${moved} of ${x.length} values are in other bins`;
  for (const field of ["absmax", "meanAbs", "gram"] as const) {
    const values = found[field];
    const error = values && nmse(values, expected[field]);
    if (error !== null && !(error <= tolerances.statisticsNmse)) return `${field} has an NMSE of ${error}`;
  }
  return null;
}
