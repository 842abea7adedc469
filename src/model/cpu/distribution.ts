import type { CpuKernels } from "./kernels.ts";

/**
 * Softmax statistics of T rows of logits that arrive in blocks of columns, so that rows of the vocabulary's length are never stored.
 * Sums over blocks run in f64, relative to the largest logit so far.
 */
export class Distribution {
  private readonly kernels: CpuKernels;
  private readonly targets: readonly number[]; // [T]
  private readonly max: Float64Array; // f64 [T]
  private readonly sum: Float64Array; // f64 [T]: Σ exp(logit − max)
  private readonly excess: Float64Array; // f64 [T]: Σ exp(logit − max) · (logit − other)
  private readonly targetLogit: Float64Array; // f64 [T]
  private readonly top: Int32Array; // [T]

  /** @param targets the column whose probability is asked for, per row */
  constructor(kernels: CpuKernels, targets: readonly number[]) {
    const T = targets.length;
    this.kernels = kernels;
    this.targets = targets;
    this.max = new Float64Array(T).fill(-Infinity);
    this.sum = new Float64Array(T);
    this.excess = new Float64Array(T);
    this.targetLogit = new Float64Array(T);
    this.top = new Int32Array(T);
  }

  /**
   * Takes columns first … first + columns − 1.
   * @param logits f32 [T, columns]
   * @param other f32 [T, columns], the same columns of the distribution that klDivergence() is to compare with
   */
  add(logits: Float32Array, first: number, columns: number, other?: Float32Array): void {
    for (let t = 0; t < this.targets.length; t++) {
      const max = this.raiseMax(t, logits, first, columns);
      const { sum, excess } = this.kernels.sumExp(logits, t * columns, columns, max, other);
      this.sum[t]! += sum;
      this.excess[t]! += excess;
      const target = this.targets[t]! - first;
      if (target >= 0 && target < columns) this.targetLogit[t] = logits[t * columns + target]!;
    }
  }

  /** Brings max and the sums of row t up to date with a new block of columns. */
  private raiseMax(t: number, logits: Float32Array, first: number, columns: number): number {
    const before = this.max[t]!;
    let max = before;
    for (let v = 0; v < columns; v++) {
      const logit = logits[t * columns + v]!;
      if (logit <= max) continue;
      max = logit;
      this.top[t] = first + v;
    }
    if (max > before) {
      const factor = Math.exp(before - max);
      this.max[t] = max;
      this.sum[t]! *= factor;
      this.excess[t]! *= factor;
    }
    return max;
  }

  /** The likeliest column of row t, the lowest where several tie. */
  topColumn(t: number): number {
    return this.top[t]!;
  }

  /** ln p(target) of row t, nats. */
  logProb(t: number): number {
    return this.targetLogit[t]! - this.logSumExp(t);
  }

  /** KL(this ‖ other) = Σ p · (ln p − ln q) of row t, nats; other: the distribution whose logits add() was given. */
  klDivergence(t: number, other: Distribution): number {
    const divergence = this.excess[t]! / this.sum[t]! - this.logSumExp(t) + other.logSumExp(t);
    return Math.max(0, divergence); // equal distributions may come out at −1e-16
  }

  private logSumExp(t: number): number {
    return this.max[t]! + Math.log(this.sum[t]!);
  }
}
