/** Bytes as a string of one char (0…255) each: compact, and a key for maps. */
export function toByteString(bytes: Iterable<number>): string {
  let string = "";
  for (const byte of bytes) string += String.fromCharCode(byte);
  return string;
}

export function fromByteString(string: string): Uint8Array {
  const bytes = new Uint8Array(string.length);
  for (let i = 0; i < string.length; i++) bytes[i] = string.charCodeAt(i);
  return bytes;
}

/** The UTF-8 bytes of a text; lone surrogates become U+FFFD. */
export function utf8ByteString(text: string): string {
  return isAscii(text) ? text : toByteString(new TextEncoder().encode(text));
}

function isAscii(text: string): boolean {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 127) return false;
  return true;
}
