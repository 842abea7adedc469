// Finds the browsers and Vulkan drivers that the tests use. Installs nothing; environment.mjs does that.
import { existsSync, readFileSync, realpathSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { chromium } from "playwright";

/**
 * Flags that give headless Chromium a WebGPU adapter without a GPU (SwiftShader) and keep it off the network.
 */
export const chromiumFlags = [
  "--no-sandbox",
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/**
 * First existing file among the candidates.
 * @param {(string | undefined)[]} paths
 * @returns {string | null}
 */
function firstExisting(paths) {
  return paths.find((path) => path !== undefined && path !== "" && existsSync(path)) ?? null;
}

/**
 * The executable of the first of these names on PATH.
 * @param {string[]} names
 */
function onPath(names) {
  const folders = (process.env.PATH ?? "").split(delimiter);
  return firstExisting(names.flatMap((name) => folders.map((folder) => join(folder, name))));
}

/** Chromium or Chrome: $CHROMIUM, $CHROME_PATH, the system's, Playwright's own. */
export function findChromium() {
  return (
    firstExisting([process.env.CHROMIUM, process.env.CHROME_PATH]) ??
    onPath(["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"]) ??
    firstExisting(["/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", chromium.executablePath()])
  );
}

/** A stock Firefox: $FIREFOX or the system's. Playwright's build has no WebGPU. */
export function findFirefox() {
  return (
    firstExisting([process.env.FIREFOX]) ??
    onPath(["firefox-esr", "firefox"]) ??
    firstExisting(["/Applications/Firefox.app/Contents/MacOS/firefox"])
  );
}

/** The font of the pictures in test/e2e/snapshots, where Debian has it. */
export function findDejaVu() {
  return firstExisting(["/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf"]);
}

/**
 * Mesa 22 (Debian bookworm's) declares Vulkan 1.1, and Dawn refuses it: it lacks shaderUniformBufferArrayDynamicIndexing.
 * @param {string} icd
 */
function isRecentMesa(icd) {
  return !/"api_version"\s*:\s*"1\.[012]\./.test(readFileSync(icd, "utf8"));
}

/** Mesa's software Vulkan driver, as the loader's JSON file. */
export function findLavapipe() {
  const folders = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
  const names = ["lvp_icd.json", "lvp_icd.x86_64.json", "lvp_icd.aarch64.json"];
  const paths = folders.flatMap((folder) => names.map((name) => join(folder, name)));
  return firstExisting([process.env.LAVAPIPE_ICD, ...paths.filter((path) => existsSync(path) && isRecentMesa(path))]);
}

/** Google's software Vulkan driver, which Chromium brings along. */
export function findSwiftShader() {
  const browsers = [findChromium(), chromium.executablePath()].filter((path) => path !== null && existsSync(path));
  const folders = [...browsers.map((path) => dirname(realpathSync(String(path)))), "/usr/lib/chromium", "/usr/lib64/chromium-browser", "/opt/google/chrome"];
  return firstExisting([process.env.SWIFTSHADER_ICD, ...folders.map((folder) => join(folder, "vk_swiftshader_icd.json"))]);
}

/**
 * Environment that makes Vulkan (so Dawn in Node, and Firefox) use one driver. It must be set before the process loads Vulkan.
 * @param {string | null} icd path of the driver's JSON file; null leaves the system's choice
 * @returns {Record<string, string>}
 */
export function vulkanEnvironment(icd) {
  return icd === null ? {} : { VK_ICD_FILENAMES: icd, VK_DRIVER_FILES: icd };
}
