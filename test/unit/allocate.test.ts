import { describe, expect, test } from "vitest";
import { type Allocation, allocationFrontier, cheapestWithin, type Choice, neighbours } from "../../src/quantize/allocate.ts";

/** Three formats of four tensors, by hand. */
const items: Choice[][] = [
  [{ bytes: 10, cost: 8 }, { bytes: 20, cost: 1 }, { bytes: 40, cost: 0 }],
  [{ bytes: 10, cost: 2 }, { bytes: 20, cost: 1 }, { bytes: 40, cost: 0 }],
  [{ bytes: 5, cost: 30 }, { bytes: 10, cost: 4 }, { bytes: 20, cost: 0 }],
];

/** Every allocation, the least cost of each size. */
function exhaustive(all: readonly (readonly Choice[])[]): { bytes: number; cost: number }[] {
  let sums = [{ bytes: 0, cost: 0 }];
  for (const choices of all) sums = sums.flatMap((sum) => choices.map(({ bytes, cost }) => ({ bytes: sum.bytes + bytes, cost: sum.cost + cost })));
  sums.sort((a, b) => a.bytes - b.bytes || a.cost - b.cost);
  let least = Infinity;
  return sums.filter(({ cost }) => cost < least && ((least = cost), true));
}

/** Choices from a closed formula: sizes and costs without pattern, cost falling with size. */
function formulaItems(count: number, choices: number): Choice[][] {
  return Array.from({ length: count }, (_, i) => {
    const size = 1000 * (1 + Math.abs(Math.sin(7 * i + 1)));
    const weight = Math.exp(4 * Math.sin(3 * i + 2));
    return Array.from({ length: choices }, (_, c) => ({ bytes: Math.round(size * (c + 1) + 300 * Math.abs(Math.sin(i * 5 + c))), cost: weight * 4 ** -c }));
  });
}

const sumsOf = (allocations: readonly Allocation[]): { bytes: number; cost: number }[] => allocations.map(({ bytes, cost }) => ({ bytes, cost }));

describe("allocationFrontier", () => {
  test("finds the least cost of every size", () => {
    const frontier = allocationFrontier(items);
    expect(sumsOf(frontier)).toEqual(exhaustive(items));
    expect(frontier[0]).toEqual({ bytes: 25, cost: 40, picks: Uint8Array.of(0, 0, 0) });
    expect(frontier.at(-1)).toEqual({ bytes: 100, cost: 0, picks: Uint8Array.of(2, 2, 2) });
  });

  test("is exact to the resolution of its buckets, from the smallest to the best", () => {
    const many = formulaItems(7, 4);
    const exact = exhaustive(many);
    const frontier = allocationFrontier(many);
    expect(sumsOf(frontier)[0]).toEqual(exact[0]);
    expect(frontier.at(-1)!.cost).toBe(exact.at(-1)!.cost);
    for (const limit of exact.map(({ bytes }) => bytes)) {
      const best = exact.findLast(({ bytes }) => bytes <= limit)!;
      expect(cheapestWithin(many, frontier, limit)!.cost).toBeLessThanOrEqual(best.cost * 1.01);
    }
  });

  test("keeps one allocation where there is one choice", () => {
    expect(allocationFrontier([[{ bytes: 3, cost: 1 }], [{ bytes: 4, cost: 2 }]])).toEqual([{ bytes: 7, cost: 3, picks: Uint8Array.of(0, 0) }]);
  });
});

describe("cheapestWithin", () => {
  const frontier = allocationFrontier(items);
  test.each([
    [25, 40],
    [29, 40],
    [30, 14], // 5 more bytes for the third save most
    [40, 7], // then 10 for the first
    [1000, 0],
  ])("of %i bytes costs %i", (limit, cost) => {
    expect(cheapestWithin(items, frontier, limit)!.cost).toBe(cost);
  });

  test("is null where the smallest does not fit", () => {
    expect(cheapestWithin(items, frontier, 24)).toBeNull();
  });

  test("takes up what the frontier leaves, by moves of one item or two", () => {
    expect(cheapestWithin(items, frontier.slice(0, 1), 1000)!.cost).toBe(0);
  });
});

describe("neighbours", () => {
  test("lists the cheapest changes of one item or two within the limit", () => {
    const from = allocationFrontier(items)[1]!; // 30 bytes: 0, 0, 1
    expect(neighbours(items, from, 40, 3).map(({ picks, cost }) => [[...picks], cost])).toEqual([
      [[1, 0, 1], 7],
      [[0, 0, 2], 10],
      [[0, 1, 1], 13],
    ]);
    expect(neighbours(items, from, 24, 3)).toEqual([]);
  });
});
