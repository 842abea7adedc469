import type { PresetName } from "nibble-webgpu";
import type { Plan } from "./measure.ts";
import { type ShapeName, shapeNames } from "./nibbleSubject.ts";
import { type GgufFormat, ggufFormats } from "./peers/gpt2Gguf.ts";
import { type OnnxFormat, onnxFormats } from "./peers/gpt2Onnx.ts";
import type { Pair } from "./report.ts";

export type RivalFormat = OnnxFormat | GgufFormat;

export interface BenchOptions {
  shapes: ShapeName[];
  presets: PresetName[];
  backend: "webgpu" | "cpu";
  /** Formats of the models that a rival runs beside us; none measures our engine alone. */
  rivals: RivalFormat[];
  plan: Plan;
}

/** As words of a command line or of a page's address; lists are separated by commas. */
export type OptionWords = Readonly<Record<keyof typeof optionDefaults, string>>;
export const optionDefaults = {
  shapes: "embedded,124m",
  presets: "int8,nf4",
  backend: "webgpu",
  rivals: "",
  rounds: "3",
  prefill: "16,128,512",
  context: "16,128,1000",
  decode: "16",
  score: "512",
};

/** @throws RangeError naming the option */
export function readOptions(given: Readonly<Record<string, string | undefined>>): BenchOptions {
  const words: OptionWords = { ...optionDefaults, ...Object.fromEntries(Object.entries(given).filter(([name, value]) => name in optionDefaults && value !== undefined)) };
  const list = (name: keyof OptionWords): string[] => words[name].split(",").filter(Boolean);
  const oneOf = <T extends string>(name: keyof OptionWords, word: string, allowed: readonly T[]): T => {
    const found = allowed.find((value) => value === word);
    if (found === undefined) throw new RangeError(`${name} has "${word}"; expected ${allowed.join(", ")}.`);
    return found;
  };
  const count = (name: keyof OptionWords, word: string): number => {
    const value = Number(word);
    if (!Number.isInteger(value) || value < 0) throw new RangeError(`${name} has "${word}"; expected whole numbers.`);
    return value;
  };
  return {
    shapes: list("shapes").map((word) => oneOf("shapes", word, shapeNames)),
    presets: list("presets") as PresetName[], // loadModel names the one that it does not know
    backend: oneOf("backend", words.backend, ["webgpu", "cpu"]),
    rivals: list("rivals").map((word) => oneOf("rivals", word, [...onnxFormats, ...ggufFormats])),
    plan: {
      rounds: count("rounds", words.rounds),
      prefillTokens: list("prefill").map((word) => count("prefill", word)),
      contextTokens: list("context").map((word) => count("context", word)),
      decodeTokens: count("decode", words.decode),
      scoreTokens: count("score", words.score),
    },
  };
}

/** Which of a rival's formats a preset of ours is held against: as many bits; its fastest 8 bits against all of ours. */
const rivalFormats: Readonly<Partial<Record<PresetName, readonly RivalFormat[]>>> = {
  int8: ["q8", "q8-dynamic", "q8_0"],
  "int8-dynamic": ["q8", "q8-dynamic", "q8_0"],
  int4: ["q4", "q4_0"],
  nf4: ["q4", "q4_0"],
};

/** All pairs that the options lead to; `rivalLabel` is what stands before the format in the rival's name. */
export function pairsOf({ presets, backend, rivals }: BenchOptions, rivalLabel: string): Pair[] {
  return presets.flatMap((preset) =>
    (rivalFormats[preset] ?? []).filter((format) => rivals.includes(format)).map((format) => ({ ours: `nibble ${backend} ${preset}`, rival: `${rivalLabel} ${format}` })),
  );
}
