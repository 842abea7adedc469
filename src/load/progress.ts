import type { LoadProgress } from "../types.ts";

/** Of the whole load, what reading and quantizing the weights takes; compiling the kernels takes the rest. */
const WEIGHTS_SHARE = 0.95;

/** Turns what the loader does into LoadProgress whose fraction never falls. */
export class ProgressMeter {
  #fraction = 0;

  constructor(private readonly report: ((progress: LoadProgress) => void) | undefined) {}

  downloaded(file: string, loaded: number, total: number | null): void {
    this.#emit({ stage: "download", file, loaded, total, unit: "bytes" }, total ? (WEIGHTS_SHARE * loaded) / total : 0);
  }

  tensorDone(loaded: number, total: number): void {
    this.#emit({ stage: "quantize", loaded, total, unit: "tensors" }, loaded === total ? WEIGHTS_SHARE : 0);
  }

  compiling(loaded: number, total: number): void {
    this.#emit({ stage: "compile", loaded, total, unit: "pipelines" }, loaded === total ? 1 : WEIGHTS_SHARE);
  }

  #emit(progress: Omit<LoadProgress, "fraction">, fraction: number): void {
    this.#fraction = Math.min(1, Math.max(this.#fraction, fraction));
    this.report?.({ ...progress, fraction: this.#fraction });
  }
}
