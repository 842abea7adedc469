import { describe, expect, test } from "vitest";
import { placeLabels, ticksBetween } from "../../demo/panel/charts/labels.ts";

describe("ticksBetween", () => {
  test.each([
    ["a narrow range, in even steps", [19.4, 21.6], [19.5, 20, 20.5, 21, 21.5]],
    ["megabytes", [10.9, 53], [15, 20, 30, 50]],
    ["two decades", [1.6e-4, 0.051], [3e-4, 1e-3, 3e-3, 0.01, 0.03]],
    ["seven decades", [2e-8, 0.3], [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1]],
    ["twelve decades", [2e-12, 3], [1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 0.01, 1].filter((tick) => tick >= 2e-12)],
  ] as const)("%s", (_what, [low, high], ticks) => {
    expect(ticksBetween(low, high)).toEqual(ticks);
  });

  test("gives three to seven for any range, and fewer where there is room for fewer", () => {
    for (let i = 1; i < 400; i++) {
      const [low, high] = [10 ** Math.sin(i), 10 ** Math.sin(i) * (1 + 10 ** (5 * Math.abs(Math.cos(i)) - 1))];
      const { length } = ticksBetween(low, high);
      expect(length, `from ${low} to ${high}`).toBeGreaterThanOrEqual(3);
      expect(length, `from ${low} to ${high}`).toBeLessThanOrEqual(7);
      expect(ticksBetween(low, high, 4).length, `four from ${low} to ${high}`).toBeLessThanOrEqual(4);
    }
  });
});

describe("placeLabels", () => {
  const bounds = { left: 0, right: 400, top: 0, bottom: 300 };
  const point = { name: "int4", x: 100, y: 100 };

  test("puts a name beside its point, on the right where nothing is there, else on the left", () => {
    expect(placeLabels([point], [], bounds)).toEqual([{ text: "int4", x: 109, y: 104, leader: "" }]);
    expect(placeLabels([{ ...point, x: 395 }], [], bounds)[0]!.x).toBeLessThan(395);
  });

  test("keeps off a line, which would pass through the name, and off the names of close points", () => {
    const line = { x1: 100, y1: 100, x2: 200, y2: 110 };
    expect(placeLabels([point], [line], bounds)[0]!.x).toBeLessThan(100);
    const labels = placeLabels([point, { ...point, name: "nf4", y: 104 }, { ...point, name: "fp4", y: 108 }], [], bounds);
    const places = labels.map(({ x, y }) => `${x > 100 ? "right" : "left"} ${Math.round(y / 14)}`);
    expect(new Set(places).size).toBe(3);
  });
});
