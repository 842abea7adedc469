import type { Choices } from "./choices.ts";

const encoder = new TextEncoder();
const intruders: readonly [what: string, bytes: Uint8Array][] = [
  ["a byte order mark", Uint8Array.of(0xef, 0xbb, 0xbf)],
  ["half a character", Uint8Array.of(0xe2, 0x82)],
  ["a surrogate in UTF-8", Uint8Array.of(0xed, 0xa0, 0x80)],
  ["0xff", Uint8Array.of(0xff)],
  ["NUL", Uint8Array.of(0)],
  ["a quote", encoder.encode('"')],
  ["a bracket", encoder.encode("}")],
  ["a line end", encoder.encode("\r\n")],
  ["a page", encoder.encode("<!DOCTYPE html><title>404</title>")],
];

/** A changed copy of a file, and what was done to it. */
export function mutateBytes(choices: Choices, bytes: Uint8Array): { bytes: Uint8Array<ArrayBuffer>; what: string } {
  const at = choices.below(bytes.length + 1);
  const until = Math.min(bytes.length, at + 1 + choices.below(choices.pick([1, 8, 64, bytes.length + 1])));
  const spliced = (from: number, to: number, middle: Uint8Array): Uint8Array<ArrayBuffer> => Uint8Array.from([...bytes.subarray(0, from), ...middle, ...bytes.subarray(to)]);
  switch (choices.below(7)) {
    case 0:
      return { bytes: bytes.slice(0, at), what: `cut at byte ${at}` };
    case 1:
      return { bytes: spliced(at, until, new Uint8Array(0)), what: `without bytes ${at} to ${until}` };
    case 2:
      return { bytes: spliced(at, at, bytes.subarray(at, until)), what: `bytes ${at} to ${until} twice` };
    case 3: {
      const [what, intruder] = choices.pick(intruders);
      return { bytes: spliced(at, at, intruder), what: `${what} at byte ${at}` };
    }
    case 4: {
      if (!choices.oneIn(8)) break;
      const [what, intruder] = choices.pick(intruders);
      return { bytes: Uint8Array.from(intruder), what: `nothing but ${what}` };
    }
    case 5: {
      const changed = bytes.slice();
      if (at < bytes.length) changed[at] = choices.below(256);
      return { bytes: changed, what: `byte ${at} = ${changed[at]}` };
    }
  }
  const changed = bytes.slice();
  const flips: string[] = [];
  for (let i = 0; i <= choices.below(3); i++) {
    const place = choices.below(bytes.length);
    const bit = choices.below(8);
    if (place < bytes.length) changed[place]! ^= 1 << bit;
    flips.push(`bit ${bit} of byte ${place}`);
  }
  return { bytes: changed, what: `${flips.join(", ")} flipped` };
}
