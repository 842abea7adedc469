import { loadModel } from "../../src/load/loadModel.ts";
import { backendCases } from "./backendCases.ts";
import { CaseRunner, openDevice, type ConformanceResult } from "./bench.ts";
import type { ConformanceCase, Load } from "./case.ts";
import { kernelCases } from "./kernelCases.ts";
import { modelCases } from "./modelCases.ts";
import { openModelWorker } from "./modelWorker.ts";
import { samplingCases } from "./samplingCases.ts";

export interface ConformanceOptions {
  /** Only cases whose name contains it. */
  filter?: string;
  onCase?: (result: ConformanceResult) => void;
}

const loadOn = (device: GPUDevice): Load => (source, options) => loadModel(source, { backend: "webgpu", device, cache: "none", quantizer: "inline", ...options });

/** What runs where the device is. */
export const cases: readonly ConformanceCase[] = [
  ...kernelCases,
  ...samplingCases,
  ...backendCases,
  ...modelCases.map(({ name, run }) => ({ name: `model: ${name}`, run: (device: GPUDevice) => run(loadOn(device)) })),
];

/** The cases over Model once more, whose models are in a real worker. */
export const workerCases: readonly ConformanceCase<Load>[] = modelCases.map(({ name, run }) => ({ name: `model in a worker: ${name}`, run }));

/** Every kernel, and every preset on the tiny checkpoints, here and in a worker, against the f64 oracle. Rejects where there is no adapter. */
export async function runConformance(gpu: GPU, { filter = "", onCase }: ConformanceOptions = {}): Promise<ConformanceResult[]> {
  const results: ConformanceResult[] = [];
  const runAll = async <Subject>(runner: CaseRunner<Subject>, all: readonly ConformanceCase<Subject>[]): Promise<void> => {
    for (const each of all) {
      if (!each.name.includes(filter)) continue;
      const result = await runner.run(each);
      results.push(result);
      onCase?.(result);
    }
    runner.dispose();
  };
  await runAll(new CaseRunner(() => openDevice(gpu)), cases);
  await runAll(new CaseRunner(openModelWorker), workerCases);
  return results;
}
