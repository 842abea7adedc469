import type { Output } from "./io.ts";

/** One line on stderr that rewrites itself on a terminal; in a file, one line per new subject. */
export class ProgressLine {
  private subject = "";
  private shown = "";

  constructor(private readonly output: Output) {}

  /** fraction: 0…1 */
  update(subject: string, fraction: number, note = ""): void {
    if (this.output.isTTY) {
      const line = `${subject} ${Math.floor(fraction * 100)} %${note && ` · ${note}`}`;
      if (line !== this.shown) this.output.write(`\r\x1b[2K${line}`);
      this.shown = line;
    } else if (subject !== this.subject) {
      this.output.write(`${subject}\n`);
    }
    this.subject = subject;
  }

  /** Clears the line, so that what follows starts on a clean one. */
  end(): void {
    if (this.output.isTTY && this.shown !== "") this.output.write("\r\x1b[2K");
    this.shown = "";
  }
}
