/** The element of this page with that id. Throws where index.html has none of that type. */
export function element<E extends HTMLElement>(id: string, type: abstract new () => E): E {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new TypeError(`The page has no ${type.name} with id "${id}".`);
  return found;
}

/** A new element that holds plain text. Whatever the text says, it is never parsed as HTML. */
export function textElement<K extends keyof HTMLElementTagNameMap>(tag: K, text: string, className = ""): HTMLElementTagNameMap[K] {
  const created = document.createElement(tag);
  created.textContent = text;
  if (className !== "") created.className = className;
  return created;
}

/** Hides an element. Where it holds the focus, that goes to `next`: a browser would leave it nowhere. */
export function hide(hidden: HTMLElement, next: HTMLElement): void {
  if (hidden.contains(document.activeElement)) next.focus({ preventScroll: true });
  hidden.hidden = true;
}

/** One readable line for whatever was thrown. */
export function errorLine(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
