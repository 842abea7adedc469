import { describe, expect, test } from "vitest";
import { cases, runCase } from "../conformance/suite.ts";

describe("conformance in Chromium", () => {
  test.each(cases.map((each) => [each.name, each] as const))("%s", async (_, each) => {
    expect(await runCase(navigator.gpu, each)).toMatchObject({ ok: true });
  });
});
