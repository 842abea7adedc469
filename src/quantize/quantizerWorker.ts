import { EngineError, type EngineErrorCode } from "../errors.ts";
import { buffersOf } from "./layout.ts";
import { type MatrixBlock, type MatrixJob, MatrixQuantizer, type QuantizedMatrix } from "./matrixQuantizer.ts";

// The script of a worker that quantizes one matrix after another: start, block, block …, finish. Each request is answered in its turn.

export type QuantizerRequest = { start: MatrixJob } | { block: MatrixBlock } | { finish: true };

/** `ready` once, when the script runs; of a matrix only the answer to `finish` says more than that the request is done. */
export type QuantizerReply = { ready: true } | { done: QuantizedMatrix | null } | { failed: { message: string; code: EngineErrorCode | null; details: Readonly<Record<string, unknown>> } };

/** What a worker's global scope has of a port; the types of a page do not know it. */
const port = globalThis as unknown as Pick<MessagePort, "postMessage" | "onmessage">;
let matrix: MatrixQuantizer | null = null;
let turn: Promise<void> = Promise.resolve();

async function answer(request: QuantizerRequest): Promise<QuantizedMatrix | null> {
  if ("start" in request) matrix = new MatrixQuantizer(request.start);
  else if ("block" in request) await matrix!.add(request.block);
  else return matrix!.finish();
  return null;
}

async function reply(request: QuantizerRequest): Promise<void> {
  try {
    const done = await answer(request);
    port.postMessage({ done } satisfies QuantizerReply, done ? buffersOf(done.packed) : []);
  } catch (error) {
    const { message } = error as Error;
    const [code, details] = error instanceof EngineError ? [error.code, error.details] : [null, {}];
    port.postMessage({ failed: { message, code, details } } satisfies QuantizerReply, []);
  }
}

port.onmessage = ({ data }: MessageEvent<QuantizerRequest>): void => {
  turn = turn.then(() => reply(data));
};
port.postMessage({ ready: true } satisfies QuantizerReply, []);
