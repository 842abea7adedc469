import type { Choice } from "./choice.ts";
import { element, hide } from "./element.ts";
import { isKept, verdict } from "./preflight.ts";

/** What the user agreed to load. */
export interface Agreement {
  choice: Choice;
  /** false: nobody was asked, since the browser seems to keep it. */
  mayDownload: boolean;
}

const box = element("offer", HTMLDivElement);
const cost = element("cost", HTMLParagraphElement);
const accept = element("accept", HTMLButtonElement);
const decline = element("decline", HTMLButtonElement);
const modelSelect = element("model", HTMLSelectElement);

/**
 * Resolves with what to load: at once where it costs little and fits, else when the user agrees; with null when they do not.
 * @param mayBeKept false: the browser is known not to keep it
 * @throws as planModel()
 */
export async function offer(choice: Choice, mayBeKept: boolean, signal: AbortSignal): Promise<Agreement | null> {
  if (mayBeKept && (await isKept(choice))) return { choice, mayDownload: false };
  const found = await verdict(choice, signal);
  signal.throwIfAborted();
  if (!found) return { choice, mayDownload: true };
  const { text, preset } = found;
  cost.textContent = text;
  accept.hidden = preset === null;
  accept.textContent = preset === choice.preset ? "Download" : `Load as ${preset}`;
  box.hidden = false;
  try {
    return await new Promise((resolve, reject) => {
      accept.onclick = () => resolve(preset && { choice: { ...choice, preset }, mayDownload: true });
      decline.onclick = () => resolve(null);
      signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
    });
  } finally {
    hide(box, modelSelect);
  }
}
