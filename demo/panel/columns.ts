import type { ComparisonRow } from "nibble-webgpu";
import { change, figure, megabytes, percent, rate, smallFigure } from "./format.ts";

export interface Column {
  readonly id: string;
  readonly label: string;
  /** Of the cell, in rem. */
  readonly width: number;
  /** What the figure means, with those of the rows where there are any. */
  readonly caption: (rows: readonly ComparisonRow[]) => string;
  readonly text: (row: ComparisonRow) => string;
  readonly sortBy: (row: ComparisonRow) => number;
  /** Against the baseline, of which there is nothing to say. */
  readonly isPaired?: true;
  /** When it is shown: always, where the panel is wide, or when more columns are asked for. */
  readonly rank: "main" | "wide" | "more";
}

/** The figures of a row, in the order of the table; its name stands before them. */
export const columns: readonly Column[] = [
  {
    id: "bitsPerWeight",
    label: "bits/weight",
    width: 6.6,
    caption: (rows) => `What one weight of the blocks takes, its share of the scales included; the embedding is not in it.${about(last(rows), (row) => ` ${row.name} comes to ${figure(row.bitsPerWeight)}: what is above the bits of a code are scales and zero points.`)}`,
    text: ({ bitsPerWeight }) => figure(bitsPerWeight),
    sortBy: ({ bitsPerWeight }) => bitsPerWeight,
    rank: "wide",
  },
  {
    id: "bytes",
    label: "MB",
    width: 4.6,
    caption: (rows) => `Everything stored: blocks, embedding, scales, biases.${about(last(rows), ({ name, bytes }) => ` Of ${name}'s ${megabytes(bytes.total)} MB the embedding takes ${megabytes(bytes.embedding)}, scales and small vectors ${megabytes(bytes.scales)}.`)}`,
    text: ({ bytes }) => megabytes(bytes.total),
    sortBy: ({ bytes }) => bytes.total,
    rank: "main",
  },
  {
    id: "perplexity",
    label: "perplexity",
    width: 8.6,
    caption: (rows) =>
      `How many equally likely next tokens the model's surprise amounts to; lower is better.${about(rows[0], ({ name, perplexity, standardError }) => ` ${name} hesitates as if between ${figure(perplexity, 1)}. The ± of ${figure(standardError, 1)} is one standard error: another text of this kind and length would land within it two times in three.`)}`,
    text: ({ perplexity, standardError }) => `${figure(perplexity)} ± ${figure(standardError)}`,
    sortBy: ({ perplexity }) => perplexity,
    rank: "main",
  },
  {
    id: "ratio",
    label: "Δ",
    width: 9,
    caption: (rows) =>
      `The change in perplexity that the recipe makes. Both models read the same tokens, so the text's own difficulty cancels and this ± is much smaller.${about(last(rows), ({ name, ratio, ratioError }) => ` For ${name} the change is ${Math.abs(ratio - 1) > 2 * ratioError ? "more than twice its error: it is real" : "less than twice its error: it could be chance"}.`)}`,
    text: ({ ratio, ratioError }) => change(ratio, ratioError),
    sortBy: ({ ratio }) => ratio,
    isPaired: true,
    rank: "main",
  },
  {
    id: "kl",
    label: "KL mean",
    width: 10,
    caption: (rows) =>
      `Kullback–Leibler divergence: how far the predictions moved from the baseline's, in nats per token, whether or not the move helped. 0 is no change; it sees damage long before perplexity does.${about(last(rows), ({ name, klDivergence }) => ` ${name}'s mean of ${smallFigure(klDivergence.mean)} hides that half of the tokens are below ${smallFigure(klDivergence.median)} and one reaches ${smallFigure(klDivergence.max)}.`)}`,
    text: ({ klDivergence: { mean, error } }) => `${smallFigure(mean)} ± ${smallFigure(error, 1)}`,
    sortBy: ({ klDivergence }) => klDivergence.mean,
    isPaired: true,
    rank: "main",
  },
  ...(
    [
      ["median", "KL median", "Half of the tokens moved less than this."],
      ["p99", "KL 99 %", "One token in a hundred moved more than this."],
      ["max", "KL max", "The token that moved most."],
    ] as const
  ).map(
    ([field, label, caption]): Column => ({
      id: `kl-${field}`,
      label,
      width: 5.6,
      caption: () => `${caption} In nats, from the baseline's distribution.`,
      text: ({ klDivergence }) => smallFigure(klDivergence[field]),
      sortBy: ({ klDivergence }) => klDivergence[field],
      isPaired: true,
      rank: "more",
    }),
  ),
  {
    id: "sameTop",
    label: "same top",
    width: 7.6,
    caption: (rows) =>
      `How often both models put the same token first.${about(last(rows), ({ name, sameTopToken }) => ` Writing greedily, ${name} would part from the baseline about once in ${figure(1 / (1 - sameTopToken.fraction), 0)} tokens.`)}`,
    text: ({ sameTopToken: { fraction, error } }) => `${percent(fraction)} ± ${figure(100 * error, 1)}`,
    sortBy: ({ sameTopToken }) => sameTopToken.fraction,
    isPaired: true,
    rank: "wide",
  },
  {
    id: "deltaP",
    label: "Δp",
    width: 7.6,
    caption: () => "How the probability of the true next token changed, on average, in points of a percent. Below zero: the recipe believes in the text a little less.",
    text: ({ deltaP: { mean, error } }) => `${signed(100 * mean)} ± ${figure(100 * error)}`,
    sortBy: ({ deltaP }) => deltaP.mean,
    isPaired: true,
    rank: "more",
  },
  {
    id: "deltaPRms",
    label: "Δp RMS",
    width: 5.2,
    caption: () => "The typical size of that change, whichever way it goes, in points of a percent.",
    text: ({ deltaP }) => figure(100 * deltaP.rms),
    sortBy: ({ deltaP }) => deltaP.rms,
    isPaired: true,
    rank: "more",
  },
  {
    id: "quantizeMs",
    label: "quantize ms",
    width: 6.4,
    caption: () => "What it took to quantize the checkpoint here, calibration not counted.",
    text: ({ quantizeMs }) => figure(quantizeMs, 0),
    sortBy: ({ quantizeMs }) => quantizeMs,
    rank: "more",
  },
  {
    id: "prefill",
    label: "read tok/s",
    width: 6,
    caption: () => "Tokens per second on this device when reading a prompt, many tokens at once.",
    text: ({ prefillTokensPerSecond }) => rate(prefillTokensPerSecond),
    sortBy: ({ prefillTokensPerSecond }) => prefillTokensPerSecond,
    rank: "more",
  },
  {
    id: "decode",
    label: "write tok/s",
    width: 6.4,
    caption: () => "Tokens per second on this device when writing, one at a time. Every weight is read for every token: fewer bytes, more speed, where memory is what limits.",
    text: ({ decodeTokensPerSecond }) => rate(decodeTokensPerSecond),
    sortBy: ({ decodeTokensPerSecond }) => decodeTokensPerSecond,
    rank: "wide",
  },
];

/** Cell of a row; the baseline is not compared with itself. */
export function cellText(column: Column, row: ComparisonRow, isBaseline: boolean): string {
  return isBaseline && column.isPaired ? "–" : column.text(row);
}

function signed(value: number): string {
  return Number.isFinite(value) ? `${value < 0 ? "−" : "+"}${figure(Math.abs(value))}` : "–";
}

/** The last recipe that was measured, the baseline excepted. */
function last(rows: readonly ComparisonRow[]): ComparisonRow | undefined {
  return rows.slice(1).findLast(({ error }) => !error);
}

function about(row: ComparisonRow | undefined, sentence: (row: ComparisonRow) => string): string {
  return row ? sentence(row) : "";
}
