import type { ConformanceResult } from "./bench.ts";
import { runConformance } from "./suite.ts";

/** What the page found so far; firefox.mjs reads it, and a person can open the page in any browser. */
export interface ConformancePage {
  adapter: string;
  results: ConformanceResult[];
  done: boolean;
  /** Why the suite could not run or go on. */
  error: string | null;
}

const state: ConformancePage = { adapter: "", results: [], done: false, error: null };
Object.assign(globalThis, { conformance: state });

const log = document.querySelector("#log")!;
const print = (line: string) => log.append(line, "\n");

try {
  if (!("gpu" in navigator)) throw new Error("This browser has no WebGPU.");
  const adapter = await navigator.gpu.requestAdapter();
  if (adapter === null) throw new Error("No WebGPU adapter.");
  const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info;
  state.adapter = [vendor, architecture, device, description, isFallbackAdapter ? "(fallback)" : ""].filter(Boolean).join(" ");
  print(`${navigator.userAgent}\n${state.adapter}`);
  const filter = new URLSearchParams(location.search).get("filter") ?? undefined;
  await runConformance(navigator.gpu, {
    filter,
    onCase(result) {
      state.results.push(result);
      print(`${result.ok ? "ok    " : "FAILED"} ${result.name} (${Math.round(result.ms)} ms) ${result.detail}`);
    },
  });
  print(`${state.results.filter((result) => result.ok).length} of ${state.results.length} passed`);
} catch (error) {
  state.error = error instanceof Error ? error.message : String(error);
  print(state.error);
} finally {
  state.done = true;
}
