/** A case runs on a device of its own and gives what it measured, or throws. */
export interface ConformanceCase {
  name: string;
  run: (device: GPUDevice) => Promise<string>;
}

/** Throws where a measured error is above its tolerance, or not a number. */
export function requireAtMost(what: string, error: number, tolerance: number): string {
  if (!(error <= tolerance)) throw new Error(`${what}: error ${error.toExponential(2)}, allowed ${tolerance.toExponential(2)}`);
  return `${what} ${error.toExponential(1)}`;
}
