import type { ComparisonRow } from "nibble-webgpu";
import { nothing, svg, type TemplateResult } from "lit";
import { figure, megabytes } from "./format.ts";

const height = 260;
const margin = { top: 22, right: 20, bottom: 34, left: 52 };
const shifts = Array.from({ length: 25 }, (_, i) => (i % 2 === 0 ? 14 : -14) * Math.ceil(i / 2)); // px: 0, −14, 14, −28…
const characterWidth = 6.7; // of the 12 px label font, generously

interface Point {
  row: ComparisonRow;
  x: number;
  y: number;
}

/**
 * Perplexity against stored megabytes, both logarithmic, drawn `width` px wide; empty axes where nothing has been measured.
 * Its error bars are those of the difference to the first row: a text that is hard is hard for all of them.
 */
export function sizeChart(rows: readonly ComparisonRow[], width: number): TemplateResult {
  const measured = rows.filter(({ perplexity }) => Number.isFinite(perplexity));
  const x = logScale(measured.map(({ bytes }) => bytes.total / 1e6), margin.left, width - margin.right);
  const errors = measured.map(({ ratioError }) => ratioError * measured[0]!.perplexity);
  const y = logScale(measured.flatMap(({ perplexity }, i) => [perplexity - errors[i]!, perplexity + errors[i]!]), height - margin.bottom, margin.top);
  const points = measured.map((row) => ({ row, x: x.at(row.bytes.total / 1e6), y: y.at(row.perplexity) }));
  const label = `Perplexity against megabytes. ${measured.map((row) => `${row.name}: ${megabytes(row.bytes.total)} MB, ${figure(row.perplexity)}`).join("; ")}`;
  return svg`
    <svg viewBox="0 0 ${width} ${height}" width=${width} height=${height} role="img" aria-label=${label}>
      <g class="grid">
        ${y.ticks.map((tick) => svg`<path d="M${margin.left} ${y.at(tick)}H${width - margin.right}"></path>`)}
        <path d="M${margin.left} ${margin.top}V${height - margin.bottom}H${width - margin.right}"></path>
      </g>
      ${y.ticks.map((tick) => svg`<text x=${margin.left - 8} y=${y.at(tick) + 4} text-anchor="end">${tickLabel(tick)}</text>`)}
      ${x.ticks.map((tick) => svg`<text x=${x.at(tick)} y=${height - margin.bottom + 16} text-anchor="middle">${tickLabel(tick)}</text>`)}
      ${measured.length === 0 ? svg`<text x=${(margin.left + width - margin.right) / 2} y=${height / 2} text-anchor="middle">one dot per recipe</text>` : nothing}
      <text x=${width - margin.right} y=${height - 2} text-anchor="end">MB</text>
      <text x="0" y="11">perplexity</text>
      <path class="frontier" d=${frontier(points)}></path>
      ${points.map(
        ({ row, x, y: centre }, i) => svg`
          <path class="error" d="M${x} ${y.at(row.perplexity - errors[i]!)}V${y.at(row.perplexity + errors[i]!)}"></path>
          <circle cx=${x} cy=${centre} r="4.5"></circle>`,
      )}
      ${placeLabels(points, width).map(({ text, x, y, leader }) => svg`<path class="leader" d=${leader}></path><text class="name" x=${x} y=${y}>${text}</text>`)}
    </svg>`;
}

interface Scale {
  at(value: number): number;
  ticks: number[];
}

/** Maps the range of `values`, a little widened, to from…to. */
function logScale(values: readonly number[], from: number, to: number): Scale {
  const positive = values.filter((value) => value > 0);
  const low = Math.min(...positive, Infinity) / 1.02;
  const high = Math.max(...positive, -Infinity) * 1.02;
  if (!(high > low)) return { at: () => (from + to) / 2, ticks: [] };
  const padding = 0.06 * Math.log(high / low);
  const start = Math.log(low) - padding;
  const end = Math.log(high) + padding;
  return {
    at: (value) => from + ((Math.log(Math.max(value, low)) - start) / (end - start)) * (to - from),
    ticks: ticksBetween(Math.exp(start), Math.exp(end)),
  };
}

/** 1, 2, 5, 10… over wide ranges, else even steps of such a size: three to seven values. */
function ticksBetween(low: number, high: number): number[] {
  const decade = 10 ** Math.floor(Math.log10(high - low));
  const step = [0.2, 0.5, 1, 2].map((factor) => factor * decade).find((size) => (high - low) / size <= 6)!;
  const even = Array.from({ length: 12 }, (_, i) => (Math.ceil(low / step) + i) * step);
  const decades = Array.from({ length: 16 }, (_, i) => 10 ** (Math.floor(Math.log10(low)) + i));
  const candidates = high / low > 3 ? decades.flatMap((power) => [power, 2 * power, 5 * power]) : even;
  return candidates.filter((tick) => tick >= low && tick <= high);
}

function tickLabel(tick: number): string {
  return tick >= 1e6 ? tick.toExponential(0) : String(Number(tick.toPrecision(4)));
}

/** A line through the points that nothing smaller beats. */
function frontier(points: readonly Point[]): string {
  let best = Infinity;
  const kept = [...points].sort((a, b) => a.x - b.x || b.y - a.y).filter(({ row }) => {
    const better = row.perplexity < best;
    if (better) best = row.perplexity;
    return better;
  });
  return kept.map(({ x, y }, i) => `${i === 0 ? "M" : "L"}${x} ${y}`).join("");
}

interface Label {
  text: string;
  x: number;
  y: number;
  /** From the point to a label that stands away from it, else "". */
  leader: string;
}

/** Puts each name in the first free place beside its point, from the top down; where all are taken, to its right. */
function placeLabels(points: readonly Point[], width: number): Label[] {
  const taken = points.map(({ x, y }) => ({ left: x - 6, right: x + 6, top: y - 6, bottom: y + 6 }));
  return [...points]
    .sort((a, b) => a.y - b.y)
    .map(({ row, x, y }) => {
      const labelWidth = row.name.length * characterWidth;
      const places = shifts.flatMap((shift) => {
        const away = shift === 0 ? 9 : 18; // room for the leader
        return [away, -away - labelWidth].map((dx) => {
          const left = x + dx;
          const baseline = y + 4 + shift;
          const leader = shift === 0 ? "" : `M${x} ${y}L${dx > 0 ? left - 2 : left + labelWidth} ${baseline - 4}`;
          return { left, right: left + labelWidth, top: baseline - 11, bottom: baseline + 3, label: { text: row.name, x: left, y: baseline, leader } };
        });
      });
      const place =
        places.find(({ left, right, top, bottom }) => {
          const isInside = left > margin.left && right < width && top > margin.top && bottom < height - margin.bottom;
          return isInside && taken.every((other) => left > other.right || right < other.left || top > other.bottom || bottom < other.top);
        }) ?? places[0]!;
      taken.push(place);
      return place.label;
    });
}
