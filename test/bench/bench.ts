import type { DeviceCounts } from "../fixtures/watchDevice.ts";
import { cpuCopyBandwidth, gpuCopyBandwidth } from "./bandwidth.ts";
import { measureSubjects, promptTokens, type Result, type Sample, type Subject } from "./measure.ts";
import { type Engine, modelFiles, nibbleSubject } from "./nibbleSubject.ts";
import { type BenchOptions, pairsOf } from "./options.ts";
import { type Ort, ortSubject, type OrtSubjectOptions } from "./peers/ortSubject.ts";
import { type Environment, jsonLines, markdown } from "./report.ts";
import { median } from "./statistics.ts";

/** onnxruntime in one of its builds. */
export interface Rival extends Pick<OrtSubjectOptions, "label" | "provider" | "cacheOnGpu"> {
  ort: Ort;
}

export interface BenchSetup {
  engine: Engine;
  options: BenchOptions;
  /** Needed for backend webgpu; stays referenced by the caller. */
  gpu?: GPU;
  /** Of all devices of `gpu`. */
  counts?: DeviceCounts;
  rival?: Rival;
  environment: Pick<Environment, "command" | "runtime" | "processors">;
  /** Files of the repository by path. */
  read: (path: string) => Promise<Uint8Array>;
  onLine: (line: string) => void;
}

export interface BenchReport {
  jsonLines: string;
  markdown: string;
}

/** Rivals round their weights otherwise, so on a model of noise the logits differ; those of another model would have a cosine near 0. */
const SAME_MODEL_COSINE = 0.9;

/** Loads all subjects of one model after the other, measures them together, and goes on to the next model. */
export async function bench({ engine, options, gpu, counts, rival, environment, read, onLine }: BenchSetup): Promise<BenchReport> {
  const { shapes, presets, backend, rivals, plan } = options;
  const copyRates: number[] = [];
  const beforeRound = async (): Promise<void> => void copyRates.push(backend === "webgpu" ? await gpuCopyBandwidth(gpu!) : cpuCopyBandwidth());
  const onSample = ({ shape, subject, round, measure, tokens, value }: Sample): void =>
    onLine(`${shape} ${subject}, round ${round}: ${measure} ${tokens} ${value.toFixed(1)} ${measure === "decode" ? "ms/token" : "tokens/s"}`);
  const results: Result[] = [];
  for (const shape of shapes) {
    const subjects: Subject[] = [];
    const loaded = (subject: Subject): void => {
      subjects.push(subject);
      onLine(`${shape} ${subject.name}: loaded in ${(subject.loadMs / 1000).toFixed(1)} s`);
    };
    const files = await modelFiles(shape, read);
    for (const quantization of presets) loaded(await nibbleSubject(engine, { shape, files, quantization, backend, gpu }));
    for (const format of rival ? rivals : []) loaded(await ortSubject(rival!.ort, { ...rival!, shape, files, format }));
    await assertSameModel(subjects);
    results.push(...(await measureSubjects(subjects, plan, { counts, onSample, beforeRound })));
    for (const subject of subjects) await subject.dispose();
  }
  const described: Environment = { kind: "environment", ...environment, date: new Date().toISOString().slice(0, 10), adapter: await describeAdapter(backend, gpu), copyBytesPerSecond: median(copyRates), plan };
  const pairs = rival ? pairsOf(options, rival.label) : [];
  return { jsonLines: jsonLines(described, results, pairs), markdown: markdown(described, results, pairs) };
}

/** A rival that computes something else is no rival. */
async function assertSameModel([first, ...others]: readonly Subject[]): Promise<void> {
  if (!first || others.length === 0) return;
  const prompt = promptTokens(8, first.vocabSize);
  const expected = (await first.logits(prompt)).slice();
  for (const other of others) {
    const similarity = cosine(expected, await other.logits(prompt));
    if (!(similarity > SAME_MODEL_COSINE)) throw new Error(`The logits of ${first.name} and ${other.name} have a cosine of ${similarity.toFixed(4)}; expected more than ${SAME_MODEL_COSINE} of one model.`);
  }
}

function cosine(a: Float32Array, b: Float32Array): number {
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    ab += a[i]! * b[i]!;
    aa += a[i]! ** 2;
    bb += b[i]! ** 2;
  }
  return ab / Math.sqrt(aa * bb);
}

async function describeAdapter(backend: "webgpu" | "cpu", gpu: GPU | undefined): Promise<string> {
  if (backend === "cpu") return "on the CPU";
  const adapter = await gpu!.requestAdapter({ powerPreference: "high-performance" });
  const { vendor = "", architecture = "", description = "" } = adapter?.info ?? {};
  return [vendor, architecture, description].filter(Boolean).join(" ") || "an adapter without a name";
}
