import { throwIfAborted } from "../errors.ts";

/** Of the one buffer that a byte stream is read into; without it each piece is garbage that engines collect late, at times hundreds of megabytes of it. */
const PIECE_BYTES = 2 ** 18;

/**
 * The pieces of a byte stream, each valid until the next is asked for. Leaving the loop or an abort cancels the stream; an abort rejects with signal.reason,
 * any other failure with describeFailure(cause). watch sees each wait for a piece.
 */
export async function* readPieces(
  stream: ReadableStream<Uint8Array>,
  signal: AbortSignal | undefined,
  describeFailure: (cause: unknown) => unknown,
  watch: <T>(reading: Promise<T>) => Promise<T> = (reading) => reading,
): AsyncGenerator<Uint8Array> {
  throwIfAborted(signal);
  const reader = openReader(stream);
  const cancel = (): void => void reader.cancel(signal?.reason).catch(() => undefined); // a stream that failed has nothing left to cancel
  signal?.addEventListener("abort", cancel, { once: true });
  try {
    let buffer = new ArrayBuffer(PIECE_BYTES);
    for (;;) {
      const reading = reader instanceof ReadableStreamDefaultReader ? reader.read() : reader.read(new Uint8Array(buffer));
      const { done, value } = await watch<ReadableStreamReadResult<Uint8Array>>(reading).catch((cause: unknown) => {
        throwIfAborted(signal);
        throw describeFailure(cause);
      });
      throwIfAborted(signal); // cancel() ends a pending read as if the stream were over
      if (done) return;
      buffer = value.buffer as ArrayBuffer;
      yield value;
    }
  } finally {
    signal?.removeEventListener("abort", cancel);
    cancel();
  }
}

/** Streams of a caller's own making may know only the default reader. */
function openReader(stream: ReadableStream<Uint8Array>): ReadableStreamDefaultReader<Uint8Array> | ReadableStreamBYOBReader {
  try {
    return stream.getReader({ mode: "byob" });
  } catch {
    return stream.getReader();
  }
}
