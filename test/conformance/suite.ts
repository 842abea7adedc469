import type { ConformanceCase } from "./case.ts";
import { kernelCases } from "./kernelCases.ts";
import { modelCases } from "./modelCases.ts";

/** What one case found. */
export interface ConformanceResult {
  name: string;
  ok: boolean;
  /** The measured error, or what went wrong. */
  detail: string;
  ms: number;
}

export interface ConformanceOptions {
  /** Only cases whose name contains it. */
  filter?: string;
  onCase?: (result: ConformanceResult) => void;
}

export const cases: readonly ConformanceCase[] = [...kernelCases, ...modelCases];

/** Every kernel, and every preset on the tiny checkpoints, against the f64 oracle. Rejects where there is no adapter. */
export async function runConformance(gpu: GPU, options: ConformanceOptions = {}): Promise<ConformanceResult[]> {
  const results: ConformanceResult[] = [];
  for (const each of cases) {
    if (options.filter !== undefined && !each.name.includes(options.filter)) continue;
    const result = await runCase(gpu, each);
    results.push(result);
    options.onCase?.(result);
  }
  return results;
}

/** Runs one case on a fresh device. */
export async function runCase(gpu: GPU, { name, run }: ConformanceCase): Promise<ConformanceResult> {
  const startMs = performance.now();
  const outcome = await runOnFreshDevice(gpu, run).then(
    (detail) => ({ ok: true, detail }),
    (error: unknown) => ({ ok: false, detail: error instanceof Error ? `${error.name}: ${error.message}` : String(error) }),
  );
  return { name, ...outcome, ms: performance.now() - startMs };
}

async function runOnFreshDevice(gpu: GPU, run: ConformanceCase["run"]): Promise<string> {
  const adapter = await gpu.requestAdapter();
  if (adapter === null) throw new Error("No WebGPU adapter.");
  const device = await adapter.requestDevice();
  const errors: string[] = [];
  device.addEventListener("uncapturederror", (event) => errors.push(event.error.message));
  try {
    const detail = await run(device);
    await device.queue.onSubmittedWorkDone();
    if (errors.length > 0) throw new Error(`WebGPU reported: ${errors.join("; ")}`);
    return detail;
  } finally {
    device.destroy();
  }
}
