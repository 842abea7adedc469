import { afterAll, describe, expect, test } from "vitest";
import { cases, ConformanceRunner } from "../conformance/suite.ts";

describe("conformance in Chromium", () => {
  const runner = new ConformanceRunner(navigator.gpu);
  afterAll(() => runner.dispose());
  test.each(cases.map((each) => [each.name, each] as const))("%s", async (_, each) => {
    expect(await runner.run(each)).toMatchObject({ ok: true });
  });
});
