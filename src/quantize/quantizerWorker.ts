import { EngineError, type EngineErrorCode } from "../errors.ts";
import { buffersOf } from "./layout.ts";
import { type MatrixBlock, type MatrixJob, MatrixQuantizer, type QuantizedMatrix } from "./matrixQuantizer.ts";

// The script of a worker that quantizes one matrix after another: start, block, block …, finish. Each request is answered in its turn.

export type QuantizerRequest = { start: MatrixJob } | { block: MatrixBlock } | { finish: true };

/** `ready` once, when the script runs; `done` answers `start`, `spare` a block with its buffer, `matrix` the end. */
export type QuantizerReply = { ready: true } | { done: true } | { spare: ArrayBuffer | null } | { matrix: QuantizedMatrix } | { failed: { message: string; code: EngineErrorCode | null; details: Readonly<Record<string, unknown>> } };

/** What a worker's global scope has of a port; the types of a page do not know it. */
const port = globalThis as unknown as Pick<MessagePort, "postMessage" | "onmessage">;
let matrix: MatrixQuantizer | null = null;
let turn: Promise<void> = Promise.resolve();

async function answer(request: QuantizerRequest): Promise<QuantizerReply> {
  if ("block" in request) return { spare: await matrix!.add(request.block) };
  if ("finish" in request) return { matrix: await matrix!.finish() };
  matrix = new MatrixQuantizer(request.start);
  return { done: true };
}

async function serve(request: QuantizerRequest): Promise<void> {
  try {
    const reply = await answer(request);
    port.postMessage(reply, buffersOf(reply));
  } catch (error) {
    const { message } = error as Error;
    const [code, details] = error instanceof EngineError ? [error.code, error.details] : [null, {}];
    port.postMessage({ failed: { message, code, details } } satisfies QuantizerReply, []);
  }
}

port.onmessage = ({ data }: MessageEvent<QuantizerRequest>): void => {
  turn = turn.then(() => serve(data));
};
port.postMessage({ ready: true } satisfies QuantizerReply, []);
