import type { BytesRead } from "../checkpoint/types.ts";
import type { LoadProgress } from "../types.ts";

/** Of the whole load, what reading and quantizing the weights takes; compiling the kernels takes the rest. */
const WEIGHTS_SHARE = 0.95;

/** Turns what the loader does into LoadProgress whose fraction never falls. */
export class ProgressMeter {
  #fraction = 0;
  #from = 0;
  #to = 1;

  constructor(private readonly report: ((progress: LoadProgress) => void) | undefined) {}

  /** What follows is a span of its own: it takes the load from where it is to this fraction of the whole. */
  spanTo(fraction: number): void {
    this.#from = this.#fraction;
    this.#to = fraction;
  }

  /** @param share of the span that the bytes of all files take */
  downloaded({ file, fileBytes, fileTotalBytes, loadedBytes, totalBytes }: BytesRead, share = WEIGHTS_SHARE): void {
    this.#emit({ stage: "download", file, loaded: fileBytes, total: fileTotalBytes, unit: "bytes" }, totalBytes ? (share * loadedBytes) / totalBytes : 0);
  }

  tensorDone(loaded: number, total: number): void {
    this.#emit({ stage: "quantize", loaded, total, unit: "tensors" }, loaded === total ? WEIGHTS_SHARE : 0);
  }

  /** Of a cached model. */
  uploaded(loaded: number, total: number): void {
    this.#emit({ stage: "upload", loaded, total, unit: "tensors" }, (WEIGHTS_SHARE * loaded) / total);
  }

  /** @param fraction of the span; 0 for runs within another stage */
  calibrated(loaded: number, total: number, fraction: number): void {
    this.#emit({ stage: "calibrate", loaded, total, unit: "tokens" }, fraction);
  }

  compiling(loaded: number, total: number): void {
    this.#emit({ stage: "compile", loaded, total, unit: "pipelines" }, loaded === total ? 1 : WEIGHTS_SHARE);
  }

  /** @param fraction of the span */
  #emit(progress: Omit<LoadProgress, "fraction">, fraction: number): void {
    this.#fraction = Math.min(1, Math.max(this.#fraction, this.#from + (this.#to - this.#from) * fraction));
    this.report?.({ ...progress, fraction: this.#fraction });
  }
}
