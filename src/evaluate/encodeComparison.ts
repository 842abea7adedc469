import { EngineError, type EngineErrorCode, show } from "../errors.ts";
import { isRecord, validateTensorFormat } from "../quantize/formats.ts";
import { validateRecipe } from "../quantize/recipes.ts";
import type { AdapterSummary, Comparison, ComparisonRow, ComparisonSamples, Gpt2Config, TensorFormat, TensorInputReport, TensorReport, TokensIdentity } from "../types.ts";

const FORMAT = "nibble-comparison/1";

/**
 * A comparison as JSON. Samples are base64 of little-endian f32 (`sameTopToken`: u8); NaN is null, infinities are the strings "Infinity" and "-Infinity",
 * errors are objects of code, message and details. decodeComparison() gives back every bit.
 */
export function encodeComparison(comparison: Comparison): string {
  return JSON.stringify({ format: FORMAT, ...comparison }, encodeValue, 2);
}

function encodeValue(_key: string, value: unknown): unknown {
  if (typeof value === "number" && !Number.isFinite(value)) return Number.isNaN(value) ? null : String(value);
  if (value instanceof EngineError) return { code: value.code, message: value.message, details: value.details };
  if (ArrayBuffer.isView(value)) return toBase64(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
  return value;
}

/** Reads what encodeComparison() wrote. @throws EngineError `integrity` naming the first field that is not what it must be */
export function decodeComparison(json: string): Comparison {
  try {
    const { format, ...value } = record(JSON.parse(json), "the whole");
    if (format !== FORMAT) return wrong("format", format, `"${FORMAT}"`);
    return readComparison(value, "");
  } catch (cause) {
    if (!(cause instanceof TypeError || cause instanceof RangeError || cause instanceof SyntaxError)) throw cause;
    throw new EngineError("integrity", `Not a comparison: ${cause.message}`, {}, { cause });
  }
}

/** Takes any JSON; gives the value that its type promises, or throws TypeError with the path. */
type Reader<T> = (value: unknown, path: string) => T;

function wrong(path: string, value: unknown, expected: string): never {
  throw new TypeError(`${path} is ${show(value)}; expected ${expected}.`);
}

function record(value: unknown, path: string): Record<string, unknown> {
  return isRecord(value) ? value : wrong(path, value, "an object");
}

const text: Reader<string> = (value, path) => (typeof value === "string" ? value : wrong(path, value, "a string"));
const flag: Reader<boolean> = (value, path) => (typeof value === "boolean" ? value : wrong(path, value, "true or false"));
const number: Reader<number> = (value, path) => {
  if (value === null) return NaN;
  if (typeof value === "number" || value === "Infinity" || value === "-Infinity") return Number(value);
  return wrong(path, value, "a number, null or an infinity");
};
const count: Reader<number> = (value, path) => (Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : wrong(path, value, "a whole number"));

function oneOf<T extends string>(...words: readonly T[]): Reader<T> {
  return (value, path) => words.find((word) => word === value) ?? wrong(path, value, `one of ${words.join(", ")}`);
}

function orNull<T>(read: Reader<T>): Reader<T | null> {
  return (value, path) => (value === null ? null : read(value, path));
}

function optional<T>(read: Reader<T>): Reader<T | undefined> {
  return (value, path) => (value === undefined ? undefined : read(value, path));
}

function list<T>(read: Reader<T>): Reader<T[]> {
  return (value, path) => (Array.isArray(value) ? value.map((item, i) => read(item, `${path}[${i}]`)) : wrong(path, value, "an array"));
}

/** The fields of T and no others; one that is absent and may be stays absent. */
function object<T extends object>(readers: { [Field in keyof T]-?: Reader<T[Field]> }): Reader<T> {
  return (value, path) => {
    const fields = record(value, path || "the whole");
    const entries = Object.entries<Reader<unknown>>(readers).map(([field, read]) => [field, read(Object.hasOwn(fields, field) ? fields[field] : undefined, path ? `${path}.${field}` : field)]);
    return Object.fromEntries(entries.filter(([, read]) => read !== undefined)) as T;
  };
}

/** An object whose fields are all numbers. */
function numbers<Field extends string>(...fields: readonly Field[]): Reader<Record<Field, number>> {
  return object<Record<Field, number>>(Object.fromEntries(fields.map((field) => [field, number])) as { [Each in Field]-?: Reader<number> });
}

const f32: Reader<Float32Array> = (value, path) => {
  const bytes = u8(value, path);
  if (bytes.length % 4 !== 0) throw new TypeError(`${path} has ${bytes.length} bytes; expected a multiple of 4.`);
  return new Float32Array(bytes.buffer);
};

const u8: Reader<Uint8Array<ArrayBuffer>> = (value, path) => {
  try {
    return Uint8Array.from(atob(text(value, path)), (character) => character.charCodeAt(0));
  } catch (cause) {
    if (cause instanceof DOMException) throw new TypeError(`${path} is not base64.`, { cause });
    throw cause;
  }
};

const format: Reader<TensorFormat> = (value, path) => {
  validateTensorFormat(value, path);
  return value;
};

const error: Reader<EngineError> = (value, path) => {
  const { code, message, details } = object<Pick<EngineError, "code" | "message" | "details">>({
    code: oneOf<EngineErrorCode>("unsupported", "network", "checkpoint", "integrity", "quantize", "shader", "outOfMemory", "promptTooLong", "deviceLost", "storage", "disposed", "worker"),
    message: text,
    details: record,
  })(value, path);
  return new EngineError(code, message, details);
};

const tensor = object<TensorReport>({
  name: text,
  shape: (value, path) => {
    const [rows, columns, ...more] = list(count)(value, path);
    return rows === undefined || columns === undefined || more.length > 0 ? wrong(path, value, "two sizes") : [rows, columns];
  },
  format,
  bytes: number,
  mse: number,
  maxAbs: number,
  sqnrDb: number,
  cosine: number,
  input: optional(
    object<TensorInputReport>({
      range: optional(number),
      observer: optional(oneOf("minmax", "percentile", "mse")),
      outlierShare: optional(number),
      outlierColumns: optional(count),
      f16Columns: optional(count),
      smoothing: optional(number),
    }),
  ),
});

const row = object<ComparisonRow>({
  name: text,
  recipe: validateRecipe,
  error: optional(error),
  bytes: numbers("weights", "embedding", "scales", "total"),
  bitsPerWeight: number,
  perplexity: number,
  standardError: number,
  bitsPerByte: orNull(number),
  ratio: number,
  ratioError: number,
  difference: number,
  differenceError: number,
  klDivergence: numbers("mean", "error", "median", "p90", "p95", "p99", "p999", "max"),
  sameTopToken: numbers("fraction", "error"),
  deltaP: numbers("mean", "error", "rms", "rmsError", "min", "p1", "p5", "p10", "p25", "median", "p75", "p90", "p95", "p99", "max"),
  quantizeMs: number,
  prefillTokensPerSecond: number,
  decodeTokensPerSecond: number,
  tensors: list(tensor),
  samples: optional(object<ComparisonSamples>({ nll: f32, baselineNll: f32, klDivergence: f32, sameTopToken: u8 })),
});

const tokens = object<TokensIdentity>({ tokens: count, sha256: text });

const config = object<Gpt2Config>({
  nLayer: count,
  nHead: count,
  nEmbd: count,
  nInner: count,
  nPositions: count,
  vocabSize: count,
  layerNormEpsilon: number,
  activation: oneOf("gelu_new", "gelu", "relu", "gelu_pytorch_tanh"),
  scaleAttnWeights: flag,
  scaleAttnByInverseLayerIdx: flag,
  tieWordEmbeddings: flag,
  bosTokenId: orNull(count),
  eosTokenId: orNull(count),
});

const adapter = object<AdapterSummary>({
  backend: oneOf("webgpu", "cpu"),
  vendor: text,
  architecture: text,
  description: text,
  isFallback: flag,
  features: list(text),
  limits: (value, path) => Object.fromEntries(Object.entries(record(value, path)).map(([name, limit]) => [name, number(limit, `${path}.${name}`)])),
  notices: list(text),
});

const readComparison = object<Comparison>({
  rows: list(row),
  protocol: oneOf("strided", "disjoint", "llama.cpp"),
  windowTokens: count,
  strideTokens: count,
  windows: count,
  scoredTokens: count,
  scoredBytes: orNull(count),
  shard: orNull((value, path) => {
    const shard = object({ index: count, count })(value, path);
    return shard.index < shard.count ? shard : wrong(`${path}.index`, shard.index, `less than the count, ${shard.count}`);
  }),
  model: object<Comparison["model"]>({ source: text, config, sha256: text }),
  text: tokens,
  calibration: orNull(tokens),
  kvCache: orNull(oneOf("f32", "f16", "int8")),
  engineVersion: text,
  adapter,
  plannedRows: optional(count),
});

function toBase64(bytes: Uint8Array): string {
  let binary = "";
  for (let i = 0; i < bytes.length; i += 2 ** 15) binary += String.fromCharCode(...bytes.subarray(i, i + 2 ** 15)); // as many arguments as any engine takes
  return btoa(binary);
}
