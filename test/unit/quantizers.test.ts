import { afterEach, describe, expect, test, vi } from "vitest";
import { EngineError } from "../../src/errors.ts";
import { Quantizers } from "../../src/load/quantizers.ts";
import { type MatrixJob, MatrixQuantizer } from "../../src/quantize/matrixQuantizer.ts";
import type { QuantizerReply, QuantizerRequest } from "../../src/quantize/quantizerWorker.ts";

const job: MatrixJob = { tensor: { name: "wte.weight", kind: "embedding", shape: [4, 8] }, format: { type: "int8", mode: "absmax", granularity: "channel" }, layout: { layout: "rows" } };
const values = (): Float32Array<ArrayBuffer> => Float32Array.from({ length: 32 }, (_, i) => Math.sin(i));

/** A Worker on this thread that does what a script would, or fails as told. */
class FakeWorker {
  static failure: "throws" | "does not start" | "crashes" | "hangs" | null = null;
  static live = 0;
  static started = 0;
  onmessage: ((event: { data: QuantizerReply }) => void) | null = null;
  onerror: ((event: { message: string; preventDefault: () => void }) => void) | null = null;
  private readonly quantizers: MatrixQuantizer[] = [];
  private isLive = true;

  constructor() {
    const { failure } = FakeWorker;
    if (failure === "throws") throw new DOMException("Refused by the policy.", "SecurityError");
    FakeWorker.live++;
    FakeWorker.started++;
    queueMicrotask(() => (failure === "does not start" ? this.fail() : this.onmessage?.({ data: { ready: true } })));
  }

  postMessage(request: QuantizerRequest): void {
    const failed = ({ message }: Error): QuantizerReply => ({ failed: { message, code: "quantize", details: {} } });
    void this.answer(request).catch(failed).then((data) => data && this.onmessage?.({ data }));
  }

  terminate(): void {
    if (this.isLive) FakeWorker.live--;
    this.isLive = false;
  }

  private async answer(request: QuantizerRequest): Promise<QuantizerReply | null> {
    if ("start" in request) this.quantizers.push(new MatrixQuantizer(request.start));
    else if ("finish" in request) return { matrix: await this.quantizers.at(-1)!.finish() };
    else if (FakeWorker.failure === "crashes" || FakeWorker.failure === "hangs") {
      if (FakeWorker.failure === "crashes") this.fail();
      return null;
    }     else return { spare: await this.quantizers.at(-1)!.add(request.block) };
    return { done: true };
  }

  private fail(): void {
    this.onerror?.({ message: "out of memory", preventDefault: () => undefined });
  }
}

function openQuantizers(failure: typeof FakeWorker.failure, options: Partial<ConstructorParameters<typeof Quantizers>[0]> = {}): Quantizers {
  Object.assign(FakeWorker, { failure, live: 0, started: 0 });
  vi.stubGlobal("Worker", FakeWorker);
  vi.stubGlobal("navigator", { hardwareConcurrency: 8 });
  return new Quantizers({ values: 2 ** 30, signal: undefined, ...options });
}

async function quantizeOne(quantizers: Quantizers): Promise<Int8Array> {
  const matrix = await quantizers.open(job);
  await matrix.add({ values: values() });
  const { packed } = await matrix.finish();
  return (packed as unknown as { codes: Int8Array }).codes;
}

afterEach(() => void vi.unstubAllGlobals());

describe("Quantizers", () => {
  test("work in three workers, which end with dispose()", async () => {
    const quantizers = openQuantizers(null);
    const all = await Promise.all(Array.from({ length: 5 }, () => quantizeOne(quantizers)));
    expect(new Set(all.map(String)).size).toBe(1);
    expect(FakeWorker.live).toBe(3);
    quantizers.dispose();
    expect(FakeWorker.live).toBe(0);
  });

  test.each([
    ["there is no Worker", null, {}, true],
    ["the page's policy forbids it", "throws", {}, false],
    ["the script does not start", "does not start", {}, false],
    ["the model is tiny", null, { values: 1000 }, false],
    ["it was asked for", null, { quantizer: "inline" }, false],
  ] as const)("work on this thread where %s, with the same codes", async (_, failure, options, isAbsent) => {
    const expected = await quantizeOne(openQuantizers(null));
    const quantizers = openQuantizers(failure, options);
    if (isAbsent) vi.stubGlobal("Worker", undefined);
    expect(await quantizeOne(isAbsent ? new Quantizers({ values: 2 ** 30, signal: undefined }) : quantizers)).toEqual(expected);
    if (!isAbsent) expect(FakeWorker.live).toBe(0);
  });

  test("fail as `worker` where a worker crashes at its work", async () => {
    await quantizeOne(openQuantizers(null)); // control case
    const quantizers = openQuantizers("crashes");
    await expect(quantizeOne(quantizers)).rejects.toMatchObject({ code: "worker", message: expect.stringContaining("out of memory") as string });
    quantizers.dispose();
    expect(FakeWorker.live).toBe(0);
  });

  test("reject with what a matrix failed with, and go on with others", async () => {
    const quantizers = openQuantizers(null);
    const bad = await quantizers.open(job);
    await bad.add({ values: values().fill(NaN) });
    await expect(bad.finish()).rejects.toThrow("expected a finite weight");
    expect(await quantizeOne(quantizers)).toHaveLength(32); // control case
    quantizers.dispose();
  });

  test("reject with the reason of an abort, and end the workers", async () => {
    const controller = new AbortController();
    const quantizers = openQuantizers("hangs", { signal: controller.signal });
    const pending = quantizeOne(quantizers);
    const reason = new EngineError("disposed", "No longer wanted.");
    setTimeout(() => controller.abort(reason));
    await expect(pending).rejects.toBe(reason);
    expect(FakeWorker.live).toBe(0);
  });
});
