import { type ChildProcess, spawn } from "node:child_process";
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { build } from "vite";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { adapterName } from "../gpu.ts";
import prompt7 from "../fixtures/golden/prompt-7.json";

const root = resolve(import.meta.dirname, "../..");
/** Inside node_modules, so that the build finds the package's dependencies. */
const dist = join(root, `node_modules/.nibble-cli-test-${process.pid}`);
const folder = mkdtempSync(join(tmpdir(), "nibble-cli-"));

beforeAll(async () => {
  await build({ root, mode: "library", logLevel: "error", build: { outDir: dist, emptyOutDir: true } });
});
afterAll(() => {
  rmSync(dist, { recursive: true, force: true });
  rmSync(folder, { recursive: true, force: true });
});

interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Runs the built command line; onText sees stdout while it is written. */
async function nibble(args: readonly string[], onText?: (child: ChildProcess) => void): Promise<Outcome> {
  const child = spawn(process.execPath, [join(dist, "cli.js"), ...args], { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  const outcome: Outcome = { code: null, stdout: "", stderr: "" };
  child.stdout.on("data", (chunk: Buffer) => {
    outcome.stdout += String(chunk);
    onText?.(child);
  });
  child.stderr.on("data", (chunk: Buffer) => void (outcome.stderr += String(chunk)));
  return new Promise((resolveOutcome) => child.once("close", (code) => resolveOutcome({ ...outcome, code })));
}

/** The command line does not depend on the driver; once is enough. */
const describeCli = describe.runIf((await adapterName()) !== "swiftshader");
const greedy = ["--quantization", "f32", "--temperature", "0"];

describeCli("nibble generate", () => {
  test.each(["cpu", "webgpu"])("writes the golden continuation on stdout with --backend %s", async (backend) => {
    const tokens = 6;
    const { code, stdout, stderr } = await nibble(["generate", prompt7.text, ...greedy, "--max-tokens", String(tokens), "--backend", backend]);
    expect(code, stderr).toBe(0);
    expect(prompt7.greedyText.startsWith(stdout.trimEnd())).toBe(true);
    expect(stdout).toBe(" a little girl named Lily.\n");
    expect(stderr).toContain("6 tokens");
    expect(stderr).toContain(backend === "cpu" ? "CPU" : "WebGPU");
  });
  test("says the same with --json, as data", async () => {
    const { code, stdout, stderr } = await nibble(["generate", prompt7.text, ...greedy, "--max-tokens", "24", "--backend", "cpu", "--json"]);
    expect(code, stderr).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ text: prompt7.greedyText, tokens: prompt7.greedy, finishReason: "maxTokens", newTokens: 24 });
  });
  test("ends with 130 on Ctrl-C", async () => {
    const { code } = await nibble(["generate", prompt7.text, ...greedy, "--max-tokens", "240", "--backend", "cpu"], (child) => child.kill("SIGINT"));
    expect(code).toBe(130);
  });
  test("ends quietly when nobody reads on", async () => {
    const { code, stderr } = await nibble(["generate", prompt7.text, ...greedy, "--max-tokens", "240", "--backend", "cpu"], (child) => child.stdout?.destroy());
    expect(code, stderr).toBe(0);
    expect(stderr).not.toContain("EPIPE");
  });
});

describeCli("nibble perplexity", () => {
  test("measures every recipe on the same tokens", async () => {
    const file = join(folder, "story.txt");
    writeFileSync(file, readFileSync(join(root, "models/texts/stories-eval.txt"), "utf8").slice(0, 1200));
    const { code, stdout, stderr } = await nibble(["perplexity", "--text", file, "--quantization", "f32,int8", "--protocol", "strided", "--window", "64", "--backend", "cpu", "--json"]);
    expect(code, stderr).toBe(0);
    const { rows } = JSON.parse(stdout) as { rows: { name: string; perplexity: number; standardError: number; scoredTokens: number; bytes: { total: number } }[] };
    const [f32, int8] = rows;
    expect(rows.map(({ name }) => name)).toEqual(["f32", "int8"]);
    expect(f32?.scoredTokens).toBeGreaterThan(200);
    expect(int8?.scoredTokens).toBe(f32?.scoredTokens);
    expect(Math.abs(int8!.perplexity / f32!.perplexity - 1)).toBeLessThan(0.05);
    expect(int8!.bytes.total).toBeLessThan(0.3 * f32!.bytes.total);
  });
  test("ends with 1 and one line where the text cannot be read", async () => {
    const { code, stdout, stderr } = await nibble(["perplexity", "--text", join(folder, "nothing.txt")]);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(/^nibble: Cannot read the text file ".*nothing\.txt".*\n$/);
  });
});

describeCli("nibble export", () => {
  test("writes a file from which the same text is generated, under the quantization that it holds", async () => {
    const model = join(folder, "model.safetensors");
    copyFileSync(join(root, "models/stories-12m/config.json"), join(folder, "config.json"));
    const written = await nibble(["export", "--out", model, "--quantization", "nf4", "--backend", "cpu"]);
    expect(written.code, written.stderr).toBe(0);
    expect(written.stdout).toMatch(/model\.safetensors · nf4 · 4\.500 bits\/weight · \d+\.\d\d MB\n$/);
    expect(readdirSync(folder).filter((name) => name.endsWith(".partial"))).toEqual([]);
    const story = ["generate", prompt7.text, "--temperature", "0", "--max-tokens", "6", "--backend", "cpu"];
    const [stored, fresh] = [await nibble([...story, "--model", model]), await nibble([...story, "--quantization", "nf4"])];
    expect(stored.stderr).toContain("· nf4 ·");
    expect([stored.code, stored.stdout]).toEqual([0, fresh.stdout]);
  });
});

describeCli("nibble compare and nibble merge", () => {
  test("write shards to files and join them to the numbers of the whole run", async () => {
    const file = join(folder, "shards.txt");
    writeFileSync(file, readFileSync(join(root, "models/texts/stories-eval.txt"), "utf8").slice(0, 700));
    const compare = ["compare", "--text", file, "--recipes", "f16", "--window", "64", "--backend", "cpu", "--json"];
    const shards = ["1/2", "2/2"].map((shard) => ({ shard, path: join(folder, `${shard[0]}.json`) }));
    const runs = await Promise.all([nibble(compare), ...shards.map(({ shard, path }) => nibble([...compare, "--shard", shard, "--out", path]))]);
    for (const { code, stderr } of runs) expect(code, stderr).toBe(0);
    expect(runs.slice(1).map(({ stdout }) => stdout)).toEqual(["", ""]);
    const merged = await nibble(["merge", ...shards.map(({ path }) => path), "--json"]);
    const measures = ({ stdout }: Outcome) => (JSON.parse(stdout) as { rows: { perplexity: number; klDivergence: object }[] }).rows.map(({ perplexity, klDivergence }) => [perplexity, klDivergence]);
    expect(measures(merged)).toEqual(measures(runs[0]));
  });
  test("end with 1 and one line where the result cannot be written", async () => {
    const { code, stdout, stderr } = await nibble(["merge", join(folder, "1.json"), join(folder, "2.json"), "--out", join(folder, "no/such/folder.md")]);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(/^nibble: Cannot write the file ".*folder\.md".*\n$/);
  });
});

describeCli("nibble", () => {
  test("ends with 2 and names an option that does not exist", async () => {
    const { code, stdout, stderr } = await nibble(["generate", "a", "--fast"]);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain("--fast");
  });
});
