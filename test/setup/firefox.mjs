// A stock Firefox with WebGPU on lavapipe, kept off the network. Playwright cannot drive one; puppeteer can, over WebDriver BiDi.
import puppeteer from "puppeteer-core";
import { findLavapipe, vulkanEnvironment } from "./locate.mjs";

const preferences = {
  "dom.webgpu.enabled": true,
  "gfx.webgpu.ignore-blocklist": true, // software adapters are on it
  "dom.max_script_run_time": 0,
  "network.captive-portal-service.enabled": false,
  "network.connectivity-service.enabled": false,
  "network.dns.disablePrefetch": true,
  "network.prefetch-next": false,
  "browser.safebrowsing.malware.enabled": false,
  "browser.safebrowsing.phishing.enabled": false,
  "browser.safebrowsing.update.enabled": false,
  "services.settings.server": "data:,#remote-settings-dummy/v1",
  "app.normandy.enabled": false,
  "app.update.enabled": false,
  "extensions.update.enabled": false,
  "extensions.getAddons.cache.enabled": false,
  "datareporting.policy.dataSubmissionEnabled": false,
  "toolkit.telemetry.enabled": false,
};

/**
 * Starts it without a window.
 * @param {string} executablePath
 * @param {string} home an empty folder for the profile's caches
 * @param {number} [limitMs] for each answer of the browser; @default none
 */
export function launchFirefox(executablePath, home, limitMs = 0) {
  return puppeteer.launch({
    browser: "firefox",
    executablePath,
    headless: true,
    protocolTimeout: limitMs,
    env: { ...process.env, HOME: home, XDG_RUNTIME_DIR: home, ...vulkanEnvironment(findLavapipe()) },
    extraPrefsFirefox: preferences,
  });
}
