import type { Rival } from "../bench.ts";
import type { Subject } from "../measure.ts";
import type { ModelFiles } from "../nibbleSubject.ts";
import { gpt2Onnx, type OnnxFormat, readShape } from "./gpt2Onnx.ts";

/** What is used of onnxruntime-web and onnxruntime-node, which are too large to be dependencies. */
export interface Ort {
  env: { wasm: { numThreads?: number; wasmPaths?: string } };
  InferenceSession: { create(model: Uint8Array, options: { executionProviders: string[]; preferredOutputLocation?: Record<string, string>; logSeverityLevel?: number }): Promise<OrtSession> };
  Tensor: new (type: string, data: Float32Array | Int32Array | BigInt64Array, shape: readonly number[]) => OrtTensor;
}
export interface OrtSession {
  run(inputs: Readonly<Record<string, OrtTensor>>): Promise<Readonly<Record<string, OrtTensor>>>;
  release(): Promise<void>;
}
export interface OrtTensor {
  /** Throws while the tensor lies on a GPU. */
  readonly data: Float32Array;
  dispose(): void;
}

export interface OrtSubjectOptions {
  /** "ort-web wasm": what goes before the format in the subject's name. */
  label: string;
  shape: string;
  files: ModelFiles;
  format: OnnxFormat;
  provider: "webgpu" | "wasm" | "cpu";
  /** Leaves keys and values where they were made between the steps; onnxruntime-node cannot. */
  cacheOnGpu: boolean;
}

/** onnxruntime in one of its builds. */
export function ortRival(ort: Ort, options: Pick<OrtSubjectOptions, "label" | "provider" | "cacheOnGpu">): Rival {
  return { label: options.label, load: ({ format, ...model }) => ortSubject(ort, { ...options, ...model, format: format as OnnxFormat }) };
}

/** onnxruntime, used as transformers.js uses it: the last position's logits come back, and the program picks the largest. */
async function ortSubject(ort: Ort, { label, shape, files, format, provider, cacheOnGpu }: OrtSubjectOptions): Promise<Subject> {
  const { n_layer: L, n_head: H, n_embd: C, n_positions, vocab_size: V } = readShape(files);
  const parts = Array.from({ length: L }, (_, i) => [`${i}.key`, `${i}.value`]).flat();
  const model = gpt2Onnx(files, format);
  const startMs = performance.now();
  const session = await ort.InferenceSession.create(model, {
    executionProviders: [provider],
    logSeverityLevel: 3, // errors; it warns about every node that runs on the CPU
    preferredOutputLocation: cacheOnGpu ? Object.fromEntries(parts.map((part) => [`present.${part}`, "gpu-buffer"])) : undefined,
  });
  const loadMs = performance.now() - startMs;

  let cache: Record<string, OrtTensor> = {};
  const forget = (): void => {
    for (const tensor of Object.values(cache)) tensor.dispose();
    cache = {};
  };
  const int64 = (values: readonly number[]): OrtTensor => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
  /** f32 [V]: logits after tokens at positions start… */
  const forward = async (tokens: readonly number[], start: number): Promise<Float32Array> => {
    if (start === 0) {
      forget();
      cache = Object.fromEntries(parts.map((part) => [`past.${part}`, new ort.Tensor("float32", new Float32Array(0), [1, H, 0, C / H])]));
    }
    const end = start + tokens.length;
    const { logits, ...present } = await session.run({
      ...cache,
      tokens: int64(tokens),
      positions: int64(tokens.map((_, i) => start + i)),
      lastPosition: new ort.Tensor("int32", Int32Array.of(end - 1), [1]),
      positionCount: new ort.Tensor("int32", Int32Array.of(end), []),
    });
    forget();
    cache = Object.fromEntries(Object.entries(present).map(([name, tensor]) => [name.replace("present", "past"), tensor]));
    return logits!.data;
  };

  return {
    name: `${label} ${format}`,
    shape,
    loadMs,
    nPositions: n_positions,
    vocabSize: V,
    async generate(prompt, newTokens) {
      const beginMs = performance.now();
      let next = largest(await forward(prompt, 0));
      const firstMs = performance.now();
      for (let i = 1; i < newTokens; i++) next = largest(await forward([next], prompt.length + i - 1));
      return { prefillMs: firstMs - beginMs, decodeMs: performance.now() - firstMs, newTokens };
    },
    logits: (prompt) => forward(prompt, 0),
    async dispose() {
      forget();
      await session.release();
    },
  };
}

/** The index of the largest value. */
function largest(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}
