import { OPTIONAL_FEATURES } from "../../src/gpu/device.ts";
import type { ConformanceCase } from "./case.ts";
import { kernelCases } from "./kernelCases.ts";
import { modelCases } from "./modelCases.ts";
import { samplingCases } from "./samplingCases.ts";

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

export const cases: readonly ConformanceCase[] = [...kernelCases, ...samplingCases, ...modelCases];

/** Every kernel, and every preset on the tiny checkpoints, against the f64 oracle. Rejects where there is no adapter. */
export async function runConformance(gpu: GPU, options: ConformanceOptions = {}): Promise<ConformanceResult[]> {
  const runner = new ConformanceRunner(gpu);
  const results: ConformanceResult[] = [];
  for (const each of cases) {
    if (options.filter !== undefined && !each.name.includes(options.filter)) continue;
    const result = await runner.run(each);
    results.push(result);
    options.onCase?.(result);
  }
  runner.dispose();
  return results;
}

/** Runs cases on one device, so that kernels which several of them use are compiled once; a case that fails takes the device with it. */
export class ConformanceRunner {
  private device: GPUDevice | null = null;
  private errors: string[] = [];

  constructor(private readonly gpu: GPU) {}

  async run({ name, run }: ConformanceCase): Promise<ConformanceResult> {
    const startMs = performance.now();
    try {
      const device = (this.device ??= await this.openDevice());
      const detail = await run(device);
      if (this.errors.length > 0) throw new Error(`WebGPU reported: ${this.errors.join("; ")}`);
      return { name, ok: true, detail, ms: performance.now() - startMs };
    } catch (error) {
      this.dispose();
      return { name, ok: false, detail: error instanceof Error ? `${error.name}: ${error.message}` : String(error), ms: performance.now() - startMs };
    }
  }

  dispose(): void {
    this.device?.destroy();
    this.device = null;
  }

  private async openDevice(): Promise<GPUDevice> {
    const adapter = await this.gpu.requestAdapter();
    if (adapter === null) throw new Error("No WebGPU adapter.");
    const requiredFeatures = OPTIONAL_FEATURES.filter((feature) => adapter.features.has(feature));
    const device = await adapter.requestDevice({ requiredFeatures });
    this.errors = [];
    device.addEventListener("uncapturederror", (event) => this.errors.push(event.error.message));
    return device;
  }
}
