import type { TokenStream } from "./types.ts";

/**
 * A decoder that holds back the bytes of an unfinished character.
 * @param bytesOf UTF-8 bytes of one token, of which a character may take several
 */
export function streamTokens(bytesOf: (token: number) => Uint8Array): TokenStream {
  const decoder = utf8Decoder();
  return {
    push: (token) => decoder.decode(bytesOf(token), { stream: true }),
    flush: () => decoder.decode(),
  };
}

/** Keeps a byte order mark, which is a character of the text like any other, and turns bytes that form none into U+FFFD. */
export function utf8Decoder(): TextDecoder {
  return new TextDecoder("utf-8", { ignoreBOM: true });
}
