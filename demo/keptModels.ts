import { type CacheEntry, caches } from "nibble-webgpu";
import { element, textElement } from "./element.ts";
import { megabytes } from "./panel/format.ts";

const section = element("kept", HTMLDetailsElement);
const summary = element("keptTotal", HTMLElement);
const list = element("keptList", HTMLUListElement);
const clear = element("keptClear", HTMLButtonElement);

/** The list of the quantized models that the browser keeps for the next visit, each with a button that deletes it. */
export class KeptModels {
  constructor(private readonly showError: (error: unknown) => void) {
    clear.addEventListener("click", () => void this.change(() => caches.clear()));
  }

  /** Reads it again. Where storage is shut there is nothing to list. */
  async refresh(): Promise<void> {
    const entries = await caches.list().catch(() => []);
    const totalBytes = entries.reduce((sum, { bytes }) => sum + bytes, 0);
    summary.textContent = entries.length === 0 ? "Nothing is kept for the next visit." : `Kept for the next visit: ${entries.length === 1 ? "1 model" : `${entries.length} models`}, ${megabytes(totalBytes)} MB`;
    clear.hidden = entries.length === 0;
    list.replaceChildren(...entries.map((entry) => this.row(entry)));
  }

  private row({ key, source, recipe, bytes, lastUsed }: CacheEntry): HTMLLIElement {
    const name = `${source.replace(/^hub |@main$/g, "").replace(new URL("./", document.baseURI).href, "")} as ${recipe ?? "a recipe without a name"}`;
    const row = textElement("li", "");
    const remove = textElement("button", "Delete");
    remove.type = "button";
    remove.ariaLabel = `Delete ${name}`;
    remove.addEventListener("click", () => void this.change(() => caches.delete(key)));
    row.append(textElement("span", name), textElement("span", `${megabytes(bytes)} MB, used ${lastUsed.toLocaleDateString("en", { dateStyle: "medium" })}`, "num soft"), remove);
    return row;
  }

  private async change(change: () => Promise<unknown>): Promise<void> {
    try {
      await change();
    } catch (error) {
      this.showError(error);
    }
    await this.refresh();
    section.querySelector("summary")!.focus(); // the button that was pressed is gone
  }
}
