import { resolveGenerateOptions } from "../../src/generate/options.ts";
import { gumbel } from "../../src/generate/random.ts";
import { Sampler } from "../../src/generate/sampler.ts";
import { BufferUsage } from "../../src/gpu/constants.ts";
import type { KernelSource } from "../../src/gpu/pipeline.ts";
import { bindGemv, candidateBytes } from "../../src/kernels/linear.ts";
import { uploadMatrix } from "../../src/kernels/matrix.ts";
import { dispatchOp, type Op } from "../../src/kernels/op.ts";
import { bindSampling, readSample, SAMPLE_BYTES, samplingWords, tokenCounts } from "../../src/kernels/sampling.ts";
import { kernels } from "../../src/kernels/sources.ts";
import { dequantizeTensor, quantizeTensor } from "../../src/quantize/nearest.ts";
import { packTensor, padTo } from "../../src/quantize/pack.ts";
import type { GenerateOptions, TensorFormat } from "../../src/types.ts";
import { gaussian } from "../fixtures/seededCheckpoint.ts";
import { logSoftmax } from "../reference/gpt2.ts";
import { tolerances } from "../tolerances.ts";
import { requireAtMost, type ConformanceCase } from "./case.ts";
import { padRows, Workbench } from "./kernelCases.ts";

const { storage, uniform, mapRead, copyDst, copySrc } = BufferUsage;

interface SamplingRun {
  V: number;
  steps: number;
  options: GenerateOptions;
  /** Of step i. f32 [V] */
  logits: (step: number) => Float32Array<ArrayBuffer>;
  prompt?: readonly number[];
  format?: TensorFormat;
  /** The logits come from a head's gemv, as tuned for hardware, which leaves candidates. */
  head?: boolean;
}

/** Logits with many exact ties and both zeros: multiples of ¼ between −4 and 4. */
const tied = (V: number) => (step: number): Float32Array<ArrayBuffer> => Float32Array.from({ length: V }, (_, id) => Math.round(16 * Math.sin(id * 1.7 + step)) / 4);
/** As a model has them: far below zero, a few far above the rest. */
const spread = (V: number) => (step: number): Float32Array<ArrayBuffer> => gaussian(V, 3, -20, V + step);

/** Draws tokens by the kernel and by the CPU's sampler from the same logits, and requires the same ids, log-probabilities and embeddings. */
async function drawsAsOnTheCpu(device: GPUDevice, { V, steps, options, logits, prompt = [0, 3, 3, V - 1], format = { type: "f16" }, head = false }: SamplingRun): Promise<number> {
  const bench = await Workbench.open(device, head ? { tuning: "hardware" } : {});
  const C = 40;
  const stride = padTo(C, 32);
  const wte = quantizeTensor(gaussian(V * C, 0.3, 0, 1), [V, C], format);
  const rows = dequantizeTensor(wte);
  const wpe = gaussian((prompt.length + steps) * C, 0.1, 0, 2);
  const matrix = await uploadMatrix(bench.gpu, "wte", packTensor(wte, 2 ** 27), "embedding", { yStride: padTo(V, 32), biasBase: 0, epsilon: 0 });
  const sampling = resolveGenerateOptions({ seed: 7, ...options }, V);
  const sampler = new Sampler(V, sampling, prompt);
  const run = bench.step(0, 0);
  const row = bench.input(new Float32Array(padTo(V, 32)));
  const y = bench.output(steps * 4);
  const x = bench.output(stride);
  const shared = { run, sampling: bench.input(samplingWords(sampling, V, prompt.length), uniform), counts: bench.input(tokenCounts(prompt, V)) };
  const hidden = bench.input(new Float32Array(padTo(steps, 32)));
  const ops: Op[] = [];
  let candidates: GPUBuffer | null = null;
  if (head) {
    // Column i of the head is the logits of step i; the input picks it.
    const columns = Array.from({ length: steps }, (_, step) => logits(step));
    const weights = quantizeTensor(Float32Array.from({ length: V * steps }, (_, i) => columns[i % steps]![Math.floor(i / steps)]!), [V, steps], { type: "f32" });
    const product = await uploadMatrix(bench.gpu, "head", packTensor(weights, 2 ** 27), "embedding", { yStride: padTo(V, 32), biasBase: 0, epsilon: 0 });
    candidates = bench.output(candidateBytes(bench.compiler, product) / 4);
    const none = bench.output(4);
    ops.push(await bindGemv(bench.compiler, "head", product, "none", { run, x: hidden, aux: none, residual: none, y: row }, { ...shared, candidates }));
  }
  ops.push(await bindSampling(bench.compiler, matrix, { ...shared, candidates, logits: row, wpe: bench.input(padRows(wpe, C)), y, x }));
  const staging = bench.gpu.createBuffer("staging", SAMPLE_BYTES + stride * 4, mapRead | copyDst, "staging");
  let worst = 0;
  for (let step = 0; step < steps; step++) {
    const position = prompt.length + step; // of the token sampled
    const values = logits(step);
    const expected = sampler.sample(values);
    if (head) bench.gpu.device.queue.writeBuffer(hidden, 0, Float32Array.from({ length: steps }, (_, i) => Number(i === step)));
    else bench.gpu.device.queue.writeBuffer(row, 0, values);
    bench.gpu.device.queue.writeBuffer(run, 0, Uint32Array.of(position - 1, 1, 0, 1));
    bench.gpu.submit("draw", (pass) => ops.forEach((op) => op.record(pass, 1)), (encoder) => {
      encoder.copyBufferToBuffer(y, step * SAMPLE_BYTES, staging, 0, SAMPLE_BYTES);
      encoder.copyBufferToBuffer(x, 0, staging, SAMPLE_BYTES, stride * 4);
    });
    const read = await bench.gpu.read(staging, SAMPLE_BYTES + stride * 4);
    const { id, logProb } = readSample(read, 0);
    if (id !== expected.id) throw new Error(`V = ${V}, ${JSON.stringify(options)}, step ${step}: token ${id}; the CPU draws ${expected.id}`);
    const embedded = new Float32Array(read, SAMPLE_BYTES, C);
    const wrong = embedded.findIndex((value, c) => Math.abs(value - rows[id * C + c]! - wpe[position * C + c]!) > 1e-6);
    if (wrong !== -1) throw new Error(`V = ${V}, step ${step}: x[${wrong}] of token ${id} is ${embedded[wrong]}`);
    worst = Math.max(worst, Math.abs(logProb - logSoftmax(values)[id]!));
  }
  bench.gpu.dispose();
  return worst;
}

const modes: Readonly<Record<string, readonly GenerateOptions[]>> = {
  greedy: [{ temperature: 0 }],
  temperature: [{}, { temperature: 0.3 }, { temperature: 5, seed: -3 }],
  topK: [{ topK: 1 }, { topK: 2 }, { topK: 40 }, { topK: 130, temperature: 2 }],
  topP: [{ topP: 1e-6 }, { topP: 0.5 }, { topP: 0.95 }, { topP: 0.9999, temperature: 3 }],
  minP: [{ minP: 1 }, { minP: 0.1 }, { minP: 1e-4, temperature: 4 }],
  "topK, topP and minP": [
    { topK: 60, topP: 0.7, temperature: 2 },
    { topK: 30, topP: 0.95, minP: 0.2, temperature: 1.5 },
  ],
  penalties: [
    { temperature: 0, repetitionPenalty: 1.3 },
    { temperature: 0, frequencyPenalty: 0.7, presencePenalty: 1.1 },
    { repetitionPenalty: 0.8, frequencyPenalty: -0.3, topK: 20, topP: 0.9 },
  ],
};

const modeCases = Object.entries(modes).map(
  ([name, optionsOfMode]): ConformanceCase => ({
    name: `kernel: sample draws the tokens of the CPU's sampler by ${name}`,
    run: async (device) => {
      let worst = 0;
      for (const options of optionsOfMode) {
        for (const [V, steps, logits] of [[131, 30, tied(131)], [1023, 12, spread(1023)], [50257, 2, spread(50257)]] as const) {
          worst = Math.max(worst, await drawsAsOnTheCpu(device, { V, steps, options, logits }));
        }
      }
      return requireAtMost("ln p", worst, tolerances.rowLogProb);
    },
  }),
);

/** A kernel of the test's own around a piece of the engine's: y[i] = f(inputs[i]). */
async function runPiece(device: GPUDevice, name: string, wgsl: string, inputs: Uint32Array<ArrayBuffer>, length: number): Promise<ArrayBuffer> {
  const bench = await Workbench.open(device);
  const source: KernelSource = { name, wgsl, pieces: kernels.sample.pieces, bindings: ["step", "read", "write"] };
  const kernel = await bench.compiler.compile(source, { ROLLED: true });
  const y = bench.gpu.createBuffer("y", length * 4, storage | copySrc, "activations");
  const op = dispatchOp(kernel, kernel.bind(name, [bench.step(0, 1), bench.input(inputs), y]), () => [1]);
  const { buffer } = await bench.run([op], 1, y, length);
  bench.gpu.dispose();
  return buffer;
}

const bindings = `
#import "step"
@group(0) @binding(0) var<uniform> run: Step;
@group(0) @binding(1) var<storage, read> inputs: array<u32>;
#import "loop_bound"
`;

const pieceCases: readonly ConformanceCase[] = [
  {
    name: "kernel: philox gives the published known answers, bit for bit",
    run: async (device) => {
      // Random123's kat_vectors, philox4x32 10: counter, key, result.
      const vectors = [
        "00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd",
        "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1",
      ].map((line) => line.split(" ").map((word) => parseInt(word, 16)));
      const wgsl = `${bindings}
@group(0) @binding(2) var<storage, read_write> y: array<vec4<u32>>;
#import "philox"
@compute @workgroup_size(3) fn main(@builtin(local_invocation_index) t: u32) {
  let i = 6u * t;
  y[t] = philox(vec4<u32>(inputs[i], inputs[i + 1u], inputs[i + 2u], inputs[i + 3u]), vec2<u32>(inputs[i + 4u], inputs[i + 5u]));
}`;
      const found = new Uint32Array(await runPiece(device, "philoxOf", wgsl, Uint32Array.from(vectors.flatMap((vector) => vector.slice(0, 6))), 12));
      const expected = vectors.flatMap((vector) => vector.slice(6));
      if (found.join() !== expected.join()) throw new Error(`found ${found.join(" ")}; expected ${expected.join(" ")}`);
      return "3 vectors";
    },
  },
  {
    name: "kernel: gumbel noise agrees with f64 over all of its range",
    run: async (device) => {
      const words = Uint32Array.from({ length: 256 }, (_, i) => (i < 64 ? i * i * i : i < 128 ? 0xffffffff - (i - 64) ** 3 : i < 192 ? 0x3ffffff0 + i - 128 : Math.floor(2 ** 32 * ((i - 192) / 64))));
      const wgsl = `${bindings}
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
#import "gumbel"
@compute @workgroup_size(256) fn main(@builtin(local_invocation_index) t: u32) { y[t] = gumbel(inputs[t]); }`;
      const found = new Float32Array(await runPiece(device, "gumbelOf", wgsl, words, 256));
      const errors = [...words].map((word, i) => Math.abs(found[i]! - gumbel((word + 0.5) * 2 ** -32)));
      return requireAtMost("error", errors.reduce((a, b) => (a >= b ? a : b)), tolerances.gumbel);
    },
  },
];

const otherCases: readonly ConformanceCase[] = [
  {
    name: "kernel: sample draws the tokens of the CPU's sampler from the candidates that the head leaves as tuned for hardware",
    run: async (device) => {
      let worst = 0;
      for (const options of Object.values(modes).flat()) {
        for (const [V, steps, logits] of [[131, 8, tied(131)], [1023, 8, spread(1023)]] as const) {
          worst = Math.max(worst, await drawsAsOnTheCpu(device, { V, steps, options, logits, head: true }));
        }
      }
      return requireAtMost("ln p", worst, tolerances.rowLogProb);
    },
  },
  {
    name: "kernel: sample embeds from every kind of encoding",
    run: async (device) => {
      for (const format of [{ type: "f32" }, { type: "int8", mode: "absmax", granularity: "channel" }, { type: "nf4", block: 64, doubleQuantization: true }, { type: "int4", mode: "zeropoint", granularity: { group: 32 } }] as const) {
        await drawsAsOnTheCpu(device, { V: 200, steps: 4, options: {}, logits: spread(200), format });
      }
      return "4 formats";
    },
  },
  {
    name: "kernel: sample gives a log-probability that is not finite where a logit is not",
    run: async (device) => {
      const V = 300;
      for (const value of [NaN, Infinity, -Infinity]) {
        const bench = await Workbench.open(device);
        const matrix = await uploadMatrix(bench.gpu, "wte", packTensor(quantizeTensor(new Float32Array(V * 4), [V, 4], { type: "f16" }), 2 ** 27), "embedding", { yStride: 32, biasBase: 0, epsilon: 0 });
        const values = new Float32Array(padTo(V, 32));
        const logProb = async (): Promise<number> => {
          const y = bench.output(4);
          const op = await bindSampling(bench.compiler, matrix, {
            run: bench.step(0, 1),
            sampling: bench.input(samplingWords(resolveGenerateOptions({ topP: 0.9, topK: 40 }, V), V, 1), uniform),
            logits: bench.input(values),
            counts: bench.input(tokenCounts([], V)),
            candidates: null,
            wpe: bench.input(new Float32Array(64)),
            y,
            x: bench.output(32),
          });
          return readSample((await bench.run([op], 1, y, 4)).buffer, 0).logProb;
        };
        const finite = await logProb(); // control case
        if (!(Math.abs(finite + Math.log(V)) < tolerances.rowLogProb)) throw new Error(`control: ${finite}`);
        values[257] = value;
        const found = await logProb();
        if (Number.isFinite(found)) throw new Error(`${value}: ${found}`);
        bench.gpu.dispose();
      }
      return "NaN, ∞, −∞";
    },
  },
];

export const samplingCases: readonly ConformanceCase[] = [...pieceCases, ...modeCases, ...otherCases];
