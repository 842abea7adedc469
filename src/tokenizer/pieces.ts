const UNKNOWN = 0;
const OTHER = 1;
const LETTER = 2;
const NUMBER = 3;
const SPACE = 4;

/** u8 by code point, filled as text brings them. */
const classes = new Uint8Array(0x110000);

function classOf(codePoint: number): number {
  const known = classes[codePoint]!;
  if (known !== UNKNOWN) return known;
  const character = String.fromCodePoint(codePoint);
  return (classes[codePoint] = /\p{L}/u.test(character) ? LETTER : /\p{N}/u.test(character) ? NUMBER : /\p{White_Space}/u.test(character) ? SPACE : OTHER);
}

/**
 * Cuts text as GPT-2 does before merging, in the pieces that this matches one after another:
 * `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` (openai/gpt-2, encoder.py), \s being Unicode's White_Space.
 * Written out because a JavaScript regular expression overflows its stack on some millions of emoji or Chinese characters in a row,
 * and because its \s counts U+FEFF in and U+0085 out. A lone surrogate is of no class, as its replacement U+FFFD.
 */
export function forEachPiece(text: string, visit: (piece: string) => void): void {
  for (let start = 0; start < text.length; ) {
    const end = contractionEnd(text, start) || runEnd(text, start);
    visit(text.slice(start, end));
    start = end;
  }
}

/** End of 's, 't, 'm, 'd, 're, 've or 'll at `start`, or 0. */
function contractionEnd(text: string, start: number): number {
  if (text[start] !== "'") return 0;
  switch (text[start + 1]) {
    case "s":
    case "t":
    case "m":
    case "d":
      return start + 2;
    case "r":
    case "v":
      return text[start + 2] === "e" ? start + 3 : 0;
    case "l":
      return text[start + 2] === "l" ? start + 3 : 0;
    default:
      return 0;
  }
}

/** End of the run of one class at `start`; one blank may stand before it. The last space before anything else is left to the next piece. */
function runEnd(text: string, start: number): number {
  let end = start;
  let kind = classOf(text.codePointAt(end)!);
  if (text[start] === " " && start + 1 < text.length) {
    const next = classOf(text.codePointAt(start + 1)!);
    if (next !== SPACE) {
      kind = next;
      end++;
    }
  }
  while (end < text.length) {
    const codePoint = text.codePointAt(end)!;
    if (classOf(codePoint) !== kind) break;
    end += codePoint > 0xffff ? 2 : 1;
  }
  return kind === SPACE && end < text.length && end - start > 1 ? end - 1 : end;
}
