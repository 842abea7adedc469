import { beforeAll, describe, expect, test } from "vitest";
import { type BudgetFit, compareQuantizations, type ComparisonRow, type FitOptions, type FitProgress, fitToBudget, loadModel, type TensorFormat } from "../../src/index.ts";
import { embeddedModel, evaluationText } from "../fixtures/embeddedModel.ts";
import { seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";
import { tolerances } from "../tolerances.ts";

const files = seededCheckpoint(tinyCheckpoints.width100);
const V = tinyCheckpoints.width100.vocabSize;
const text = Array.from({ length: 49 }, (_, i) => (i * i * 31 + 5) % V);
const int8: TensorFormat = { type: "int8", mode: "absmax", granularity: "channel" };
const int4: TensorFormat = { type: "int4", mode: "zeropoint", granularity: { group: 32 } };
const formats: readonly TensorFormat[] = [{ type: "f16" }, int8, int4];
const options = { text, formats, windowTokens: 24, backend: "cpu" } as const satisfies Partial<FitOptions>;
const fit = (more: Partial<FitOptions>): Promise<BudgetFit> => fitToBudget(files, { ...options, ...more });

async function rowsOf(rows: AsyncGenerator<ComparisonRow, unknown>): Promise<ComparisonRow[]> {
  const all: ComparisonRow[] = [];
  for await (const row of rows) all.push(row);
  return all;
}

describe("fitToBudget", { timeout: 60_000 }, () => {
  const bytes = 450_000; // int4 takes 388 KB
  const seen: FitProgress[] = [];
  let found: BudgetFit;
  beforeAll(async () => {
    found = await fit({ bytes, onProgress: (progress) => seen.push(progress) });
  });

  test("gives a recipe within the budget whose bytes and divergence are those that the model has", async () => {
    expect(found.bytes).toBeLessThanOrEqual(bytes);
    using model = await loadModel(files, { quantization: found.recipe, backend: "cpu" });
    expect([found.bytes, found.bitsPerWeight]).toEqual([model.quantization.bytes.total, model.quantization.bitsPerWeight]);
    const rows = await rowsOf(compareQuantizations(files, { text, recipes: [found.recipe], protocol: "disjoint", windowTokens: 24, backend: "cpu", kvCache: "f32" }));
    expect(found.klDivergence).toBe(rows[1]!.klDivergence.mean);
    expect(found.scoredTokens).toBe(2 * 23);
  });

  test("is no worse than any uniform recipe that fits, and better than a format everywhere", () => {
    expect(found.uniform.map(({ recipe }) => recipe.name)).toEqual(["int4 zero-point, group 32; embedding int4 zero-point, group 32"]);
    expect(found.klDivergence).toBeLessThan(found.uniform[0]!.klDivergence!);
  });

  test("measures every matrix in every format, each with its bytes", () => {
    expect(found.sensitivity).toHaveLength(14 * 3);
    const of = (tensor: string): number[] => found.sensitivity.filter((one) => one.tensor === tensor).map(({ bytes }) => bytes);
    expect(of("h.1.mlp.c_fc.weight")).toEqual([300 * 200, 300 * 104, 300 * 50 + 300 * 4 * 5]);
    expect(found.sensitivity.filter(({ format }) => format.type === "int8").every(({ klDivergence }) => klDivergence > 0)).toBe(true);
  });

  test("gives a frontier from the smallest recipe to the best, some of it measured near its prediction", () => {
    const { frontier } = found;
    expect(frontier).toHaveLength(16);
    for (let i = 1; i < frontier.length; i++) {
      expect(frontier[i]!.bytes).toBeGreaterThan(frontier[i - 1]!.bytes);
      expect(frontier[i]!.predictedKlDivergence).toBeLessThan(frontier[i - 1]!.predictedKlDivergence);
    }
    const measured = frontier.filter(({ klDivergence }) => klDivergence !== null);
    expect(measured.length).toBeGreaterThanOrEqual(4);
    for (const { klDivergence, predictedKlDivergence } of measured) expect(Math.abs(klDivergence! - predictedKlDivergence)).toBeLessThan(0.5 * predictedKlDivergence + 1e-4);
  });

  test("reports progress that never falls and ends at 1", () => {
    expect([...new Set(seen.map(({ stage }) => stage))]).toEqual(["load", "sensitivity", "recipes"]);
    for (let i = 1; i < seen.length; i++) expect(seen[i]!.fraction).toBeGreaterThanOrEqual(seen[i - 1]!.fraction);
    expect(seen.at(-1)!.fraction).toBe(1);
  });

  test("gives the same again, with sensitivities of its own or those of an earlier fit", async () => {
    const stages = new Set<string>();
    expect(await fit({ bytes, sensitivity: found.sensitivity, onProgress: ({ stage }) => stages.add(stage) })).toEqual(found);
    expect([...stages]).toEqual(["load", "recipes"]);
    expect(await fit({ bytes })).toEqual(found);
  });

  test("measures on whole windows, spread evenly over the text", async () => {
    const long = [...text, ...text.map((token) => (token + 1) % V), ...text.map((token) => (token + 2) % V)]; // six windows of 24
    const spread = [...long.slice(0, 24), ...long.slice(72, 96)];
    const [fromLong, fromSpread] = [await fit({ bytes, text: long, maxTokens: 48, refinements: 0 }), await fit({ bytes, text: spread, refinements: 0 })];
    expect(fromLong).toEqual(fromSpread);
    expect(fromLong.sensitivity).not.toEqual(found.sensitivity); // control case
    expect((await fit({ bytes: 1e9, formats: [{ type: "f16" }], maxTokens: 2 })).scoredTokens).toBe(23);
  });

  test("measures with GPTQ where asked to, and finds a recipe that says so, with less divergence than rounding to the nearest", async () => {
    const rounded = await fit({ bytes, rounding: "gptq" });
    expect(rounded.recipe.rounding).toBe("gptq");
    expect(rounded.klDivergence).toBeLessThan(found.klDivergence);
    for (const { recipe } of [...rounded.uniform, ...rounded.frontier]) expect(recipe.rounding).toBe("gptq");
    const rows = await rowsOf(compareQuantizations(files, { text, calibration: text, recipes: [rounded.recipe], protocol: "disjoint", windowTokens: 24, backend: "cpu", kvCache: "f32" }));
    expect(rows[1]!.klDivergence.mean).toBe(rounded.klDivergence);
    expect(await fit({ bytes, rounding: "gptq", sensitivity: rounded.sensitivity })).toEqual(rounded); // matrices rounded anew, to the same codes
  });

  test("gives the best recipe for a budget above everything", async () => {
    const best = await fit({ bytes: 1e9, sensitivity: found.sensitivity });
    expect(best.recipe).toEqual({ name: "f16; embedding f16", linear: { type: "f16" }, embedding: { type: "f16" } });
    expect(best.predictedKlDivergence).toBeLessThan(tolerances.klDivergence); // f16 holds BF16 weights exactly, but for tiny ones
    expect(best.klDivergence).toBeLessThan(tolerances.klDivergence);
  });

  test("takes bitsPerWeight of the blocks' matrices alone, beside an int8 embedding unless told otherwise", async () => {
    const mixed = await fit({ bitsPerWeight: 6.7, sensitivity: found.sensitivity });
    expect(mixed.bitsPerWeight).toBeLessThanOrEqual(6.7);
    expect(mixed.bitsPerWeight).toBeGreaterThan(6.4);
    expect(mixed.recipe.embedding).toEqual(int8);
    expect(Object.keys(mixed.recipe.overrides!).every((name) => name.startsWith("h."))).toBe(true);
    const other = await fit({ bitsPerWeight: 6.7, embedding: int4, sensitivity: found.sensitivity });
    expect(other.recipe.embedding).toEqual(int4);
  });

  test.each<[limit: "bytes" | "bitsPerWeight", message: RegExp]>([
    ["bytes", /^bytes is 1000; expected at least (\d+), the smallest model with these formats\.$/],
    ["bitsPerWeight", /^bitsPerWeight is 1000; expected at least ([\d.]+), the smallest with these formats\.$/],
  ])("names the smallest %s there is where the budget is below, and fits it exactly", async (limit, pattern) => {
    const message = await fit({ [limit]: limit === "bytes" ? 1000 : 1 }).then(String, (error: unknown) => (error instanceof RangeError ? error.message : String(error)));
    const smallest = Number(pattern.exec(message.replace("is 1;", "is 1000;"))?.[1]);
    expect((await fit({ [limit]: smallest, sensitivity: found.sensitivity }))[limit]).toBe(smallest);
  });

  test.each<[what: string, options: object, error: typeof TypeError | typeof RangeError]>([
    ["no budget", {}, TypeError],
    ["two budgets", { bytes, bitsPerWeight: 5 }, TypeError],
    ["a budget that is no number", { bytes: "350000" }, TypeError],
    ["a budget of nothing", { bitsPerWeight: 0 }, RangeError],
    ["no formats", { bytes, formats: [] }, TypeError],
    ["formats of holes", { bytes, formats: new Array(2 ** 32 - 1) }, TypeError],
    ["a sensitivity that is none", { bytes, sensitivity: [{ tensor: "wte.weight" }] }, TypeError],
    ["an unknown format", { bytes, formats: [{ type: "int2" }] }, TypeError],
    ["an unknown embedding", { bytes, embedding: { type: "nf4", block: 48 } }, RangeError],
    ["a text of one token", { bytes, text: [1] }, RangeError],
    ["an unknown rounding", { bytes, rounding: "up" }, TypeError],
    ["fewer than two tokens", { bytes, maxTokens: 1 }, RangeError],
    ["a window beyond the context", { bytes, windowTokens: 65 }, RangeError],
  ])("rejects %s, having accepted none such", async (_, more, error) => {
    await expect(fit(more)).rejects.toThrow(error);
  });

  test("rejects with signal.reason when aborted at work", async () => {
    const controller = new AbortController();
    await expect(fit({ bytes, signal: controller.signal, onProgress: ({ fraction }) => fraction > 0.3 && controller.abort("enough") })).rejects.toBe("enough");
  });
});

describe("on the embedded model, fitToBudget", { timeout: 120_000 }, () => {
  test("beats the uniform presets of no more bytes on text that it did not choose by", async () => {
    const model = await embeddedModel();
    const whole = await evaluationText();
    const shared = { contextLength: 32, backend: "cpu" } as const;
    const chosen = await fitToBudget(model, { ...shared, bytes: 11_850_244 /* what int4 takes */, text: whole.slice(0, 1000), maxTokens: 24, formats: [int8, int4], refinements: 0 });
    const rows = await rowsOf(compareQuantizations(model, { ...shared, text: whole.slice(20_000, 20_500), recipes: [chosen.recipe, "int4", "nf4"], protocol: "disjoint", kvCache: "f32" }));
    const [, fitted, ...uniform] = rows.map(({ bytes, klDivergence }) => ({ bytes: bytes.total, kl: klDivergence.mean }));
    expect(fitted!.bytes).toBeLessThanOrEqual(11_850_244);
    for (const { kl } of uniform) expect(fitted!.kl).toBeLessThan(0.9 * kl);
  });
});
