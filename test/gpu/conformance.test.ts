import { describe, expect, test } from "vitest";
import { cases, runCase } from "../conformance/suite.ts";
import { requireGpu } from "../gpu.ts";

describe("conformance on Dawn in Node", () => {
  test.each(cases.map((each) => [each.name, each] as const))("%s", async (_, each) => {
    expect(await runCase(requireGpu(), each)).toMatchObject({ ok: true });
  });
});
