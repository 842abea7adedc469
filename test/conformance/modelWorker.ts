import { loadModelInWorker } from "../../src/worker/client.ts";
import { PairedWorker } from "../fixtures/workerPair.ts";
import type { Bench } from "./bench.ts";
import type { Load } from "./case.ts";

/**
 * One real worker for the models of all cases, each of which speaks through a port of its own, as loadModelInWorker() takes a worker for each and every
 * worker would compile all kernels anew. That the package's own script starts and ends is for test/browser/worker.test.ts.
 */
export function openModelWorker(): Bench<Load> {
  const worker = new Worker(new URL("./servingWorker.ts", import.meta.url), { type: "module" });
  const errors: string[] = [];
  worker.addEventListener("error", ({ message }) => errors.push(message));
  const subject: Load = (source, options) => {
    const port = new PairedWorker() as PairedWorker & Worker;
    worker.postMessage(null, [port.inside]);
    return loadModelInWorker(source, { backend: "webgpu", cache: "none", quantizer: "inline", ...options, worker: port });
  };
  return { subject, errors, dispose: () => worker.terminate() };
}
