// Finds what the tests need besides npm packages, and installs it where this is root on Debian.
// Usage: node test/setup/environment.mjs [--no-install]; exits with 1 in CI when something is missing.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { findChromium, findDejaVu, findFirefox, findLavapipe, findSwiftShader } from "./locate.mjs";

/**
 * @typedef {"chromium" | "firefox" | "lavapipe" | "swiftshader" | "dejavu"} PieceName
 * @typedef {{ label: string, find: () => string | null, debianPackage: string, hint: string }} Piece
 */

/** @type {Readonly<Record<PieceName, Piece>>} */
export const pieces = {
  chromium: { label: "Chromium", find: findChromium, debianPackage: "chromium", hint: "set CHROMIUM, install chromium, or run npx playwright install chromium" },
  firefox: { label: "Firefox", find: findFirefox, debianPackage: "firefox-esr", hint: "set FIREFOX or install firefox-esr" },
  lavapipe: { label: "lavapipe", find: findLavapipe, debianPackage: "mesa-vulkan-drivers", hint: "set LAVAPIPE_ICD or install Mesa's Vulkan drivers (Debian bookworm: mesa-vulkan-drivers from bookworm-backports)" },
  swiftshader: { label: "SwiftShader", find: findSwiftShader, debianPackage: "chromium", hint: "set SWIFTSHADER_ICD to vk_swiftshader_icd.json, which comes with Chromium" },
  dejavu: { label: "DejaVu", find: findDejaVu, debianPackage: "fonts-dejavu-core", hint: "without this font the page is not compared with its pictures" },
};

/** @returns {string | null} "bookworm", "trixie"…; null where this is not Debian or not root */
function debianWhereRoot() {
  if (process.getuid?.() !== 0 || !existsSync("/etc/os-release") || !existsSync("/usr/bin/apt-get")) return null;
  const release = readFileSync("/etc/os-release", "utf8");
  return /^ID=debian$/m.test(release) ? (/^VERSION_CODENAME=(\w+)$/m.exec(release)?.[1] ?? null) : null;
}

/** Text of all apt sources, in both of apt's notations. */
function aptSources() {
  const folder = "/etc/apt/sources.list.d";
  const files = ["/etc/apt/sources.list", ...(existsSync(folder) ? readdirSync(folder).map((name) => `${folder}/${name}`) : [])];
  return files.filter((path) => existsSync(path) && /\.(list|sources)$/.test(path)).map((path) => readFileSync(path, "utf8")).join("\n");
}

/** The mirror that the machine takes bookworm from. */
function bookwormMirror() {
  const sources = aptSources();
  const line = /^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+bookworm\s+main/m.exec(sources);
  const stanza = sources.split(/\n\s*\n/).find((text) => /^Suites:(?:.*\s)?bookworm(?:\s|$)/m.test(text));
  return line?.[1] ?? /^URIs:\s*(\S+)/m.exec(stanza ?? "")?.[1] ?? "http://deb.debian.org/debian";
}

/** Dawn refuses bookworm's own Mesa (22.3), so its backports are added. */
function addBackports() {
  if (aptSources().includes("bookworm-backports")) return;
  const mirror = bookwormMirror();
  writeFileSync("/etc/apt/sources.list.d/bookworm-backports.list", `deb ${mirror} bookworm-backports main\n`);
}

/** @param {string[]} args */
function aptGet(args) {
  const { status } = spawnSync("apt-get", ["-qq", "-o", "Dpkg::Use-Pty=0", ...args], {
    stdio: ["ignore", 2, 2],
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
  });
  return status === 0;
}

/** @param {string} codename @param {Set<string>} packages */
function install(codename, packages) {
  console.log(`installing ${[...packages].join(", ")} with apt-get`);
  const fromBackports = codename === "bookworm" && packages.delete("mesa-vulkan-drivers");
  if (fromBackports) addBackports();
  aptGet(["update"]);
  if (packages.size > 0) aptGet(["install", "-y", "--no-install-recommends", ...packages]);
  if (fromBackports) aptGet(["install", "-y", "--no-install-recommends", "-t", "bookworm-backports", "mesa-vulkan-drivers"]);
}

/**
 * Looks for every piece, installs the missing ones where it can, and prints one line for each.
 * @param {{ mayInstall?: boolean }} [options]
 * @returns {Record<PieceName, string | null>} paths; null for what is missing
 */
export function prepareEnvironment({ mayInstall = true } = {}) {
  const names = /** @type {PieceName[]} */ (Object.keys(pieces));
  const missing = () => names.filter((name) => pieces[name].find() === null);
  const codename = debianWhereRoot();
  if (mayInstall && codename !== null && missing().length > 0) install(codename, new Set(missing().map((name) => pieces[name].debianPackage)));
  const found = /** @type {Record<PieceName, string | null>} */ (Object.fromEntries(names.map((name) => [name, pieces[name].find()])));
  for (const name of names) {
    const { label, hint } = pieces[name];
    console.log(found[name] === null ? `missing  ${label}: ${hint}` : `found    ${label}: ${found[name]}`);
  }
  return found;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const found = prepareEnvironment({ mayInstall: !process.argv.includes("--no-install") });
  if (process.env.CI && Object.values(found).includes(null)) process.exitCode = 1;
}
