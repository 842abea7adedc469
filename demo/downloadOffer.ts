import type { Choice } from "./choice.ts";
import { element } from "./element.ts";
import { verdict } from "./preflight.ts";

const box = element("offer", HTMLDivElement);
const cost = element("cost", HTMLParagraphElement);
const accept = element("accept", HTMLButtonElement);
const decline = element("decline", HTMLButtonElement);

/** Resolves with what to load: at once where it costs little and fits, else when the user agrees; with null when they do not. @throws as planModel() */
export async function offer(choice: Choice, signal: AbortSignal): Promise<Choice | null> {
  const found = await verdict(choice, signal);
  signal.throwIfAborted();
  if (!found) return choice;
  const { text, preset } = found;
  cost.textContent = text;
  accept.hidden = preset === null;
  accept.textContent = preset === choice.preset ? "Download" : `Load as ${preset}`;
  box.hidden = false;
  try {
    return await new Promise((resolve, reject) => {
      accept.onclick = () => resolve(preset && { ...choice, preset });
      decline.onclick = () => resolve(null);
      signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
    });
  } finally {
    box.hidden = true;
  }
}
