import { element, textElement } from "./element.ts";

const list = element("loadFiles", HTMLUListElement);

/** The files of a load that reads several, each with how far it has come. */
export class FileRows {
  private readonly amounts = new Map<string, HTMLSpanElement>();

  clear(): void {
    this.amounts.clear();
    list.replaceChildren();
    list.hidden = true;
  }

  /** Which of how many files this one is, as far as is known; null: there is no other. */
  show(file: string, amount: string): { number: number; count: number } | null {
    if (!this.amounts.has(file)) shardsOf(file).forEach((name) => this.add(name));
    this.amounts.get(file)!.textContent = amount;
    const { size: count } = this.amounts;
    list.hidden = count < 2;
    return list.hidden ? null : { number: [...this.amounts.keys()].indexOf(file) + 1, count };
  }

  private add(name: string): void {
    const amount = textElement("span", "waiting", "soft");
    const row = textElement("li", "");
    row.append(textElement("span", name), amount);
    list.append(row);
    this.amounts.set(name, amount);
  }
}

/** All that the name of one tells of: "model-00002-of-00003.safetensors" is one of three. */
function shardsOf(file: string): string[] {
  const [, before, , of, count] = /^(.*-)(\d{5})(-of-)(\d{5})\.safetensors$/.exec(file) ?? [];
  const names = Array.from({ length: Math.min(Number(count), 100) || 0 }, (_, i) => `${before}${String(i + 1).padStart(5, "0")}${of}${count}.safetensors`);
  return names.includes(file) ? names : [file];
}
