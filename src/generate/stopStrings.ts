/**
 * Finds stop strings in streamed text. Text that could be the beginning of one is held back, so what comes out never holds a part of
 * a stop string. The string that is complete first ends the stream (of two complete at once, the one that begins first), which
 * makes the result independent of how the text was cut into pieces.
 */
export class StopMatcher {
  readonly #stops: readonly string[];
  #held = "";
  #matched = false;

  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /** A stop string was found; everything after the text before it is dropped. */
  get matched(): boolean {
    return this.#matched;
  }

  /** Text is being held back. */
  get holds(): boolean {
    return this.#held !== "";
  }

  /** What can be shown after `text` came in: "" while it may belong to a stop string; on a match, what stood before it. */
  push(text: string): string {
    if (this.#matched) return "";
    const pending = this.#held + text;
    const start = this.#find(pending);
    this.#matched = start !== null;
    const shown = start ?? pending.length - this.#beginningLength(pending);
    this.#held = this.#matched ? "" : pending.slice(shown);
    return pending.slice(0, shown);
  }

  /** The text held back, at the end of the stream. */
  flush(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }

  /** Where the stop string that is complete first begins. */
  #find(text: string): number | null {
    let first: { start: number; end: number } | null = null;
    for (const stop of this.#stops) {
      const start = text.indexOf(stop);
      const end = start + stop.length;
      if (start >= 0 && (first === null || end < first.end || (end === first.end && start < first.start))) first = { start, end };
    }
    return first && first.start;
  }

  /** Length of the longest end of `text` with which a stop string begins. */
  #beginningLength(text: string): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
        if (text.endsWith(stop.slice(0, length))) longest = length;
      }
    }
    return longest;
  }
}
