import { EngineError } from "../errors.ts";
import type { QuantizedTensor, TensorFormat } from "../types.ts";
import { type Block, dot, factorUpper, subtractProducts } from "./linearAlgebra.ts";
import { groupLayout, groupOf, type ScaledFormat } from "./formats.ts";
import { firstNonFinite } from "./finite.ts";
import { gridOf } from "./grid.ts";
import { badWeight, emptyGroups, fitGroup, forEachGroup, quantizeTensor, assembleTensor, validateWeights, withNestedScales } from "./nearest.ts";
import { pausing } from "./pause.ts";

export interface GptqOptions {
  /** Round the columns whose inputs are largest first. @default false */
  activationOrder?: boolean;
  /** Awaited every 20 ms of work, so that a page stays alive; may throw. */
  rest?: () => Promise<void>;
}

/** Columns whose errors reach the later ones together. */
const BLOCK = 128;
/** Rows that are rounded between two pauses. */
const STRIP = 16;
/** Shares of the mean diagonal that are added to the diagonal, the next where the one before leaves H without a factorization. */
const DAMPINGS = [0.01, 0.1, 1, 10];

/**
 * GPTQ (arXiv:2210.17323): rounds column by column, and lets the columns that are left make up for each column's error, so that
 * Σ_rows ΔW · H · ΔWᵀ, the squared error of the outputs, becomes small. H = gram + 1 % of its mean diagonal (the factor 2 changes nothing).
 *
 * With H = R · Rᵀ, R upper triangular, that sum is ‖ΔW · R‖², and column k of ΔW · R vanishes where w'_k = w_k − Σ_{i<k} (w'_i − w_i) · R_ik / R_kk.
 * This target is what the paper's updates by rows of the Cholesky factor of H⁻¹ make of w_k (the two are equal: arXiv:2307.13304, theorem 6), without the inverse.
 *
 * A group's scale suits its weights as updated when the group begins; the original weights where the columns change their order,
 * where a scale serves more than a group of a row, and under double quantization, which needs all scales at once.
 * A column that no input reached is rounded to the nearest, where the paper makes it 0: other text may reach it.
 * f32 and f16 are rounded as by quantizeTensor, whose codes, scales and errors these are.
 * @param values f32 [rows, K], row-major; only read
 * @param gram f32 [K, K], symmetric: mean x_j · x_k of the inputs
 * @throws EngineError `quantize` also for a gram that is not finite or far from positive semidefinite; RangeError for one of another size
 */
export async function quantizeGptq(
  values: Float32Array,
  shape: readonly [rows: number, columns: number],
  format: TensorFormat,
  gram: Float32Array,
  { activationOrder = false, rest }: GptqOptions = {},
): Promise<QuantizedTensor> {
  validateWeights(values, shape, format);
  validateGram(gram, shape[1]);
  if (format.type === "f32" || format.type === "f16") return quantizeTensor(values, shape, format);
  const pause = pausing(rest);
  const order = columnOrder(gram, shape[1], activationOrder);
  const feedback = await feedbackOf(gram, order, pause);
  return roundColumns(values, shape, format, { order, feedback, hasStaticGroups: activationOrder || !beginsInRows(format) }, pause);
}

function validateGram(gram: Float32Array, K: number): void {
  if (gram.length !== K * K) throw new RangeError(`gram has ${gram.length} elements; expected ${K * K} for ${K} columns.`);
  const bad = firstNonFinite(gram);
  if (bad < 0) return;
  const place = { row: Math.floor(bad / K), column: bad % K, value: gram[bad] };
  throw new EngineError("quantize", `The inputs' gram holds ${place.value} at [${place.row}, ${place.column}]; expected finite numbers.`, place);
}

/** Whether a group begins when its first column is reached, rather than at the start. */
function beginsInRows(format: ScaledFormat): boolean {
  return "block" in format ? !format.doubleQuantization : typeof format.granularity === "object";
}

/** u32 [K]: the columns in the order of rounding; where asked for, of falling diagonal, the lower index first where two are equal. */
function columnOrder(gram: Float32Array, K: number, activationOrder: boolean): Uint32Array {
  const order = Uint32Array.from({ length: K }, (_, k) => k);
  return activationOrder ? order.sort((i, j) => gram[j * K + j]! - gram[i * K + i]! || i - j) : order;
}

/** f64 [K, K], in the order of rounding, below the diagonal: element (k, i) is R_ik / R_kk, by which the error of column i moves the target of column k. */
async function feedbackOf(gram: Float32Array, order: Uint32Array, pause: () => Promise<void>): Promise<Float64Array> {
  const K = order.length;
  const h = new Float64Array(K * K);
  const meanDiagonal = order.reduce((sum, k) => sum + gram[k * K + k]!, 0) / K;
  for (const damping of DAMPINGS) {
    for (let i = 0; i < K; i++) {
      for (let j = i; j < K; j++) h[i * K + j] = gram[order[i]! * K + order[j]!]!;
      h[i * K + i]! += damping * (meanDiagonal || 1);
      await pause();
    }
    if (!(await factorUpper(h, K, pause))) continue;
    for (let k = 0; k < K; k++) {
      for (let i = 0; i < k; i++) h[k * K + i] = h[i * K + k]! / h[k * K + k]!;
      await pause();
    }
    return h;
  }
  throw new EngineError("quantize", `The inputs' gram [${K}, ${K}] has no Cholesky factorization, even with ${DAMPINGS.at(-1)} times its mean diagonal ${meanDiagonal} added; expected mean x · xᵀ of inputs x.`, { columns: K, meanDiagonal });
}

interface Plan {
  order: Uint32Array;
  feedback: Float64Array;
  hasStaticGroups: boolean;
}

async function roundColumns(values: Float32Array, shape: readonly [number, number], format: ScaledFormat, { order, feedback, hasStaticGroups }: Plan, pause: () => Promise<void>): Promise<QuantizedTensor> {
  const [rows, K] = shape;
  const layout = groupLayout(format, shape);
  const stored = emptyGroups(format, shape);
  const { codes, scales, zeroPoints } = stored;
  const grid = gridOf(format); // chooses codes
  const restoring = gridOf(format); // says what they restore: under double quantization its scales are others
  const fit = (weights: Float32Array, start: number, end: number, group: number): void => {
    fitGroup(grid, weights, start, end, shape, format);
    scales[group] = grid.scale;
    if (zeroPoints) zeroPoints[group] = grid.zeroPoint;
  };
  if (hasStaticGroups) forEachGroup(layout, (start, end, group) => fit(values, start, end, group));
  const result = withNestedScales(stored, format);

  const updated = hasStaticGroups ? values : values.slice(); // f32 [rows, K]: a group's weights when it begins
  const errors = new Float64Array(rows * K); // [rows, K in the order of rounding]: w' − w
  const blockLength = hasStaticGroups ? BLOCK : Math.max(BLOCK, layout.groupLength);
  const targets = new Float64Array(STRIP * blockLength);

  /** Rounds columns j0 … j1 of the order in one row, whose targets, as far as earlier blocks move them, begin at targets[start]. */
  const roundRow = (row: number, start: number, j0: number, j1: number): void => {
    const at = row * K;
    const target = (j: number): number => targets[start + j - j0]! - dot(errors, at + j0, feedback, j * K + j0, j - j0);
    for (let j = j0; j < j1; j++) {
      const index = at + order[j]!;
      const group = groupOf(index, layout);
      if (!hasStaticGroups && j % layout.groupLength === 0) {
        const groupEnd = Math.min(j + layout.groupLength, K);
        for (let k = j; k < groupEnd; k++) {
          const weight = target(k);
          updated[at + k] = weight;
          errors[at + k] = weight - values[at + k]!; // as if it needed no rounding
        }
        fit(updated, at + j, at + groupEnd, group);
      }
      const zeroPoint = zeroPoints ? zeroPoints[group]! : 0;
      grid.set(scales[group]!, zeroPoint);
      restoring.set(result.scales[group]!, zeroPoint);
      const code = grid.code(target(j));
      const error = restoring.value(code) - values[index]!;
      if (!Number.isFinite(error)) throw badWeight(values, index, shape, format, "a weight whose rounded form an f32 can hold");
      codes[index] = code;
      errors[at + j] = error;
    }
  };

  for (let j0 = 0; j0 < K; j0 += blockLength) {
    const j1 = Math.min(j0 + blockLength, K);
    for (let row0 = 0; row0 < rows; row0 += STRIP) {
      const row1 = Math.min(row0 + STRIP, rows);
      for (let row = row0; row < row1; row++) {
        for (let j = j0; j < j1; j++) targets[(row - row0) * blockLength + j - j0] = values[row * K + order[j]!]!;
      }
      const block = (array: Float64Array, start: number): Block => ({ values: array, start, stride: K });
      subtractProducts({ values: targets, start: 0, stride: blockLength }, block(errors, row0 * K), block(feedback, j0 * K), row1 - row0, j1 - j0, j0);
      for (let row = row0; row < row1; row++) roundRow(row, (row - row0) * blockLength, j0, j1);
      await pause();
    }
  }
  return assembleTensor(format, shape, result);
}
