import { defineConfig } from "@playwright/test";
import { resolve } from "node:path";
import { chromiumFlags, findChromium } from "../setup/locate.mjs";

const root = resolve(import.meta.dirname, "../..");
const address = "http://127.0.0.1:4273/";

/** The built page (npm run build:page) in a real Chromium. */
export default defineConfig({
  testDir: import.meta.dirname,
  testMatch: "**/*.spec.ts",
  outputDir: resolve(root, "test-results"),
  workers: 1, // a software adapter takes every core by itself
  timeout: 360_000,
  forbidOnly: !!process.env.CI,
  reporter: "list",
  snapshotPathTemplate: "{testDir}/snapshots/{arg}{ext}", // the same pictures on every platform
  updateSnapshots: process.env.CI ? "none" : "missing",
  use: {
    baseURL: address,
    browserName: "chromium",
    serviceWorkers: "block", // what it keeps would hide what a test breaks
    launchOptions: { executablePath: findChromium() ?? undefined, args: [...chromiumFlags, "--disable-lcd-text"] },
    screenshot: "only-on-failure",
    trace: "off",
  },
  webServer: { command: "npx vite preview --port 4273 --strictPort", cwd: root, url: address, reuseExistingServer: false },
});
