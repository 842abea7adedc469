import { afterAll, describe, expect, test } from "vitest";
import { CaseRunner, openDevice } from "../conformance/bench.ts";
import { cases } from "../conformance/suite.ts";
import { adapterName, requireGpu } from "../gpu.ts";

// On SwiftShader the browser tier runs the suite, in Chromium, through the same compiler and driver.
describe.runIf((await adapterName()) !== "swiftshader")("conformance on Dawn in Node", () => {
  const runner = new CaseRunner(() => openDevice(requireGpu()));
  afterAll(() => runner.dispose());
  test.each(cases.map((each) => [each.name, each] as const))("%s", async (_, each) => {
    expect(await runner.run(each)).toMatchObject({ ok: true });
  });
});
