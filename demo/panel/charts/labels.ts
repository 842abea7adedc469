const shifts = Array.from({ length: 25 }, (_, i) => (i % 2 === 0 ? 14 : -14) * Math.ceil(i / 2)); // px: 0, −14, 14, −28…
const characterWidth = 6.7; // of the 12 px label font, generously

/** Of the chart of KL divergence by percentile with so many rows, px. */
export const percentileHeight = (rowCount: number): number => 72 + 34 * rowCount;

export interface Label {
  text: string;
  /** Where its baseline begins, px. */
  x: number;
  y: number;
  /** From the point to a label that stands away from it, else "". */
  leader: string;
}

export interface Segment {
  x1: number;
  y1: number;
  x2: number;
  y2: number;
}

interface Box {
  left: number;
  right: number;
  top: number;
  bottom: number;
}

/** In a decade, from many to few. */
const perDecade = [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]] as const;

/** Round figures from low to high for a logarithmic axis, at most so many: even steps where the range is narrow, else parts of decades, whole ones or every few. */
export function ticksBetween(low: number, high: number, most = 7): number[] {
  const step = 10 ** Math.floor(Math.log10(high - low));
  const first = Math.floor(Math.log10(low));
  const decades = Array.from({ length: Math.ceil(Math.log10(high)) - first + 1 }, (_, i) => 10 ** (first + i));
  const candidates =
    high / low > 4
      ? [...perDecade.map((factors) => decades.flatMap((power) => factors.map((factor) => factor * power))), ...[2, 3, 4].map((every) => decades.filter((_, i) => i % every === 0))]
      : [0.2, 0.5, 1, 2, 5].map((factor) => Array.from({ length: 12 }, (_, i) => (Math.ceil(low / (factor * step)) + i) * factor * step));
  const within = candidates.map((ticks) => ticks.filter((tick) => tick >= low && tick <= high));
  return (within.find(({ length }) => length <= most) ?? within.at(-1)!).map((tick) => Number(tick.toPrecision(6)));
}

/** Puts each name in the first free place beside its point, from the top down, off the other names, points and lines; where all are taken, to its right. All in px. */
export function placeLabels(points: readonly { name: string; x: number; y: number }[], lines: readonly Segment[], bounds: Box): Label[] {
  const taken: Box[] = points.map(({ x, y }) => ({ left: x - 6, right: x + 6, top: y - 6, bottom: y + 6 }));
  return points
    .toSorted((a, b) => a.y - b.y)
    .map(({ name, x, y }) => {
      const labelWidth = name.length * characterWidth;
      const places = shifts.flatMap((shift) => {
        const away = shift === 0 ? 9 : 18; // room for the leader
        return [away, -away - labelWidth].map((dx): Box & { label: Label } => {
          const left = x + dx;
          const baseline = y + 4 + shift;
          const leader = shift === 0 ? "" : `M${x} ${y}L${dx > 0 ? left - 2 : left + labelWidth} ${baseline - 4}`;
          return { left, right: left + labelWidth, top: baseline - 11, bottom: baseline + 3, label: { text: name, x: left, y: baseline, leader } };
        });
      });
      const isInside = ({ left, right, top, bottom }: Box): boolean => left > bounds.left && right < bounds.right && top > bounds.top && bottom < bounds.bottom;
      const isFree = (place: Box): boolean => isInside(place) && !taken.some((other) => overlap(place, other));
      const place = places.find((place) => isFree(place) && !lines.some((line) => crosses(place, line))) ?? places.find(isFree) ?? places[0]!;
      taken.push(place);
      return place.label;
    });
}

function overlap(a: Box, b: Box): boolean {
  return a.left <= b.right && b.left <= a.right && a.top <= b.bottom && b.top <= a.bottom;
}

/** Looks at a point of the line every 3 px: a name is wider and higher than that. */
function crosses({ left, right, top, bottom }: Box, { x1, y1, x2, y2 }: Segment): boolean {
  const steps = Math.ceil(Math.hypot(x2 - x1, y2 - y1) / 3) || 1;
  return Array.from({ length: steps + 1 }, (_, i) => [x1 + ((x2 - x1) * i) / steps, y1 + ((y2 - y1) * i) / steps] as const).some(([x, y]) => x > left && x < right && y > top && y < bottom);
}
