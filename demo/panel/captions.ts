import { calibratedField, describeFormat, type ComparisonRow, type QuantizationInspection, type TensorFormat } from "nibble-webgpu";
import { figure, megabytes, percent, smallFigure } from "./format.ts";
import { type Recipe, recipeOf } from "./recipes.ts";

/** What a recipe does, in two or three sentences. null: what a recipe is. */
export function recipeCaption(recipe: Recipe | null): string {
  if (recipe === null) return "A recipe says how each matrix is stored: in how many bits, and how many weights share one scale. Point at one to read what it does.";
  const full = recipeOf(recipe);
  const { linear, activations = "float", outlierThreshold, rounding = "nearest", equalization = "none" } = full;
  const parts = [formatIdea(linear)];
  if (activations !== "float") parts.push(`The inputs of each matrix are rounded to int8 as well, ${activations.ranges === "dynamic" ? "with a scale for each token, found while it runs" : "within a range found beforehand"}: products become exact integers.`);
  if (outlierThreshold !== undefined) parts.push(`Inputs of at least ${outlierThreshold} would stretch that scale for all others, so they stay float (LLM.int8()).`);
  if (rounding === "gptq") parts.push("GPTQ rounds column by column and lets the columns to come make up for each error.");
  if (equalization === "smoothquant") parts.push("SmoothQuant moves the range of hard inputs into the weights, which take it more easily.");
  if (equalization === "awq") parts.push("AWQ scales up the weights that meet large inputs before it rounds, so that they lose less.");
  if (calibratedField(full) !== null) parts.push("Calibration: text that is not the one measured runs through the float model first, to see what the inputs are like.");
  return parts.join(" ");
}

/** What a format is, without figures. */
export function formatIdea(format: TensorFormat): string {
  switch (format.type) {
    case "f32":
      return "32-bit floats, as the model was trained: nothing is lost, nothing saved.";
    case "f16":
      return "16-bit floats: half the bytes, with 11 significant bits left of 24.";
    case "int8":
    case "int4": {
      const top = format.type === "int8" ? 127 : 7;
      const mode =
        format.mode === "absmax"
          ? `absmax divides weights by their largest magnitude and rounds them to −${top}…${top}: zero stays zero, and one large weight makes the steps of all its neighbours coarse.`
          : `A zero-point shifts the grid so that its ${format.type === "int8" ? 256 : 16} steps span exactly from the smallest weight to the largest: nothing of it is wasted where weights lean to one side.`;
      const sharing =
        format.granularity === "tensor" ? "One scale serves the whole tensor." : format.granularity === "channel" ? "Each output channel (row) has a scale of its own." : `Each group of ${format.granularity.group} weights in a row has a scale of its own: finer steps, ${figure(32 / format.granularity.group, 2)} bits per weight more.`;
      return `${mode} ${sharing}`;
    }
    case "nf4":
    case "fp4": {
      const levels = format.type === "nf4" ? "NF4 has 16 levels, placed where a bell curve has its weights: dense around zero, sparse outside." : "FP4 has 16 levels like tiny floats: each step out doubles.";
      const nested = format.doubleQuantization ? " Double quantization stores those scales in 8 bits, too." : "";
      return `${levels} One scale serves ${format.block} weights.${nested}`;
    }
  }
}

/** What happened to one tensor, with its own figures. */
export function tensorCaption({ format, grid, codes, error, bitsPerWeight, shape, rows, columns }: QuantizationInspection): string {
  const parts = [formatIdea(format)];
  if (grid && "mode" in format) {
    parts.push(`In the worst ${shared(format)} of this tensor one step is ${smallFigure(grid.scale)}, so a weight moves by up to half of that${format.mode === "zeropoint" ? `; its zero is code ${grid.zeroPoint}` : ""}.`);
  } else if (grid) {
    parts.push(`The worst block of this tensor is scaled by its largest magnitude, ${smallFigure(grid.scale)}.`);
  }
  if ("doubleQuantization" in format && format.doubleQuantization) parts.push(`That brings the cost of a weight to ${figure(bitsPerWeight)} bits, from ${figure(4 + 32 / format.block)}.`);
  if (codes) parts.push(`The codes carry ${figure(codes.entropyBits)} of their ${codes.storedBits} bits: ${codes.entropyBits < codes.storedBits - 1 ? "outer levels stand nearly empty" : "they are well used"}.`);
  const outliers = [rows.outliers.length > 0 ? `${rows.outliers.length} of ${shape[0]} rows` : null, columns.outliers.length > 0 ? `${columns.outliers.length} of ${shape[1]} columns` : null].filter((part) => part !== null);
  if (outliers.length > 0) parts.push(`${outliers.join(" and ")} are outliers, three times the median.`);
  parts.push(Number.isFinite(error.sqnrDb) ? `The error is ${figure(error.sqnrDb, 1)} dB below the weights: ${percent(10 ** (-error.sqnrDb / 20))} of their size.` : "No weight changed.");
  return parts.join(" ");
}

/** Size and loss of the rows. */
export function sizeCaption(rows: readonly ComparisonRow[]): string {
  const [baseline, ...others] = rows.filter(({ error }) => !error);
  const smallest = others.toSorted((a, b) => a.bytes.total - b.bytes.total)[0];
  if (!baseline || !smallest) return "Each dot is a recipe. The dashed line joins those that nothing smaller beats: what is above it is never worth choosing.";
  const saved = baseline.bytes.total / smallest.bytes.total;
  return `${baseline.name} takes ${megabytes(baseline.bytes.total)} MB, ${smallest.name} ${megabytes(smallest.bytes.total)}: ${figure(saved, 1)} times less, for a perplexity of ${figure(smallest.perplexity)} instead of ${figure(baseline.perplexity)}. The dashed line joins the recipes that nothing smaller beats: what is above it is never worth choosing.`;
}

/** KL divergence and its percentiles. */
export function divergenceCaption(rows: readonly ComparisonRow[]): string {
  const worst = rows.slice(1).filter(({ error }) => !error).toSorted((a, b) => b.klDivergence.mean - a.klDivergence.mean)[0];
  const idea = "Perplexity asks only how likely the true token was; KL divergence compares the whole distribution with the baseline's.";
  if (!worst) return idea;
  const { median, p99 } = worst.klDivergence;
  return `${idea} Damage is uneven: for ${worst.name} one token in a hundred moves ${figure(p99 / median, 0)} times as far as the middle one. A mean hides that, so the whole range is drawn.`;
}

function shared(format: TensorFormat): string {
  if (!("granularity" in format)) return "block";
  return typeof format.granularity === "object" ? "group" : format.granularity === "channel" ? "row" : "case";
}

/** Format and error of a matrix in a few words. */
export function tensorNote(format: TensorFormat, sqnrDb: number): string {
  return `${describeFormat(format)}, ${Number.isFinite(sqnrDb) ? `error ${figure(sqnrDb, 1)} dB below the weights` : "exact"}`;
}
