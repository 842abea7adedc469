import { EngineError } from "../errors.ts";
import type { SourceFile } from "../source/types.ts";

/** What a header may make a reader allocate before any byte has come. */
const UNPROVEN_BYTES = 2 ** 16;

/** Reads a file front to back by exact lengths, holding one piece of the transfer at most. close() cancels what is left. */
export class FileReader {
  readBytes = 0;
  /** Called with readBytes after each piece. */
  onRead: ((readBytes: number) => void) | undefined;
  private readonly file: SourceFile;
  private readonly pieces: AsyncIterator<Uint8Array>;
  private piece = new Uint8Array(0);

  constructor(file: SourceFile, signal: AbortSignal | undefined) {
    this.file = file;
    this.pieces = file.stream({ signal })[Symbol.asyncIterator]();
  }

  get sizeBytes(): number | null {
    return this.file.sizeBytes;
  }

  /**
   * u8 [length], the caller's own, in one of the spare buffers where one is large enough. Throws `checkpoint` where the file ends before it. Of a file of
   * unknown size it takes memory as the bytes come.
   */
  async read(length: number, spare: ArrayBuffer[] = []): Promise<Uint8Array<ArrayBuffer>> {
    const fitting = spare.findIndex(({ byteLength }) => byteLength >= length);
    const [reused] = fitting < 0 ? [] : spare.splice(fitting, 1);
    let bytes = reused ? new Uint8Array(reused, 0, length) : new Uint8Array(this.file.sizeBytes === null ? Math.min(length, UNPROVEN_BYTES) : length);
    await this.take(length, (piece, at) => {
      const end = at + piece.length;
      if (end > bytes.length) {
        const grown = new Uint8Array(Math.min(length, 2 * end));
        grown.set(bytes);
        bytes = grown;
      }
      bytes.set(piece, at);
    });
    return bytes;
  }

  async skip(length: number): Promise<void> {
    await this.take(length, () => undefined);
  }

  /** Throws `checkpoint` where bytes are left. */
  async expectEnd(): Promise<void> {
    if (!(await this.refill())) return;
    const details = { file: this.file.name, expectedBytes: this.readBytes };
    throw new EngineError("checkpoint", `${this.file.name} goes on after byte ${this.readBytes}, where its last tensor ends.`, details);
  }

  async close(): Promise<void> {
    await this.pieces.return?.();
  }

  private async take(length: number, consume: (piece: Uint8Array, at: number) => void): Promise<void> {
    for (let taken = 0; taken < length; ) {
      if (!(await this.refill())) {
        const details = { file: this.file.name, foundBytes: this.readBytes, expectedBytes: this.readBytes + length - taken };
        throw new EngineError("checkpoint", `${this.file.name} ends after ${details.foundBytes} bytes; expected at least ${details.expectedBytes}.`, details);
      }
      const piece = this.piece.subarray(0, length - taken);
      consume(piece, taken);
      taken += piece.length;
      this.piece = this.piece.subarray(piece.length);
      this.readBytes += piece.length;
      this.onRead?.(this.readBytes);
    }
  }

  /** Makes `piece` hold at least one byte; false at the end of the file. */
  private async refill(): Promise<boolean> {
    while (this.piece.length === 0) {
      const next = await this.pieces.next();
      if (next.done) return false;
      this.piece = next.value as Uint8Array<ArrayBuffer>;
    }
    return true;
  }
}

/** The text of a small file, at most maxBytes long. Throws `checkpoint` for a longer one and for what is not UTF-8. */
export async function readText(file: SourceFile, maxBytes: number, signal: AbortSignal | undefined): Promise<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let text = "";
  let readBytes = 0;
  requireSize(file.sizeBytes ?? 0);
  for await (const piece of file.stream({ signal })) {
    readBytes += piece.length;
    requireSize(readBytes);
    text += decode(piece);
  }
  return text + decode();

  function requireSize(foundBytes: number): void {
    if (foundBytes <= maxBytes) return;
    throw new EngineError("checkpoint", `${file.name} has at least ${foundBytes} bytes; expected at most ${maxBytes}.`, { file: file.name, foundBytes, maxBytes });
  }

  function decode(piece?: Uint8Array): string {
    try {
      return decoder.decode(piece, { stream: piece !== undefined });
    } catch (cause) {
      throw new EngineError("checkpoint", `${file.name} is not UTF-8 text.`, { file: file.name }, { cause });
    }
  }
}

export function isHtml(text: string): boolean {
  return /^\s*</.test(text);
}

export async function readJson(file: SourceFile, maxBytes: number, signal: AbortSignal | undefined): Promise<unknown> {
  const text = await readText(file, maxBytes, signal);
  const start = JSON.stringify(text.trimStart().slice(0, 40));
  if (isHtml(text)) throw new EngineError("checkpoint", `${file.name}: found HTML, starting with ${start}; expected JSON.`, { file: file.name });
  try {
    return JSON.parse(text);
  } catch (cause) {
    const found = text === "" ? "an empty file" : `text that starts with ${start}`;
    throw new EngineError("checkpoint", `${file.name}: found ${found}; expected JSON.`, { file: file.name }, { cause });
  }
}
