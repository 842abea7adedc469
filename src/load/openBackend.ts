import { EngineError } from "../errors.ts";
import { fetchSampler } from "../generate/generation.ts";
import { findAdapter, Gpu, isFallbackAdapter } from "../gpu/device.ts";
import type { Backend, BackendBuilder, BackendOptions } from "../model/backend.ts";
import { createGpuBuilder, largestTensorBytes } from "../model/gpu.ts";
import { fetchPart } from "../parts.ts";
import type { Gpt2Config, LoadOptions } from "../types.ts";

/** The CPU backend, a part of the engine. */
type Cpu = typeof import("../model/cpu.ts");

export type BackendChoice = { kind: "webgpu"; gpu: Gpu } | { kind: "cpu"; cpu: Cpu; notices: readonly string[] };

export type BackendRequest = Pick<LoadOptions, "backend" | "gpu" | "device" | "signal">;

/** With the sampler that it needs, so that a loaded model needs no network. */
async function fetchCpu(signal?: AbortSignal): Promise<Cpu> {
  const [cpu] = await Promise.all([fetchPart("The CPU backend", () => import("../model/cpu.ts"), signal), fetchSampler(signal)]);
  return cpu;
}

/** Begins to fetch what chooseBackend() will want, where that is certain, beside the first files of the checkpoint. */
export function prefetchBackend({ backend = "auto", gpu = globalThis.navigator?.gpu, device }: BackendRequest): void {
  if (backend === "cpu" || (backend === "auto" && !gpu && !device)) fetchCpu().catch(() => undefined); // chooseBackend() tells it
}

/**
 * Decides where the model runs, before any weight is read. "auto" takes WebGPU on a real adapter and the CPU where there is none or only a
 * software one (its kernels are slower than the CPU's loops), and says so in the notices.
 * @throws EngineError unsupported, when "webgpu" was asked for and there is no adapter or device; network; signal.reason on abort
 */
export async function chooseBackend({ backend = "auto", gpu, device, signal }: BackendRequest, config: Gpt2Config): Promise<BackendChoice> {
  const onCpu = async (...notices: string[]): Promise<BackendChoice> => ({ kind: "cpu", cpu: await fetchCpu(signal), notices });
  if (backend === "cpu") return onCpu();
  const open = async (): Promise<BackendChoice> => ({ kind: "webgpu", gpu: await Gpu.open({ gpu, device, largestTensorBytes: largestTensorBytes(config) }) });
  if (backend === "webgpu" || device) return open();
  const adapter = await findAdapter(gpu).catch(() => null);
  if (!adapter) return onCpu("No WebGPU adapter was found; running on the CPU.");
  if (isFallbackAdapter(adapter.info, adapter)) return onCpu(`The only WebGPU adapter is software (${adapter.info.description || adapter.info.vendor}); running on the CPU.`);
  try {
    return await open();
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    return onCpu(`${error.message} Running on the CPU.`);
  }
}

/** The choice's builder, with notices beside the choice's own. On WebGPU the builder, and later the backend, owns `gpu`. */
export function createBuilder(choice: BackendChoice, options: BackendOptions): BackendBuilder {
  return choice.kind === "webgpu" ? createGpuBuilder(choice.gpu, options) : choice.cpu.createCpuBuilder({ ...options, notices: [...choice.notices, ...(options.notices ?? [])] });
}

/** A builder whose model has a ledger of its own and leaves the device to the choice, for models that are on it together. */
export async function createBuilderBeside(choice: BackendChoice, options: BackendOptions): Promise<BackendBuilder> {
  return createBuilder(choice.kind === "webgpu" ? { ...choice, gpu: await Gpu.open({ device: choice.gpu.device, largestTensorBytes: 0 }) } : choice, options);
}

/** Fills a builder and finishes it. What fails abandons it. */
export async function build<T>(builder: BackendBuilder, fill: (builder: BackendBuilder) => Promise<T>, signal: AbortSignal | undefined): Promise<{ filled: T; backend: Backend }> {
  try {
    const filled = await fill(builder);
    return { filled, backend: await builder.finish(signal) };
  } catch (error) {
    builder.abandon();
    throw error;
  }
}

/** Gives back the choice's device, after the models on it. */
export function disposeChoice(choice: BackendChoice): void {
  if (choice.kind === "webgpu") choice.gpu.dispose();
}
