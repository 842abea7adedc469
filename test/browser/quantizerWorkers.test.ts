import { afterEach, expect, test, vi } from "vitest";
import { loadModel, type QuantizationReport } from "nibble-webgpu";
import { Quantizers } from "../../src/load/quantizers.ts";
import type { MatrixJob, QuantizedMatrix } from "../../src/quantize/matrixQuantizer.ts";

/** Counts the workers that run. */
function watchWorkers(): { started: number; live: number } {
  const counts = { started: 0, live: 0 };
  const { Worker } = globalThis;
  vi.stubGlobal(
    "Worker",
    class extends Worker {
      private isLive = true;

      constructor(url: string | URL, options?: WorkerOptions) {
        super(url, options);
        counts.started++;
        counts.live++;
      }

      override terminate(): void {
        super.terminate();
        if (this.isLive) counts.live--;
        this.isLive = false;
      }
    },
  );
  return counts;
}

/** All of a report but the times. */
const untimed = ({ quantizeMs: _, ...report }: QuantizationReport): object => report;

async function quantize(quantizer: "workers" | "inline", job: MatrixJob, values: Float32Array<ArrayBuffer>): Promise<QuantizedMatrix> {
  const quantizers = new Quantizers({ values: 2 ** 30, quantizer, signal: undefined });
  try {
    const matrix = await quantizers.open(job);
    await matrix.add({ values });
    return await matrix.finish();
  } finally {
    quantizers.dispose();
  }
}

afterEach(() => void vi.unstubAllGlobals());

test("workers quantize the embedded model to the very bits that the calling thread does, and end with the load", async () => {
  const workers = watchWorkers();
  const load = (quantizer: "workers" | "inline") => loadModel("/models/stories-12m/", { backend: "cpu", cache: "none", quantization: "nf4", quantizer });
  using inline = await load("inline");
  expect(workers.started).toBe(0); // control case
  using model = await load("workers");
  expect(workers.started).toBeGreaterThan(0);
  expect(workers.live).toBe(0);
  expect(untimed(model.quantization)).toEqual(untimed(inline.quantization));
  expect(await model.logits([0, 1, 2])).toEqual(await inline.logits([0, 1, 2]));
});

test("workers round by GPTQ to the very codes that the calling thread finds, for both layouts", async () => {
  const [rows, columns] = [70, 96];
  const wave = (length: number, step: number): Float32Array<ArrayBuffer> => Float32Array.from({ length }, (_, i) => Math.sin(i * step));
  const inputs = wave(200 * columns, 0.7391);
  const gram = Float32Array.from({ length: columns * columns }, (_, at) => {
    let sum = 0;
    for (let t = 0; t < 200; t++) sum += inputs[t * columns + Math.floor(at / columns)]! * inputs[t * columns + (at % columns)]!;
    return sum / 200;
  });
  for (const layout of [{ layout: "rows" }, { layout: "tiles", maxPartBytes: 2048 }] as const) {
    const job: MatrixJob = { tensor: { name: "h.0.mlp.c_fc.weight", kind: "linear", shape: [rows, columns] }, format: { type: "nf4", block: 32 }, layout, gram };
    const { quantizeMs: _, ...expected } = await quantize("inline", job, wave(rows * columns, 12.9898));
    expect(await quantize("workers", job, wave(rows * columns, 12.9898))).toMatchObject(expected);
  }
});

test("an abort while workers quantize rejects with its reason and ends them", async () => {
  const workers = watchWorkers();
  const controller = new AbortController();
  const reason = new Error("left the page");
  const onProgress = ({ stage }: { stage: string }): void => void (stage === "quantize" && controller.abort(reason));
  await expect(loadModel("/models/stories-12m/", { backend: "cpu", cache: "none", quantization: "nf4", signal: controller.signal, onProgress })).rejects.toBe(reason);
  expect(workers.started).toBeGreaterThan(0);
  expect(workers.live).toBe(0);
});

test("a worker that crashes fails the load as `worker`, and the next load works", async () => {
  const { Worker } = globalThis;
  vi.stubGlobal(
    "Worker",
    class extends Worker {
      override postMessage(...message: unknown[]): void {
        const [request] = message as [object];
        if ("block" in request) this.dispatchEvent(new ErrorEvent("error", { message: "out of memory" }));
        else super.postMessage(request);
      }
    },
  );
  await expect(loadModel("/models/stories-12m/", { backend: "cpu", cache: "none", quantization: "nf4" })).rejects.toMatchObject({ code: "worker" });
  vi.unstubAllGlobals();
  (await loadModel("/models/stories-12m/", { backend: "cpu", cache: "none", quantization: "nf4" })).dispose(); // control case
});
