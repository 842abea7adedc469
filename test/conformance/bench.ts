import { OPTIONAL_FEATURES } from "../../src/gpu/device.ts";
import type { ConformanceCase } from "./case.ts";

/** What one case found. */
export interface ConformanceResult {
  name: string;
  ok: boolean;
  /** The measured error, or what went wrong. */
  detail: string;
  ms: number;
}

/** What cases share, and what was reported there behind their backs. */
export interface Bench<Subject> {
  subject: Subject;
  readonly errors: readonly string[];
  dispose: () => void;
}

/** Runs cases on one bench, so that kernels which several of them use are compiled once; a case that fails takes the bench with it. */
export class CaseRunner<Subject> {
  private bench: Bench<Subject> | null = null;

  constructor(private readonly open: () => Bench<Subject> | Promise<Bench<Subject>>) {}

  async run({ name, run }: ConformanceCase<Subject>): Promise<ConformanceResult> {
    const startMs = performance.now();
    try {
      const { subject, errors } = (this.bench ??= await this.open());
      const detail = await run(subject);
      if (errors.length > 0) throw new Error(`WebGPU reported: ${errors.join("; ")}`);
      return { name, ok: true, detail, ms: performance.now() - startMs };
    } catch (error) {
      this.dispose();
      return { name, ok: false, detail: error instanceof Error ? `${error.name}: ${error.message}` : String(error), ms: performance.now() - startMs };
    }
  }

  dispose(): void {
    this.bench?.dispose();
    this.bench = null;
  }
}

/** A device with every feature that kernels have variants for. */
export async function openDevice(gpu: GPU): Promise<Bench<GPUDevice>> {
  const adapter = await gpu.requestAdapter();
  if (adapter === null) throw new Error("No WebGPU adapter.");
  const requiredFeatures = OPTIONAL_FEATURES.filter((feature) => adapter.features.has(feature));
  const subject = await adapter.requestDevice({ requiredFeatures });
  const errors: string[] = [];
  subject.addEventListener("uncapturederror", (event) => errors.push(event.error.message));
  return { subject, errors, dispose: () => subject.destroy() };
}
