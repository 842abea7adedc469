import type { DeviceCounts } from "../fixtures/watchDevice.ts";
import { cpuCopyBandwidth, gpuCopyBandwidth } from "./bandwidth.ts";
import { measureSubjects, type Result, type Sample, type Subject } from "./measure.ts";
import { type Engine, type ModelFiles, modelFiles, nibbleSubject } from "./nibbleSubject.ts";
import { type BenchOptions, pairsOf, type RivalFormat } from "./options.ts";
import { type Environment, jsonLines, markdown } from "./report.ts";
import { median } from "./statistics.ts";

/** Another engine, which takes the same weights in formats of its own. */
export interface Rival {
  /** What goes before the format in its subjects' names: "ort-web wasm". */
  label: string;
  load(model: { shape: string; files: ModelFiles; format: RivalFormat }): Promise<Subject>;
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
/** "Once upon a time, there was a" */
const SAME_MODEL_PROMPT = [7454, 2402, 257, 640, 11, 612, 373, 257];

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
    for (const format of rival ? rivals : []) loaded(await rival!.load({ shape, files, format }));
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
  const expected = (await first.logits(SAME_MODEL_PROMPT)).slice();
  for (const other of others) {
    const similarity = cosine(expected, await other.logits(SAME_MODEL_PROMPT));
    if (!(similarity > SAME_MODEL_COSINE)) throw new Error(`The logits of ${first.name} and ${other.name} have a cosine of ${similarity.toFixed(4)}; expected more than ${SAME_MODEL_COSINE} of one model.`);
  }
}

/** Of what differs from the mean, since a rival may give ln p instead of logits. */
function cosine(a: Float32Array, b: Float32Array): number {
  const mean = (values: Float32Array): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [meanA, meanB] = [mean(a), mean(b)];
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    const [x, y] = [a[i]! - meanA, b[i]! - meanB];
    ab += x * y;
    aa += x ** 2;
    bb += y ** 2;
  }
  return ab / Math.sqrt(aa * bb);
}

async function describeAdapter(backend: "webgpu" | "cpu", gpu: GPU | undefined): Promise<string> {
  if (backend === "cpu") return "on the CPU";
  const adapter = await gpu!.requestAdapter({ powerPreference: "high-performance" });
  const { vendor = "", architecture = "", description = "" } = adapter?.info ?? {};
  return [vendor, architecture, description].filter(Boolean).join(" ") || "an adapter without a name";
}
