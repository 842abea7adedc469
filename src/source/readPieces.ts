import { throwIfAborted } from "../errors.ts";

/**
 * The pieces of a byte stream. Leaving the loop or an abort cancels the stream; an abort rejects with signal.reason,
 * any other failure with describeFailure(cause). watch sees each wait for a piece.
 */
export async function* readPieces(
  stream: ReadableStream<Uint8Array>,
  signal: AbortSignal | undefined,
  describeFailure: (cause: unknown) => unknown,
  watch: <T>(reading: Promise<T>) => Promise<T> = (reading) => reading,
): AsyncGenerator<Uint8Array> {
  throwIfAborted(signal);
  const reader = stream.getReader();
  const cancel = (): void => void reader.cancel(signal?.reason).catch(() => undefined); // a stream that failed has nothing left to cancel
  signal?.addEventListener("abort", cancel, { once: true });
  try {
    for (;;) {
      const { done, value } = await watch(reader.read()).catch((cause: unknown) => {
        throwIfAborted(signal);
        throw describeFailure(cause);
      });
      throwIfAborted(signal); // cancel() ends a pending read as if the stream were over
      if (done) return;
      yield value;
    }
  } finally {
    signal?.removeEventListener("abort", cancel);
    cancel();
  }
}
