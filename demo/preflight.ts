import type { Choice } from "./choice.ts";
import { megabytes } from "./panel/format.ts";

/** More than this is not downloaded before the user has seen how much it is. */
const largeBytes = 100e6;

/** The verdict before a download: what it will cost, for the user to agree to. null: so little that nobody need be asked, or unknown. */
export function verdict({ label, preset, downloadBytes }: Choice): string | null {
  if (downloadBytes === null || downloadBytes < largeBytes) return null;
  return `${label} is a download of ${megabytes(downloadBytes)} MB, stored as ${preset} while it arrives.`;
}
