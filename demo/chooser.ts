import { presets, type PresetName } from "nibble-webgpu";
import { pickedFiles, registered, typedSource, type Choice, type Offered } from "./choice.ts";
import { acceptDrops } from "./droppedFiles.ts";
import { element, hide } from "./element.ts";
import { formatNote, megabytes } from "./panel/format.ts";
import { uncalibratedPresets } from "./panel/recipes.ts";
import { storedSettings, storeSettings } from "./settingsStore.ts";

const modelSelect = element("model", HTMLSelectElement);
const presetSelect = element("preset", HTMLSelectElement);
const openButton = element("open", HTMLButtonElement);
const form = element("opener", HTMLFormElement);
const address = element("address", HTMLInputElement);
const revision = element("revision", HTMLInputElement);
const token = element("token", HTMLInputElement);

/** The two lists, the form that opens other models, and the page as a place to drop files on. */
export class Chooser {
  /** By label: the registry, and what was loaded from elsewhere. */
  private readonly offered = new Map(registered.map((model) => [model.label, model]));

  constructor(
    private readonly choose: (choice: Choice) => void,
    showError: (error: unknown) => void,
  ) {
    for (const { label, downloadBytes } of registered) modelSelect.add(new Option(`${label} (${megabytes(downloadBytes!)} MB)`, label));
    for (const name of uncalibratedPresets) presetSelect.add(new Option([name, formatNote(presets[name].linear)].filter((part) => part !== "").join(": "), name));
    const { preset } = storedSettings();
    presetSelect.value = uncalibratedPresets.find((name) => name === preset) ?? "int8";

    modelSelect.addEventListener("change", () => this.offer(this.selected));
    presetSelect.addEventListener("change", () => {
      storeSettings({ preset: this.preset });
      this.offer(this.selected);
    });
    openButton.addEventListener("click", () => this.setOpen(form.hidden));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const label = address.value.trim();
      this.offer({ label, source: typedSource(label), hub: { revision: revision.value.trim() || undefined, token: token.value.trim() || undefined }, downloadBytes: null });
      token.value = "";
    });
    const openFiles = (files: readonly File[]): void => {
      if (files.length > 0) this.offer(pickedFiles(files));
    };
    for (const id of ["files", "folder"]) {
      const input = element(id, HTMLInputElement);
      input.addEventListener("change", () => {
        openFiles([...(input.files ?? [])]);
        input.value = ""; // so that the same files can be picked again
      });
    }
    acceptDrops(element("dropHint", HTMLDivElement), openFiles, showError);
  }

  get preset(): PresetName {
    return presetSelect.value as PresetName;
  }

  get first(): Choice {
    return { ...registered[0]!, preset: this.preset };
  }

  /** Names the choice in both lists; a model that is not among them gets a line of its own. */
  show(choice: Choice): void {
    const { label, preset } = choice;
    if (![...modelSelect.options].some(({ value }) => value === label)) modelSelect.add(new Option(label, label));
    modelSelect.value = label;
    presetSelect.value = preset;
  }

  /** What has been loaded stays in the list; what was only asked for does not. */
  keep({ preset: _, ...model }: Choice): void {
    this.offered.set(model.label, model);
    this.setOpen(false);
  }

  dropUnknown(): void {
    for (const option of [...modelSelect.options]) if (!this.offered.has(option.value)) option.remove();
  }

  private get selected(): Offered {
    return this.offered.get(modelSelect.value) ?? registered[0]!;
  }

  private offer(model: Offered): void {
    this.choose({ ...model, preset: this.preset });
  }

  private setOpen(isOpen: boolean): void {
    openButton.ariaExpanded = String(isOpen);
    if (!isOpen) return hide(form, openButton);
    form.hidden = false;
    address.focus();
  }
}
