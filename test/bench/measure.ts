// What is measured and in which order, the same for our engine and for others, in Node and in a page.
import type { DeviceCounts } from "../fixtures/watchDevice.ts";

/** One model in one engine, loaded. */
export interface Subject {
  /** "nibble webgpu int8": engine, backend, format. */
  readonly name: string;
  /** The model: "124m". */
  readonly shape: string;
  readonly loadMs: number;
  readonly nPositions: number;
  readonly vocabSize: number;
  /** Forgets what was before, runs the prompt, decodes greedily. Times are taken where a program that uses the engine would take them. */
  generate(prompt: readonly number[], newTokens: number): Promise<GenerationTimes>;
  /** f32 [V]: logits after the prompt, to see that two subjects are the same model. */
  logits(prompt: readonly number[]): Promise<Float32Array>;
  /** Scores a text in disjoint windows and gives the number of scored tokens; engines that have no such call lack it. */
  score?(text: readonly number[], windowTokens: number): Promise<number>;
  /** Least number of bytes that decoding a token at this position moves, where it is known. */
  bytesPerToken?(position: number): number;
  dispose(): void | Promise<void>;
}

export interface GenerationTimes {
  /** From the call until the first token is known to the program. */
  prefillMs: number;
  /** From the first token to the last. */
  decodeMs: number;
  newTokens: number;
}

export interface Plan {
  rounds: number;
  /** Prompt lengths whose prefill is measured. */
  prefillTokens: readonly number[];
  /** Prompt lengths behind which decoding is measured. */
  contextTokens: readonly number[];
  /** Tokens of one decode measurement. */
  decodeTokens: number;
  /** Length of the text that is scored; 0 measures no scoring. */
  scoreTokens: number;
}

export type Measure = "prefill" | "decode" | "score";

export interface Sample {
  kind: "sample";
  subject: string;
  shape: string;
  round: number;
  measure: Measure;
  /** Of the prompt; for "score", of the text. */
  tokens: number;
  /** Tokens per second; for "decode", milliseconds per token. */
  value: number;
}

/** What happened on the device for one decoded token; null where nothing was counted. */
export interface TokenCounts {
  dispatches: number;
  submits: number;
  passes: number;
  /** Buffers and pipelines made while decoding, all tokens together. */
  created: number;
}

/** All that is known of one subject when it has been measured. Plain data, so that a page can hand it over. */
export interface Result {
  kind: "result";
  subject: string;
  shape: string;
  loadMs: number;
  /** By position, one for each length behind which decoding was measured; empty where the subject cannot tell. */
  bytesPerToken: Readonly<Record<number, number>>;
  perToken: TokenCounts | null;
  samples: readonly Sample[];
}

export interface MeasureOptions {
  /** Counts of all devices, if they are watched. */
  counts?: DeviceCounts;
  onSample?: (sample: Sample) => void;
  /** Measures what else belongs into the same minutes. */
  beforeRound?: () => Promise<void>;
}

/** i32 [length]: ids that look like no text at all; the time of a forward pass does not depend on them. */
export function promptTokens(length: number, vocabSize: number): number[] {
  return Array.from({ length }, (_, i) => (i * 7919 + 113) % vocabSize);
}

/**
 * Measures all subjects in rounds: within a round every measure is taken of each subject in turn, and each round begins with another one,
 * so that what else the machine does hits all alike. Before the rounds each subject decodes once, which is not timed (compilers warm up),
 * and whose dispatches are counted. A measure that a subject's context has no room for is left out.
 * @throws Error when a subject decodes fewer than two tokens, from which no rate follows
 */
export async function measureSubjects(subjects: readonly Subject[], plan: Plan, { counts, onSample, beforeRound }: MeasureOptions = {}): Promise<Result[]> {
  const measured: { subject: Subject; perToken: TokenCounts | null; samples: Sample[] }[] = [];
  for (const subject of subjects) measured.push({ subject, perToken: await warmUp(subject, plan.decodeTokens, counts), samples: [] });

  const lengths = [...new Set([...plan.prefillTokens, ...plan.contextTokens])].sort((a, b) => a - b);
  for (let round = 0; round < plan.rounds; round++) {
    await beforeRound?.();
    const first = round % subjects.length;
    for (const length of [...lengths, null]) {
      for (const { subject, samples } of [...measured.slice(first), ...measured.slice(0, first)]) {
        for (const { measure, tokens, value } of length === null ? await measureScore(subject, plan) : await measureGeneration(subject, length, plan)) {
          const sample: Sample = { kind: "sample", subject: subject.name, shape: subject.shape, round, measure, tokens, value };
          samples.push(sample);
          onSample?.(sample);
        }
      }
    }
  }
  return measured.map(({ subject, perToken, samples }) => {
    const positions = plan.contextTokens.filter((tokens) => subject.bytesPerToken && samples.some((sample) => sample.measure === "decode" && sample.tokens === tokens));
    const bytesPerToken = Object.fromEntries(positions.map((position) => [position, subject.bytesPerToken!(position)]));
    return { kind: "result", subject: subject.name, shape: subject.shape, loadMs: subject.loadMs, bytesPerToken, perToken, samples };
  });
}

type Measured = Pick<Sample, "measure" | "tokens" | "value">;

async function measureGeneration(subject: Subject, length: number, { prefillTokens, contextTokens, decodeTokens }: Plan): Promise<Measured[]> {
  const decodes = contextTokens.includes(length) && length + decodeTokens < subject.nPositions;
  const prefills = prefillTokens.includes(length) && length < subject.nPositions;
  if (!decodes && !prefills) return [];
  const times = await subject.generate(promptTokens(length, subject.vocabSize), decodes ? decodeTokens + 1 : 1);
  const measured: Measured[] = [];
  if (prefills) measured.push({ measure: "prefill", tokens: length, value: (1000 * length) / times.prefillMs });
  if (decodes) measured.push({ measure: "decode", tokens: length, value: msPerToken(subject, times) });
  return measured;
}

async function measureScore(subject: Subject, { scoreTokens }: Plan): Promise<Measured[]> {
  if (subject.score === undefined || scoreTokens === 0) return [];
  const startMs = performance.now();
  const scored = await subject.score(promptTokens(scoreTokens, subject.vocabSize), Math.min(scoreTokens, subject.nPositions));
  return [{ measure: "score", tokens: scoreTokens, value: (1000 * scored) / (performance.now() - startMs) }];
}

function msPerToken({ name }: Subject, { decodeMs, newTokens }: GenerationTimes): number {
  if (newTokens < 2) throw new Error(`${name} decoded ${newTokens} token(s); expected at least 2 to take a rate from.`);
  return decodeMs / (newTokens - 1);
}

/** Counts by difference: a generation of one token against one of decodeTokens more, after a first one that may still create things. */
async function warmUp(subject: Subject, decodeTokens: number, counts: DeviceCounts | undefined): Promise<TokenCounts | null> {
  const prompt = promptTokens(Math.min(16, subject.nPositions - decodeTokens - 1), subject.vocabSize);
  await subject.generate(prompt, 2);
  if (counts === undefined) return null;
  const countsOf = async (newTokens: number): Promise<DeviceCounts> => {
    const before = { ...counts };
    await subject.generate(prompt, newTokens);
    return Object.fromEntries(Object.entries(counts).map(([key, value]) => [key, value - before[key as keyof DeviceCounts]])) as unknown as DeviceCounts;
  };
  const one = await countsOf(1);
  const all = await countsOf(decodeTokens + 1);
  if (all.dispatches === 0) return null;
  const perToken = (key: keyof DeviceCounts): number => (all[key] - one[key]) / decodeTokens;
  return { dispatches: perToken("dispatches"), submits: perToken("submits"), passes: perToken("passes"), created: all.buffers + all.pipelines };
}
