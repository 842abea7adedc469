import type { LoadOptions, ModelSource } from "nibble-webgpu";

/** What a link calls a model: a hub id with the revision asked for, or an address, below this page "./…", so that a copy of the page takes its own. null: it came from files, which have no name. */
export function modelName(source: ModelSource | null, hub?: LoadOptions["hub"]): string | null {
  if (!(typeof source === "string" || source instanceof URL)) return null;
  const base = new URL(".", document.baseURI).href;
  const name = String(source);
  if (name.startsWith(base)) return `./${name.slice(base.length)}`;
  return hub?.revision && /^[\w.-]+\/[\w.-]+$/.test(name) ? `${name}@${hub.revision}` : name;
}
