#!/usr/bin/env node
import { readFile, writeFile } from "node:fs/promises";
import { text as readAll } from "node:stream/consumers";
import { calibrate, compareQuantizations, EngineError, exportSafetensors, loadModel } from "../index.ts";
import { runCli } from "./cli.ts";
import type { Output } from "./io.ts";
import { writeStream } from "./writeStream.ts";

/** Dawn ends the process when its GPU object is collected. */
let gpu: GPU | null = null;

/** The optional package "webgpu": Node has no WebGPU of its own. */
async function requestGpu(): Promise<GPU | null> {
  const dawn = await import("webgpu").catch(() => null);
  if (dawn === null) return null;
  Object.assign(globalThis, dawn.globals);
  return (gpu ??= dawn.create([]));
}

async function readText(path: string): Promise<string> {
  try {
    return path === "-" ? await readAll(process.stdin) : await readFile(path, "utf8");
  } catch (error) {
    throw new EngineError("storage", `Cannot read the text file "${path}": ${error instanceof Error ? error.message : String(error)}`, { path }, { cause: error });
  }
}

async function writeText(path: string, text: string): Promise<void> {
  try {
    await writeFile(path, text);
  } catch (error) {
    throw new EngineError("storage", `Cannot write the file "${path}": ${error instanceof Error ? error.message : String(error)}`, { path }, { cause: error });
  }
}

const controller = new AbortController();
let interrupts = 0;
process.on("SIGINT", () => {
  if (++interrupts > 1) process.exit(130); // the second one does not wait for the GPU
  controller.abort();
});

let isPipeClosed = false;
for (const stream of [process.stdout, process.stderr]) {
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
    isPipeClosed = true; // as with `| head`: nobody reads on, which is no failure
    controller.abort();
  });
}
const output = (stream: NodeJS.WriteStream): Output => ({ write: (text) => void (isPipeClosed || stream.write(text)), isTTY: stream.isTTY });

const code = await runCli(process.argv.slice(2), {
  stdout: output(process.stdout),
  stderr: output(process.stderr),
  signal: controller.signal,
  readText,
  writeText,
  writeStream,
  loadModel,
  exportSafetensors,
  compareQuantizations,
  calibrate,
  requestGpu,
});
process.exitCode = isPipeClosed ? 0 : code;
