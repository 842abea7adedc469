import { existsSync, openAsBlob, readdirSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type { ModelSource } from "../index.ts";
import { UsageError } from "./usage.ts";

const embeddedModel = "models/stories-12m";

/** The embedded model, when the command runs somewhere inside the repository. */
function findEmbeddedModel(): string | null {
  for (let folder = resolve("."); ; folder = dirname(folder)) {
    const candidate = join(folder, embeddedModel);
    if (existsSync(join(candidate, "config.json"))) return candidate;
    if (folder === dirname(folder)) return null;
  }
}

/** Files of a checkpoint by name, opened lazily: nothing is read before the engine asks. */
async function openFolder(folder: string, isWanted: (name: string) => boolean): Promise<Record<string, Blob>> {
  const names = readdirSync(folder, { withFileTypes: true }).filter((entry) => !entry.isDirectory() && isWanted(entry.name));
  return Object.fromEntries(await Promise.all(names.map(async ({ name }) => [name, await openAsBlob(join(folder, name))] as const)));
}

/** A folder or a .safetensors file on disk becomes Blobs; anything else is left to the engine as a hub id or a URL. */
export async function openModel(option: string | undefined): Promise<{ name: string; source: ModelSource }> {
  const name = option ?? findEmbeddedModel();
  if (name === null) throw new UsageError("Option --model is missing: a folder, a .safetensors file, a hub id such as openai-community/gpt2, or a URL.");
  if (!existsSync(name)) {
    if (/^(\.{0,2}\/|~)|^[A-Za-z]:\\/.test(name)) throw new UsageError(`Option --model is "${name}"; there is no such folder or file.`);
    return { name, source: name };
  }
  const isText = (file: string) => /\.(json|txt)$/.test(file);
  if (statSync(name).isDirectory()) return { name, source: await openFolder(name, (file) => isText(file) || file.endsWith(".safetensors")) };
  return { name, source: await openFolder(dirname(name), (file) => isText(file) || file === basename(name)) };
}
