// What Nibble is measured beside. Large, so no dependencies: each package is fetched from npm once, into .cache/rivals.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";

const cache = resolve(import.meta.dirname, "../../.cache/rivals");

/** Folder of a package. @param {string} spec name@version @returns {string} */
export function rivalFolder(spec) {
  const folder = join(cache, spec.replaceAll("/", "-"));
  if (existsSync(folder)) return folder;
  const part = `${folder}.part`;
  rmSync(part, { recursive: true, force: true });
  mkdirSync(part, { recursive: true });
  execFileSync("npm", ["pack", "--silent", "--pack-destination", part, spec], { stdio: ["ignore", "ignore", "inherit"], shell: process.platform === "win32" });
  const tarball = String(readdirSync(part)[0]);
  execFileSync("tar", ["xzf", tarball, "--strip-components=1"], { cwd: part });
  rmSync(join(part, tarball));
  renameSync(part, folder);
  return folder;
}
