// npm test: every tier, in two lanes side by side, then a table and one closing line.
// Usage: node test/setup/run.mjs [tier…]; without names, all of them.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { pieces, prepareEnvironment } from "./environment.mjs";

/**
 * @typedef {{ passed: number, failed: number, skipped: number, failures?: string[] }} Counts failures: name and first lines of each, printed again below the table
 * @typedef {object} Tier
 * @property {string} name
 * @property {import("./environment.mjs").PieceName[]} [needs]
 * @property {string[][]} commands Node scripts with their arguments, run in order until one fails
 * @property {Record<string, string>} [env]
 * @property {"a" | "b"} lane the two lanes run side by side, each in the order below
 * @property {(report: string) => Counts} [count] reads the report that the last command wrote; without it, the tier is one check
 */

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
/** A tier that takes longer hangs; all together stay under 16 minutes on two cores. */
const tierLimitMs = 1_500_000;
const reports = mkdtempSync(join(tmpdir(), "nibble-reports-"));
/** @param {string} tier */
const reportPath = (tier) => join(reports, `${tier}.json`);

/** @param {string} path */
const script = (path) => join(root, "node_modules", path);
const tsc = script("typescript/bin/tsc");
const vite = script("vite/bin/vite.js");

/** @param {string} report @returns {Counts} */
function countVitest(report) {
  /** @type {{ numPassedTests: number, numFailedTests: number, numPendingTests: number, numTodoTests: number, testResults: { name: string, status: string, message: string, assertionResults: { status: string, fullName: string, failureMessages: string[] }[] }[] }} */
  const { numPassedTests, numFailedTests, numPendingTests, numTodoTests, testResults } = JSON.parse(report);
  // A file that fails to load has no test that failed.
  const brokenFiles = testResults.filter((file) => file.status === "failed" && !file.assertionResults.some((test) => test.status === "failed"));
  const failures = testResults.flatMap(({ assertionResults }) => assertionResults.filter(({ status }) => status === "failed").map(({ fullName, failureMessages }) => `${fullName}: ${failureMessages.join("; ")}`));
  failures.push(...brokenFiles.map(({ name, message }) => `${name}: ${message}`));
  return { passed: numPassedTests, failed: numFailedTests + brokenFiles.length, skipped: numPendingTests + numTodoTests, failures };
}

/** @param {string} report @returns {Counts} */
function countPlaywright(report) {
  /** @type {{ stats: { expected: number, unexpected: number, flaky: number, skipped: number } }} */
  const { stats } = JSON.parse(report);
  return { passed: stats.expected, failed: stats.unexpected + stats.flaky, skipped: stats.skipped };
}

/** What firefox.mjs and test/package/run.mjs write. @param {string} report @returns {Counts} */
function countConformance(report) {
  /** @type {{ passed: number, failed: number, failures: string[] }} */
  const { passed, failed, failures } = JSON.parse(report);
  return { passed, failed, skipped: 0, failures };
}

/** @param {string} project @param {string} tier */
const vitest = (project, tier = project) => [script("vitest/vitest.mjs"), "run", "--project", project, "--reporter=default", "--reporter=json", `--outputFile.json=${reportPath(tier)}`];

/** @type {Tier[]} */
const tiers = [
  { name: "typecheck", lane: "a", commands: [[tsc, "-p", "."]] },
  { name: "lint", lane: "b", commands: [[script("eslint/bin/eslint.js"), "--max-warnings", "0", "."]] },
  { name: "unit", lane: "b", commands: [vitest("unit")], count: countVitest },
  { name: "gpu-lavapipe", lane: "a", needs: ["lavapipe"], commands: [vitest("gpu", "gpu-lavapipe")], env: { NIBBLE_GPU: "lavapipe" }, count: countVitest },
  { name: "build", lane: "b", commands: [[vite, "build", "--mode", "library"], [vite, "build", "--mode", "whole"], [tsc, "-p", "tsconfig.build.json"], [tsc, "-p", "demo/panel/tsconfig.types.json"], [vite, "build"], [script("typedoc/bin/typedoc"), "--emit", "none"]] },
  {
    name: "e2e",
    lane: "b",
    needs: ["chromium"],
    commands: [[script("@playwright/test/cli.js"), "test", "--config", "test/e2e/playwright.config.ts", "--reporter=list,json"]],
    env: { PLAYWRIGHT_JSON_OUTPUT_NAME: reportPath("e2e") },
    count: countPlaywright,
  },
  { name: "package", lane: "b", needs: ["chromium", "lavapipe"], commands: [[join(root, "test/package/run.mjs"), "--report", reportPath("package")]], count: countConformance },
  { name: "gpu-swiftshader", lane: "a", needs: ["swiftshader"], commands: [vitest("gpu", "gpu-swiftshader")], env: { NIBBLE_GPU: "swiftshader" }, count: countVitest },
  { name: "browser", lane: "b", needs: ["chromium"], commands: [vitest("browser")], count: countVitest },
  {
    name: "firefox",
    lane: "b",
    needs: ["firefox", "lavapipe"],
    commands: [[join(root, "test/conformance/firefox.mjs"), "--report", reportPath("firefox")]],
    count: countConformance,
  },
];

/** @type {Set<import("node:child_process").ChildProcess>} */
const running = new Set();
/**
 * Ends a command with all its children: browsers, workers, servers.
 * @param {import("node:child_process").ChildProcess} child
 */
function stop(child) {
  try {
    if (child.pid !== undefined) process.kill(process.platform === "win32" ? child.pid : -child.pid, "SIGKILL");
  } catch {
    // It ended by itself.
  }
}
for (const signal of /** @type {const} */ (["SIGINT", "SIGTERM"])) {
  process.on(signal, () => {
    running.forEach(stop);
    process.exit(signal === "SIGINT" ? 130 : 143);
  });
}

/**
 * @param {string[]} args
 * @param {Record<string, string>} env
 * @param {(text: string) => void} print
 * @returns {Promise<boolean>} true when it exited with 0 in time
 */
async function succeeds(args, env, print) {
  const child = spawn(process.execPath, args, { cwd: root, env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"], detached: process.platform !== "win32" });
  running.add(child);
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", print);
  const limit = setTimeout(() => {
    print(`Stopped after ${tierLimitMs / 1000} s.\n`);
    stop(child);
  }, tierLimitMs);
  return new Promise((resolve) => {
    child.once("close", (code) => {
      clearTimeout(limit);
      running.delete(child);
      resolve(code === 0);
    });
  });
}

/**
 * @param {Tier} tier
 * @param {Record<string, string | null>} found
 * @param {(text: string) => void} print
 * @returns {Promise<Counts>}
 */
async function runTier({ name, needs = [], commands, env = {}, count }, found, print) {
  const missing = needs.filter((piece) => found[piece] === null);
  for (const piece of missing) print(`${name} cannot run: ${pieces[piece].label} is missing; ${pieces[piece].hint}.\n`);
  if (missing.length > 0) return { passed: 0, failed: 1, skipped: 0 };
  let ok = true;
  for (const command of commands) ok = ok && (await succeeds(command, env, print));
  if (count === undefined) return { passed: ok ? 1 : 0, failed: ok ? 0 : 1, skipped: 0 };
  let counts = { passed: 0, failed: 0, skipped: 0 };
  try {
    counts = count(readFileSync(reportPath(name), "utf8"));
  } catch {
    print(`${name} left no report.\n`);
  }
  // An unhandled error fails a run whose tests all passed; a tier that ran nothing proves nothing.
  if (counts.failed === 0 && (!ok || counts.passed === 0)) counts.failed = 1;
  return counts;
}

const chosen = process.argv.slice(2);
const unknown = chosen.filter((name) => !tiers.some((tier) => tier.name === name));
if (unknown.length > 0) {
  console.error(`No tier is called ${unknown.join(", ")}; there are ${tiers.map((tier) => tier.name).join(", ")}.`);
  process.exit(2);
}

const found = prepareEnvironment();
/** @type {(Counts & { name: string, seconds: number })[]} */
const rows = [];
const wanted = tiers.filter(({ name }) => chosen.length === 0 || chosen.includes(name));

/**
 * Runs tiers one after the other. What a tier prints is kept until it ends while another lane is running.
 * @param {Tier[]} lane
 * @param {boolean} alone
 */
async function runLane(lane, alone) {
  for (const tier of lane) {
    console.log(`\n=== ${tier.name}${alone ? "" : " begins"}`);
    const startMs = performance.now();
    /** @type {string[]} */
    const kept = [];
    const counts = await runTier(tier, found, alone ? (text) => process.stdout.write(text) : (text) => kept.push(text));
    const seconds = (performance.now() - startMs) / 1000;
    if (!alone) console.log(`\n=== ${tier.name} ended after ${seconds.toFixed(0)} s\n${kept.join("")}`);
    rows.push({ name: tier.name, ...counts, seconds });
  }
}

const lanes = [wanted.filter(({ lane }) => lane === "a"), wanted.filter(({ lane }) => lane === "b")];
const alone = lanes.some((lane) => lane.length === 0);
await Promise.all(lanes.map((lane) => runLane(lane, alone)));
rows.sort((a, b) => tiers.findIndex(({ name }) => name === a.name) - tiers.findIndex(({ name }) => name === b.name));
rmSync(reports, { recursive: true, force: true });

/** @param {(string | number)[]} cells */
const line = ([name, ...numbers]) => String(name).padEnd(18) + numbers.map((cell) => String(cell).padStart(9)).join("");
console.log(`\n${line(["tier", "passed", "failed", "skipped", "seconds"])}`);
for (const { name, passed, failed, skipped, seconds } of rows) console.log(line([name, passed, failed, skipped, seconds.toFixed(1)]));
for (const { name, failures = [] } of rows) for (const failure of failures) console.log(`\n${name} failed: ${failure.split("\n").slice(0, 6).join("\n  ")}`);
/** @param {"passed" | "failed"} key */
const total = (key) => rows.reduce((sum, row) => sum + row[key], 0);
console.log(`\n${total("passed")} passed, ${total("failed")} failed`);
if (total("failed") > 0) process.exitCode = 1;
