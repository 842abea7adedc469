/** Settings by the id of their field. Nothing but settings is ever kept here: no prompt, no text, no token. */
export type StoredSettings = Record<string, string>;

const storageKey = "nibble-settings";

/** {} where nothing readable is stored, or storage is blocked. */
export function storedSettings(): StoredSettings {
  try {
    const stored: unknown = JSON.parse(localStorage.getItem(storageKey) ?? "{}");
    return Object.fromEntries(Object.entries(Object(stored) as object).filter((entry): entry is [string, string] => typeof entry[1] === "string"));
  } catch {
    return {};
  }
}

/** Adds to what is stored. Where storage is blocked or full, settings last as long as the page. */
export function storeSettings(settings: StoredSettings): void {
  try {
    localStorage.setItem(storageKey, JSON.stringify({ ...storedSettings(), ...settings }));
  } catch {
    // Nothing depends on it.
  }
}
