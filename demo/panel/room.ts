import type { LitElement, ReactiveController } from "lit";

/** Below it a table becomes cards: one per row, a label over each figure. px */
const CARDS = 600;

/** How wide an element is; it renders again where that changes. */
export class Room implements ReactiveController {
  width = Infinity;
  private readonly observer = new ResizeObserver(([entry]) => {
    this.width = entry!.contentRect.width;
    this.host.requestUpdate();
  });

  constructor(private readonly host: LitElement) {
    host.addController(this);
  }

  /** Of a table in it; partStyles has the rules. */
  get tableClass(): "cards" | "" {
    return this.width < CARDS ? "cards" : "";
  }

  hostConnected(): void {
    this.observer.observe(this.host);
  }

  hostDisconnected(): void {
    this.observer.disconnect();
  }
}
