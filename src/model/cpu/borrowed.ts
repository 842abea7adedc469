import type { QuantizedTensor } from "../../types.ts";
import type { Input } from "./input.ts";
import { BLOCK_ROWS, type CpuKernels, type CpuMatrix, LANES, roundUp, type Rows, type Scratch } from "./kernels.ts";

/**
 * A matrix of another model, whose loops may have a memory of their own: rows are restored there and copied over, a block at a time. That costs little
 * beside a product with many tokens, and more than the product with one.
 */
export class BorrowedMatrix implements CpuMatrix {
  readonly O: number;
  readonly K: number;
  readonly codeBytes = 0;
  readonly scaleBytes = 0;
  readonly coding = null;
  private readonly lent: CpuMatrix;
  private readonly lentBlock: Float32Array; // f32 [BLOCK_ROWS, longest row padded]: the lender's scratch
  private readonly kernels: CpuKernels;

  /** @param lent of float activations */
  constructor(lent: CpuMatrix, lentBlock: Float32Array, kernels: CpuKernels) {
    this.O = lent.O;
    this.K = lent.K;
    this.lent = lent;
    this.lentBlock = lentBlock;
    this.kernels = kernels;
  }

  multiply(x: Input, y: Rows, from: number, to: number, { block }: Scratch): void {
    const { stride, T } = x;
    for (let o = from; o < to; o += BLOCK_ROWS) {
      const count = Math.min(BLOCK_ROWS, to - o);
      this.restoreRows(o, o + count, block, stride);
      this.kernels.multiplyRows({ values: x.values, start: 0, stride, count: T }, { values: block, start: 0, stride, count }, roundUp(this.K, LANES), { ...y, start: y.start + o - from });
    }
  }

  restoreRows(from: number, to: number, restored: Float32Array, stride: number): void {
    this.lent.restoreRows(from, to, this.lentBlock, stride);
    restored.set(this.lentBlock.subarray(0, (to - from - 1) * stride + this.K));
  }

  toTensor(): QuantizedTensor {
    return this.lent.toTensor();
  }
}
