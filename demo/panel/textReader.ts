import type { PanelText } from "./panelElement.ts";
import type { TextChoice } from "./settings.ts";

/** Reads texts that were chosen. An address is fetched once; a failure is tried again. */
export class TextReader {
  private readonly fetched = new Map<string, Promise<string>>();

  /** "" where none is chosen. */
  async read(choice: TextChoice, offered: readonly PanelText[]): Promise<string> {
    if (choice.kind === "pasted") return choice.text;
    if (choice.kind === "file") return (await choice.file?.text()) ?? "";
    const found = offered.find(({ label }) => label === choice.label);
    return found ? this.contentOf(found.text) : "";
  }

  /** The choice of a link that names its text by the hash: an offered text that has it, or a file that is yet to be given. */
  async find(choice: TextChoice, wantedSha256: string | null, offered: readonly PanelText[]): Promise<TextChoice> {
    if (choice.kind === "pasted" || wantedSha256 === null || !globalThis.isSecureContext) return choice;
    for (const { label, text } of offered) {
      const content = await this.contentOf(text).catch(() => "");
      if ((await sha256(content)) === wantedSha256) return { kind: "offered", label };
    }
    return { kind: "file", file: null };
  }

  private contentOf(text: string | URL): Promise<string> {
    if (typeof text === "string") return Promise.resolve(text);
    const known = this.fetched.get(text.href);
    if (known) return known;
    const reading = fetch(text).then((response) => (response.ok ? response.text() : Promise.reject(new Error(`${text.href} answered ${response.status}.`))));
    this.fetched.set(text.href, reading);
    reading.catch(() => this.fetched.delete(text.href));
    return reading;
  }
}

/** SHA-256 of UTF-8, hex; null where the page may not hash. */
export async function sha256(text: string): Promise<string | null> {
  if (!globalThis.isSecureContext) return null;
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
