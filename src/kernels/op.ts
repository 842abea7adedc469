import type { Kernel } from "../gpu/pipeline.ts";

/** One bound kernel (or a few, for a matrix in parts): everything is fixed but the number of rows and the step. */
export interface Op {
  /** Records its dispatches for `rows` rows of activations, with the Step at `stepBytes` in its buffer. Creates nothing on the device, submits nothing. */
  record(pass: GPUComputePassEncoder, rows: number, stepBytes?: number): void;
}

/** A dispatch whose grid follows from the number of rows. */
export function dispatchOp(kernel: Kernel, group: GPUBindGroup, grid: (rows: number) => readonly [x: number, y?: number]): Op {
  return {
    record(pass, rows, stepBytes = 0) {
      const [x, y] = grid(rows);
      pass.setPipeline(kernel.pipeline);
      pass.setBindGroup(0, group, kernel.stepped ? [stepBytes] : undefined);
      pass.dispatchWorkgroups(x, y);
    },
  };
}

export function sequence(ops: readonly Op[]): Op {
  return {
    record(pass, rows, stepBytes) {
      for (const op of ops) op.record(pass, rows, stepBytes);
    },
  };
}
