import type { GeneratedToken, Generation } from "../types.ts";

/**
 * The text of a generation as a stream, for what takes one: a Response, pipeThrough(), a framework's reader. Tokens are made as they are read;
 * cancelling the stream ends the generation. Errors are those of the generation.
 */
export function toReadableStream(generation: Generation): ReadableStream<string> {
  let tokens: AsyncIterator<GeneratedToken, unknown, undefined> | null = null;
  return new ReadableStream<string>(
    {
      async pull(controller) {
        tokens ??= generation[Symbol.asyncIterator]();
        for (;;) {
          const { done, value } = await tokens.next();
          if (done) return controller.close();
          if (value.text !== "") return controller.enqueue(value.text);
        }
      },
      async cancel() {
        await tokens?.return?.();
      },
    },
    { highWaterMark: 0 }, // nothing is made before it is asked for
  );
}
