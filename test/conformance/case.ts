import type { Model, ModelSource, WorkerLoadOptions } from "../../src/types.ts";

/** A case runs on what a suite opened for all of its cases, a device unless told, and gives what it measured, or throws. */
export interface ConformanceCase<Subject = GPUDevice> {
  name: string;
  run: (subject: Subject) => Promise<string>;
}

/** loadModel() or loadModelInWorker(), on the backend of a suite. */
export type Load = (source: ModelSource, options?: WorkerLoadOptions) => Promise<Model>;

/** Throws where a measured error is above its tolerance, or not a number. */
export function requireAtMost(what: string, error: number, tolerance: number): string {
  if (!(error <= tolerance)) throw new Error(`${what}: error ${error.toExponential(2)}, allowed ${tolerance.toExponential(2)}`);
  return `${what} ${error.toExponential(1)}`;
}

/** Throws where two values differ as JSON. */
export function requireEqual(what: string, found: unknown, expected: unknown): void {
  const [a, b] = [found, expected].map((value) => JSON.stringify(value) ?? String(value)) as [string, string];
  if (a !== b) throw new Error(`${what}: found ${a.slice(0, 300)}; expected ${b.slice(0, 300)}`);
}

/** What a promise rejects with, and throws where it does not. */
export async function rejectionOf(what: string, promise: Promise<unknown>): Promise<unknown> {
  const outcome = await promise.then(
    () => null,
    (reason: unknown) => ({ reason }),
  );
  if (outcome === null) throw new Error(`${what}: expected a rejection`);
  return outcome.reason;
}

/** Token ids that cover the vocabulary's ends and repeat now and then. */
export function formulaTokens(count: number, vocabSize: number): number[] {
  return Array.from({ length: count }, (_, i) => (i === 0 ? vocabSize - 1 : (i * i * 31 + i * 7) % vocabSize));
}
