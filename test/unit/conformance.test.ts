import { describe, expect, test } from "vitest";
import { loadModel } from "../../src/load/loadModel.ts";
import { loadModelInWorker } from "../../src/worker/client.ts";
import type { Load } from "../conformance/case.ts";
import { modelCases } from "../conformance/modelCases.ts";
import { pairedWorker } from "../fixtures/workerPair.ts";

const ways: Readonly<Record<string, Load>> = {
  here: (source, options) => loadModel(source, { backend: "cpu", ...options }),
  "in a worker": (source, options) => loadModelInWorker(source, { backend: "cpu", ...options, worker: pairedWorker() }),
};

describe.each(Object.entries(ways))("conformance of a model %s on the CPU", (_, load) => {
  test.each(modelCases.map((each) => [each.name, each] as const))("%s", async (_, { run }) => {
    expect(await run(load)).not.toBe("");
  });
});
