const shifts = Array.from({ length: 25 }, (_, i) => (i % 2 === 0 ? 14 : -14) * Math.ceil(i / 2)); // px: 0, −14, 14, −28…
const characterWidth = 6.7; // of the 12 px label font, generously

export interface Label {
  text: string;
  /** Where its baseline begins, px. */
  x: number;
  y: number;
  /** From the point to a label that stands away from it, else "". */
  leader: string;
}

interface Box {
  left: number;
  right: number;
  top: number;
  bottom: number;
}

/** Round figures from low to high, three to seven of them: powers of ten where the range is wide, even steps where it is narrow. */
export function ticksBetween(low: number, high: number): number[] {
  const decade = 10 ** Math.floor(Math.log10(high - low));
  const step = [0.2, 0.5, 1, 2].map((factor) => factor * decade).find((size) => (high - low) / size <= 6)!;
  const even = Array.from({ length: 12 }, (_, i) => (Math.ceil(low / step) + i) * step);
  const decades = Array.from({ length: 16 }, (_, i) => 10 ** (Math.floor(Math.log10(low)) + i));
  const perDecade = high / low > 300 ? [1] : high / low > 20 ? [1, 2, 5] : [1, 1.5, 2, 3, 5, 7];
  const candidates = high / low > 2.5 ? decades.flatMap((power) => perDecade.map((factor) => factor * power)) : even;
  return candidates.filter((tick) => tick >= low && tick <= high).map((tick) => Number(tick.toPrecision(6)));
}

/** Puts each name in the first free place beside its point, from the top down; where all are taken, to its right. All in px. */
export function placeLabels(points: readonly { name: string; x: number; y: number }[], bounds: Box): Label[] {
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
      const isFree = (place: Box): boolean => {
        const isInside = place.left > bounds.left && place.right < bounds.right && place.top > bounds.top && place.bottom < bounds.bottom;
        return isInside && taken.every((other) => place.left > other.right || place.right < other.left || place.top > other.bottom || place.bottom < other.top);
      };
      const place = places.find(isFree) ?? places[0]!;
      taken.push(place);
      return place.label;
    });
}
