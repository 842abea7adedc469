import { afterAll, describe, expect, test } from "vitest";
import { cases, ConformanceRunner } from "../conformance/suite.ts";
import { requireGpu } from "../gpu.ts";

describe("conformance on Dawn in Node", () => {
  const runner = new ConformanceRunner(requireGpu());
  afterAll(() => runner.dispose());
  test.each(cases.map((each) => [each.name, each] as const))("%s", async (_, each) => {
    expect(await runner.run(each)).toMatchObject({ ok: true });
  });
});
