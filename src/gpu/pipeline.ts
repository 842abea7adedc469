import { EngineError } from "../errors.ts";
import { STAGE_COMPUTE } from "./constants.ts";
import type { Gpu } from "./device.ts";
import { preprocess, type ShaderConstants } from "./preprocess.ts";

/** "step" is the uniform Step of step.wgsl at an offset that each dispatch names: one buffer holds those of several tokens. */
export type BindingKind = "step" | "uniform" | "read" | "write";

/** A kernel before compilation: WGSL with its pieces, and what its group 0 binds, in order. */
export interface KernelSource {
  name: string;
  wgsl: string;
  pieces: Readonly<Record<string, string>>;
  bindings: readonly BindingKind[];
}

/** Which variant of a kernel is compiled. Software adapters want no barriers, and loops that stay loops: unrolled ones take them seconds to compile. */
export type Tuning = "hardware" | "software";

/** How a gemv workgroup is cut. */
export interface GemvShape {
  /** Threads that share a row; a workgroup has 8 times as many. */
  stripes: 8 | 16 | 32;
  /** Tiles of 8 outputs of a workgroup: a prologue is repeated by every workgroup, so more rows share it. */
  rowTiles: 1 | 2 | 4;
}

/** What of the device the kernels may use: chosen once, the same for every kernel of a model. */
export interface Variants {
  /** @default software on a software adapter */
  tuning: Tuning;
  /** Lanes of a subgroup that share what they read; 1 uses no subgroups. @default what the device has */
  lanes: 1 | 4 | 8;
  /** Products of int8 codes: by dot4I8Packed or by the same integers in plain WGSL. @default "packed" where the language has it */
  dot4: "packed" | "plain";
  /** For hardware. @default a first guess; real adapters are measured (model/tuning.ts) */
  gemv: GemvShape;
}

export interface Kernel {
  readonly name: string;
  readonly pipeline: GPUComputePipeline;
  /** It binds a Step, so that setBindGroup takes its offset. */
  readonly stepped: boolean;
  /** Binds whole buffers, or ranges of them, in the order of KernelSource.bindings. */
  bind(label: string, resources: readonly (GPUBuffer | GPUBufferBinding)[]): GPUBindGroup;
}

const BUFFER_TYPES: Record<BindingKind, GPUBufferBindingType> = { step: "uniform", uniform: "uniform", read: "read-only-storage", write: "storage" };

const STEP_BYTES = 16;

/** What each device has compiled: two models on one device share their kernels. */
const compiledByDevice = new WeakMap<GPUDevice, Map<string, Promise<Kernel>>>();

/** Compiles kernels for one device, each variant once; compiles in flight are shared. */
export class KernelCompiler {
  readonly variants: Variants;
  private readonly compiled: Map<string, Promise<Kernel>>;

  constructor(
    private readonly gpu: Gpu,
    { tuning = gpu.isFallback ? "software" : "hardware", lanes = gpu.subgroupLanes, dot4 = gpu.hasDot4 ? "packed" : "plain", gemv = { stripes: 8, rowTiles: 2 } }: Partial<Variants> = {},
  ) {
    this.variants = { tuning, lanes, dot4, gemv };
    this.compiled = compiledByDevice.get(gpu.device) ?? new Map<string, Promise<Kernel>>();
    compiledByDevice.set(gpu.device, this.compiled);
  }

  /** @throws EngineError shader, with WGSL line and column */
  compile(source: KernelSource, constants: ShaderConstants): Promise<Kernel> {
    const key = `${source.name} ${JSON.stringify(constants)}`;
    let kernel = this.compiled.get(key);
    if (!kernel) {
      kernel = this.build(source, constants, key);
      kernel.catch(() => this.compiled.delete(key)); // a later attempt may succeed
      this.compiled.set(key, kernel);
    }
    return kernel;
  }

  private async build(source: KernelSource, constants: ShaderConstants, label: string): Promise<Kernel> {
    const { device, counts } = this.gpu;
    const code = preprocess(source.wgsl, constants, source.pieces);
    const layout = device.createBindGroupLayout({
      label,
      entries: source.bindings.map((kind, binding) => ({ binding, visibility: STAGE_COMPUTE, buffer: { type: BUFFER_TYPES[kind], hasDynamicOffset: kind === "step" } })),
    });
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ label, code });
    const moduleError = device.popErrorScope();
    counts.pipelines++;
    let pipeline: GPUComputePipeline;
    try {
      pipeline = await device.createComputePipelineAsync({ label, layout: device.createPipelineLayout({ label, bindGroupLayouts: [layout] }), compute: { module, entryPoint: "main" } });
      await moduleError;
    } catch (cause) {
      this.gpu.throwFailure(); // a lost device compiles nothing
      throw await compileError(module, code, label, cause);
    }
    return {
      name: source.name,
      pipeline,
      stepped: source.bindings.includes("step"),
      bind: (groupLabel, resources) =>
        device.createBindGroup({
          label: groupLabel,
          layout,
          entries: resources.map((resource, binding) => {
            const range = "buffer" in resource ? resource : { buffer: resource };
            return { binding, resource: source.bindings[binding] === "step" ? { ...range, size: STEP_BYTES } : range };
          }),
        }),
    };
  }
}

async function compileError(module: GPUShaderModule, code: string, label: string, cause: unknown): Promise<EngineError> {
  const info = await module.getCompilationInfo().catch(() => null);
  const message = info?.messages.find((m) => m.type === "error");
  if (!message) return new EngineError("shader", `Kernel ${label} did not compile: ${(cause as Error).message}`, { kernel: label }, { cause });
  const line = code.split("\n")[message.lineNum - 1]?.trim() ?? "";
  return new EngineError(
    "shader",
    `Kernel ${label} did not compile: line ${message.lineNum}:${message.linePos}: ${message.message} in "${line}"`,
    { kernel: label, line: message.lineNum, column: message.linePos, message: message.message },
    { cause },
  );
}
