import { MAGNITUDE_BINS, magnitudeBin } from "../../quantize/inputStatistics.ts";
import type { InputSums } from "../observation.ts";
import type { Input } from "./input.ts";
import { BLOCK_ROWS, type CpuKernels, LANES, roundUp, type Scratch } from "./kernels.ts";

/** Sums over the inputs of one linear matrix. */
export class InputTally implements InputSums {
  rows = 0;
  readonly absmax: Float32Array; // f32 [K]
  readonly sumAbs: Float64Array; // f64 [K]
  readonly histogram = new Uint32Array(MAGNITUDE_BINS);
  readonly gram: Float32Array | null; // f32 [K, K]: Σ x_j · x_k for j ≤ k

  constructor(K: number, gram: boolean) {
    this.absmax = new Float32Array(K);
    this.sumAbs = new Float64Array(K);
    this.gram = gram ? new Float32Array(K * K) : null;
  }

  /** @param x f32 [T, K] @param buffers room to work in @param rest called often, may throw */
  async add(kernels: CpuKernels, x: Float32Array, T: number, buffers: { input: Input; scratch: Scratch }, rest: () => Promise<void>): Promise<void> {
    const { absmax, sumAbs, histogram } = this;
    const K = absmax.length;
    this.rows += T;
    for (let t = 0, i = 0; t < T; t++) {
      for (let k = 0; k < K; k++, i++) {
        const magnitude = Math.abs(x[i]!);
        absmax[k] = Math.max(absmax[k]!, magnitude);
        sumAbs[k]! += magnitude;
        histogram[magnitudeBin(magnitude)]!++;
      }
      await rest();
    }
    if (this.gram) await this.addGram(this.gram, kernels, x, T, buffers, rest);
  }

  /** As products of rows: those of x transposed, whose columns are the tokens. */
  private async addGram(gram: Float32Array, kernels: CpuKernels, x: Float32Array, T: number, { input: { values }, scratch: { block } }: { input: Input; scratch: Scratch }, rest: () => Promise<void>): Promise<void> {
    const K = this.absmax.length;
    const stride = roundUp(T, LANES);
    for (let k = 0, at = 0; k < K; k++) {
      for (let t = 0; t < stride; t++) values[at++] = t < T ? x[t * K + k]! : 0;
    }
    for (let j = 0; j < K; j += BLOCK_ROWS) {
      const count = Math.min(BLOCK_ROWS, K - j);
      const columns = K - j;
      const rows = { values, start: j * stride, stride };
      kernels.multiplyRows({ ...rows, count }, { ...rows, count: columns }, stride, { values: block, start: 0, stride: columns, count });
      for (let r = 0; r < count; r++) {
        for (let k = r; k < columns; k++) gram[(j + r) * K + j + k]! += block[r * columns + k]!;
      }
      await rest();
    }
  }
}
