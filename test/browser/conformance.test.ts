import { afterAll, describe, expect, test } from "vitest";
import { CaseRunner, openDevice } from "../conformance/bench.ts";
import { openModelWorker } from "../conformance/modelWorker.ts";
import { cases, workerCases } from "../conformance/suite.ts";

describe("conformance in Chromium", () => {
  const runner = new CaseRunner(() => openDevice(navigator.gpu));
  afterAll(() => runner.dispose());
  test.each(cases.map((each) => [each.name, each] as const))("%s", async (_, each) => {
    expect(await runner.run(each)).toMatchObject({ ok: true });
  });
});

describe("conformance in a worker of Chromium's", () => {
  const runner = new CaseRunner(openModelWorker);
  afterAll(() => runner.dispose());
  test.each(workerCases.map((each) => [each.name, each] as const))("%s", async (_, each) => {
    expect(await runner.run(each)).toMatchObject({ ok: true });
  });
});
