import type { Choice } from "./choice.ts";
import { element } from "./element.ts";
import { verdict } from "./preflight.ts";

const box = element("offer", HTMLDivElement);
const cost = element("cost", HTMLParagraphElement);
const accept = element("accept", HTMLButtonElement);

/** Asks before a large download. */
export class DownloadOffer {
  private pending: Choice | null = null;

  constructor(
    private readonly load: (choice: Choice) => void,
    decline: () => void,
  ) {
    accept.addEventListener("click", () => {
      if (this.pending) load(this.pending);
    });
    element("decline", HTMLButtonElement).addEventListener("click", () => {
      this.close();
      decline();
    });
  }

  /** Loads `choice` at once where that costs little; else when the user agrees. */
  consider(choice: Choice): void {
    const text = verdict(choice);
    if (text === null) return this.load(choice);
    this.pending = choice;
    cost.textContent = text;
    box.hidden = false;
  }

  close(): void {
    this.pending = null;
    box.hidden = true;
  }
}
