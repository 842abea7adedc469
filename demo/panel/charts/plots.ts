import type { ComparisonRow, QuantizationInspection, TensorReport } from "nibble-webgpu";
import { axisX, axisY, cell, dot, gridX, gridY, line, link, plot, type PlotOptions, rectY, ruleX, ruleY, text } from "@observablehq/plot";
import { figure, megabytes, smallFigure } from "../format.ts";
import { tensorNote } from "../captions.ts";
import { percentileHeight, placeLabels, type Segment, ticksBetween } from "./labels.ts";

const accent = "var(--accent-color)";
const faint = "var(--line-color)";

/** Of the charts with two axes, px. */
const frame = { height: 270, marginLeft: 56, marginTop: 26, marginBottom: 36 };

/** Short, however small. */
const tickText = (tick: number): string => (tick < 1e-3 ? tick.toExponential() : String(tick));

/** Plot's own style element would break a policy without inline styles; chartFigure.ts has its rules. */
function draw(options: PlotOptions): SVGSVGElement {
  const drawing = plot({ className: "plot", ...options }) as SVGSVGElement;
  drawing.querySelector("style")!.remove();
  for (const group of drawing.querySelectorAll("g[aria-label]")) group.removeAttribute("aria-label"); // a group without a role may have none
  drawing.setAttribute("role", "img");
  return drawing;
}

const measures = {
  perplexity: {
    label: "perplexity",
    of: (row: ComparisonRow) => row.perplexity,
    /** Of the difference to the baseline: a text that is hard is hard for all of them. */
    errorOf: (row: ComparisonRow, baseline: ComparisonRow) => row.ratioError * baseline.perplexity,
  },
  klDivergence: { label: "KL divergence, nats", of: (row: ComparisonRow) => row.klDivergence.mean, errorOf: (row: ComparisonRow) => row.klDivergence.error },
};

/** Perplexity or KL divergence against stored megabytes, both logarithmic, with the line of those that nothing smaller beats. */
export function sizePlot(rows: readonly ComparisonRow[], measure: keyof typeof measures, width: number): SVGSVGElement {
  const { label, of, errorOf } = measures[measure];
  const points = rows
    .filter((row) => Number.isFinite(of(row)) && of(row) > 0)
    .map((row) => ({ name: row.name, x: row.bytes.total / 1e6, y: of(row), low: Math.max(of(row) - errorOf(row, rows[0]!), of(row) / 10), high: of(row) + errorOf(row, rows[0]!) }));
  const wide = (low: number, high: number): [number, number] => [low * (low / high) ** 0.08 * 0.985, high * (high / low) ** 0.08 * 1.015];
  const xs = points.map(({ x }) => x);
  const xDomain = wide(Math.min(...xs), Math.max(...xs));
  const yDomain = wide(Math.min(...points.map(({ low }) => low)), Math.max(...points.map(({ high }) => high)));
  const yTicks = ticksBetween(...yDomain);
  const best = frontier(points);
  return draw({
    width,
    ...frame,
    ariaLabel: `${label} against megabytes. ${points.map(({ name, x, y }) => `${name}: ${figure(x, 1)} MB, ${smallFigure(y)}`).join("; ")}`,
    x: { type: "log", domain: xDomain },
    y: { type: "log", domain: yDomain },
    marks: [
      gridY(yTicks, { stroke: faint, strokeOpacity: 1 }),
      axisX(ticksBetween(...xDomain, Math.floor(width / 56)), { label: "MB", labelArrow: "none", text: tickText, tickSize: 0 }),
      axisY(yTicks, { label, labelArrow: "none", text: tickText, tickSize: 0 }),
      line(best, { x: "x", y: "y", stroke: accent, strokeWidth: 1.5, strokeDasharray: "4 4" }),
      link(points, { x: "x", y1: "low", y2: "high", stroke: accent }),
      dot(points, { x: "x", y: "y", r: 4.5, fill: accent, tip: false }),
      (_index, scales) => {
        const [x, y] = [scales.x, scales.y] as [(value: number) => number, (value: number) => number];
        const bars = points.map((point) => ({ x1: x(point.x), x2: x(point.x), y1: y(point.low), y2: y(point.high) }));
        const steps = best.slice(1).map((point, i) => ({ x1: x(best[i]!.x), y1: y(best[i]!.y), x2: x(point.x), y2: y(point.y) }));
        return labels(points.map((point) => ({ name: point.name, x: x(point.x), y: y(point.y) })), [...bars, ...steps], width);
      },
    ],
  });
}

/** The points that nothing smaller beats, by size. */
function frontier<P extends { x: number; y: number }>(points: readonly P[]): P[] {
  let best = Infinity;
  return points.toSorted((a, b) => a.x - b.x || a.y - b.y).filter(({ y }) => {
    const isBetter = y < best;
    best = Math.min(best, y);
    return isBetter;
  });
}

function labels(points: readonly { name: string; x: number; y: number }[], lines: readonly Segment[], width: number): SVGGElement {
  const group = document.createElementNS("http://www.w3.org/2000/svg", "g");
  for (const { text, x, y, leader } of placeLabels(points, lines, { left: 56, right: width - 4, top: 22, bottom: 236 })) {
    const path = document.createElementNS(group.namespaceURI, "path");
    path.setAttribute("d", leader);
    path.setAttribute("stroke", "var(--control-color)");
    path.setAttribute("stroke-width", "0.7");
    const label = document.createElementNS(group.namespaceURI, "text");
    label.setAttribute("class", "name halo");
    label.setAttribute("text-anchor", "start");
    label.setAttribute("x", String(x));
    label.setAttribute("y", String(y));
    label.textContent = text;
    group.append(path, label);
  }
  return group;
}

const percentiles = ["median", "p90", "p95", "p99", "p999", "max"] as const;
const percentileNames: Partial<Record<(typeof percentiles)[number], string>> = { median: "50 %", max: "max" };
/** f32 arithmetic alone moves predictions by about so much. */
const LEAST_DIVERGENCE = 1e-8;

/** From the median to the largest KL divergence of each row, on one logarithmic axis. names: of all rows that there will be, which have their places from the start. */
export function percentilePlot(rows: readonly ComparisonRow[], names: readonly string[], width: number): SVGSVGElement {
  const points = rows.flatMap(({ name, klDivergence }) => percentiles.map((field) => ({ name, field, value: Math.max(klDivergence[field], LEAST_DIVERGENCE) })));
  const ends = rows.map(({ name, klDivergence: { median, max } }) => ({ name, median: Math.max(median, LEAST_DIVERGENCE), max }));
  const widest = ends.toSorted((a, b) => b.max / b.median - a.max / a.median)[0]!.name;
  const domain = [Math.min(...ends.map(({ median }) => median)) / 1.5, Math.max(...ends.map(({ max }) => max)) * 1.5] as [number, number];
  const ticks = ticksBetween(...domain, Math.floor(width / 56));
  return draw({
    width,
    height: percentileHeight(names.length),
    marginLeft: 12 + 7 * Math.max(...names.map(({ length }) => length)),
    marginTop: 28,
    marginBottom: frame.marginBottom,
    marginRight: 24,
    ariaLabel: `KL divergence by percentile. ${rows.map(({ name, klDivergence: { median, p99, max } }) => `${name}: half of the tokens below ${smallFigure(median)}, 99 % below ${smallFigure(p99)}, largest ${smallFigure(max)}`).join("; ")}`,
    x: { type: "log", domain },
    y: { type: "point", domain: names, padding: 0.6 },
    marks: [
      gridX(ticks, { stroke: faint, strokeOpacity: 1 }),
      axisX(ticks, { anchor: "bottom", label: "nats", labelArrow: "none", text: tickText, tickSize: 0 }),
      axisY({ label: null, tickSize: 0 }),
      link(ends, { x1: "median", x2: "max", y: "name", stroke: accent, strokeOpacity: 0.45, strokeWidth: 2 }),
      dot(points, { x: "value", y: "name", r: ({ field }: { field: string }) => (field === "median" || field === "max" ? 4 : 2.5), fill: accent }),
      text(points.filter(({ name, field }) => name === widest && percentileNames[field] !== undefined), { x: "value", y: "name", text: ({ field }: { field: keyof typeof percentileNames }) => percentileNames[field], dy: -13, className: "halo" }),
    ],
    r: { type: "identity" },
  });
}

/** Where a tensor stands on the map. */
export interface MapCell {
  tensor: TensorReport;
  /** "h.3", or a dash for what is in no block. */
  layer: string;
  matrix: string;
}

/** Relative error of every matrix, layer by layer: darker is worse. Cells are buttons; the arrow keys go from one to the next. */
export function tensorMap(cells: readonly MapCell[], chosen: string | null, choose: (tensor: TensorReport) => void, width: number): SVGSVGElement {
  const layers = [...new Set(cells.map(({ layer }) => layer))];
  const matrices = [...new Set(cells.map(({ matrix }) => matrix))];
  const errors = cells.map(({ tensor }) => 10 ** (-tensor.sqnrDb / 20));
  const inBlocks = errors.filter((_, i) => cells[i]!.layer.startsWith("h."));
  const [least, most] = [Math.min(...inBlocks), Math.max(...inBlocks)];
  const shade = (error: number): number => (most > least ? 0.08 + 0.37 * Math.min(1, Math.max(0, (error - least) / (most - least))) : 0.2);
  const showsFigures = width / layers.length > 52;
  const drawing = draw({
    width,
    height: 40 + 44 * matrices.length,
    marginLeft: 92,
    marginTop: 4,
    marginBottom: 30,
    x: { type: "band", domain: layers, padding: 0.06 },
    y: { type: "band", domain: matrices, padding: 0.08 },
    marks: [
      axisX(layers.filter((_, i) => i % Math.ceil((24 * layers.length) / (width - 92)) === 0), { label: null, tickSize: 0 }), // 24 px take one
      axisY({ label: null, tickSize: 0 }),
      cell(cells, { x: "layer", y: "matrix", fill: accent, rx: 4, fillOpacity: (_cell: MapCell, i: number) => shade(errors[i]!), ariaLabel: ({ tensor }: MapCell) => `${tensor.name}: ${tensorNote(tensor.format, tensor.sqnrDb)}` }),
      ...(showsFigures ? [text(cells, { x: "layer", y: "matrix", text: (_cell: MapCell, i: number) => `${figure(100 * errors[i]!, errors[i]! < 0.01 ? 2 : 1)} %`, className: "name", pointerEvents: "none" })] : []),
    ],
    opacity: { type: "identity" },
  });
  drawing.setAttribute("role", "group");
  drawing.setAttribute("aria-label", "Error of each matrix; choose one to see its weights");
  const squares = [...drawing.querySelectorAll<SVGRectElement>("rect[aria-label]")];
  for (const [i, square] of squares.entries()) {
    const { tensor, matrix, layer } = cells[i]!;
    const press = (): void => {
      for (const other of squares) other.setAttribute("aria-pressed", String(other === square));
      focusOn(squares, square);
      choose(tensor);
    };
    square.setAttribute("role", "button");
    square.setAttribute("aria-pressed", String(tensor.name === chosen));
    square.setAttribute("tabindex", tensor.name === chosen || (i === 0 && !cells.some(({ tensor }) => tensor.name === chosen)) ? "0" : "-1");
    square.addEventListener("click", press);
    square.addEventListener("keydown", (event) => {
      const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key] ?? [0, 0];
      if (event.key === "Enter" || event.key === " ") press();
      else if (dx === 0 && dy === 0) return;
      event.preventDefault();
      const next = cells.findIndex((other) => other.layer === layers[layers.indexOf(layer) + dx!] && other.matrix === matrices[matrices.indexOf(matrix) + dy!]);
      if (next >= 0 && (dx !== 0 || dy !== 0)) focusOn(squares, squares[next]!);
    });
  }
  return drawing;
}

/** One of them is in the tab order: the one used last. */
function focusOn(squares: readonly SVGRectElement[], wanted: SVGRectElement): void {
  for (const square of squares) square.setAttribute("tabindex", square === wanted ? "0" : "-1");
  wanted.focus();
}

/** Weights before (area) and after (bars), counts on a square-root axis, with the levels of the worst group as ticks below. */
export function histogramPlot({ histogram, grid }: QuantizationInspection, width: number): SVGSVGElement {
  const bins = Array.from(histogram.before, (before, i) => ({ x1: histogram.edges[i]!, x2: histogram.edges[i + 1]!, before, after: histogram.after[i]! }));
  const levels = grid ? [...grid.levels].filter((level) => level >= bins[0]!.x1 && level <= bins.at(-1)!.x2) : [];
  return draw({
    width,
    ...frame,
    ariaLabel: `Histogram of ${bins.reduce((sum, { before }) => sum + before, 0).toLocaleString("en")} weights before and after, ${bins.length} bins${levels.length > 0 ? `, with ${levels.length} levels` : ""}`,
    x: { label: "weight", labelArrow: "none" },
    y: { type: "sqrt", label: "weights", labelArrow: "none" },
    marks: [
      gridY({ stroke: faint, strokeOpacity: 1, ticks: 4 }),
      axisX({ ticks: 5, label: "weight", labelArrow: "none", tickSize: 0 }),
      axisY({ ticks: 4, label: "weights", labelArrow: "none", tickSize: 0, tickFormat: (tick: number) => (tick >= 1e6 ? `${megabytes(tick)}M` : tick.toLocaleString("en")) }),
      rectY(bins, { x1: "x1", x2: "x2", y: "after", fill: accent, fillOpacity: 0.32, insetLeft: 0, insetRight: 0.5, className: "after" }),
      line(bins.flatMap(({ x1, x2, before }) => [{ x: x1, y: before }, { x: x2, y: before }]), { x: "x", y: "y", stroke: "var(--ink-color)", strokeWidth: 1.2, className: "before" }),
      ...(levels.length > 0 && levels.length <= 64 ? [ruleX(levels, { stroke: "var(--warn-color)", strokeOpacity: 0.7, strokeWidth: 1, strokeDasharray: "2 3", className: "levels" })] : []),
      dot(levels, { x: (level: number) => level, y: () => 0, symbol: "triangle", r: levels.length > 64 ? 1.2 : 2.6, fill: "var(--warn-color)", dy: 4, className: "level" }),
      ruleY([0], { stroke: faint }),
    ],
  });
}
