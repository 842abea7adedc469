import { describe, expect, test } from "vitest";
import { validateTensorFormat } from "../../src/quantize/formats.ts";
import { calibratedField, formatOf, presets, resolveRecipe, unmatchedOverrides } from "../../src/quantize/recipes.ts";
import type { PresetName, QuantizationRecipe, TensorFormat } from "../../src/types.ts";

const nf4: TensorFormat = { type: "nf4", block: 64 };
const f16: TensorFormat = { type: "f16" };

describe("presets", () => {
  test("are the 13 of the table, each carrying its name", () => {
    expect(Object.keys(presets)).toEqual(["f32", "f16", "int8", "int8-zeropoint", "int8-absmax-tensor", "int8-zeropoint-tensor", "int8-dynamic", "int8-static", "llm-int8", "int4", "nf4", "nf4-dq", "fp4"]);
    for (const [name, recipe] of Object.entries(presets)) expect(recipe.name).toBe(name);
  });

  test("hold valid formats, frozen to the bottom", () => {
    for (const { linear, embedding } of Object.values(presets)) {
      validateTensorFormat(linear, "linear");
      validateTensorFormat(embedding, "embedding");
    }
    const frozen = (value: unknown): boolean => typeof value !== "object" || value === null || (Object.isFrozen(value) && Object.values(value).every(frozen));
    expect(frozen(presets)).toBe(true);
  });

  test("pair the formats as the table says", () => {
    expect(presets.int4).toEqual({ name: "int4", linear: { type: "int4", mode: "zeropoint", granularity: { group: 32 } }, embedding: { type: "int8", mode: "absmax", granularity: "channel" } });
    expect(presets["int8-zeropoint-tensor"]).toMatchObject({ linear: { mode: "zeropoint", granularity: "tensor" }, embedding: { mode: "zeropoint", granularity: "tensor" } });
    expect(presets["nf4-dq"].linear).toEqual({ type: "nf4", block: 64, doubleQuantization: true });
    expect(presets["llm-int8"]).toMatchObject({ embedding: f16, activations: { type: "int8", ranges: "dynamic" }, outlierThreshold: 6 });
  });
});

describe("resolveRecipe", () => {
  test("is int8 where nothing is asked for", () => {
    expect(resolveRecipe()).toBe(presets.int8);
  });

  test.each(Object.keys(presets) as PresetName[])("knows %s", (name) => {
    expect(resolveRecipe(name)).toBe(presets[name]);
  });

  test("rejects a name it does not know and lists those it does", () => {
    for (const name of ["int7", "toString", ""]) {
      expect(() => resolveRecipe(name as PresetName)).toThrow(TypeError);
      expect(() => resolveRecipe(name as PresetName)).toThrow(`quantization is "${name}"; expected "f32", "f16", "int8"`);
    }
  });

  test("gives a frozen copy of a recipe, so that later changes to it do not matter", () => {
    const overrides: Record<string, TensorFormat> = { "h.0.*": f16 };
    const recipe: QuantizationRecipe = { name: "mine", linear: { ...nf4 }, activations: "float", rounding: "nearest", equalization: "none", overrides };
    const resolved = resolveRecipe(recipe);
    expect(resolved).toEqual(recipe);
    overrides["h.1.*"] = f16;
    expect(Object.keys(resolved.overrides!)).toEqual(["h.0.*"]);
    expect(Object.isFrozen(resolved.overrides)).toBe(true);
  });

  test("takes a recipe that a framework has wrapped, which structuredClone() refuses", () => {
    const wrap = <T extends object>(target: T): T => new Proxy(target, { get: (from, key) => { const value: unknown = Reflect.get(from, key); return typeof value === "object" && value !== null ? wrap(value) : value; } });
    const recipe: QuantizationRecipe = { linear: nf4, overrides: { "h.0.*": { type: "int8", mode: "absmax", granularity: { group: 32 } } } };
    expect(() => structuredClone(wrap(recipe))).toThrow();
    expect(resolveRecipe(wrap(recipe))).toEqual(recipe);
  });

  test("reads each field of a recipe once: what was checked is what is used", () => {
    let asked = 0;
    const linear = { get type() { return asked++ === 0 ? "f16" : "int3"; } };
    expect(resolveRecipe({ linear } as unknown as QuantizationRecipe).linear).toEqual({ type: "f16" });
    expect(asked).toBe(1);
  });

  test.each<[unknown, string]>([
    [null, "quantization is null"],
    [7, "quantization is 7"],
    [[], "quantization is []"],
    [{}, "quantization.linear is undefined"],
    [{ linear: "nf4" }, 'quantization.linear is "nf4"'],
    [{ linear: { type: "nf4", block: "64" } }, 'quantization.linear.block is "64"'],
    [{ linear: nf4, embeding: f16 }, 'quantization has the unknown field "embeding"'],
    [{ linear: nf4, embedding: { type: "int2" } }, 'quantization.embedding.type is "int2"'],
    [{ linear: nf4, name: 4 }, "quantization.name is 4"],
    [{ linear: nf4, activations: "int8" }, 'quantization.activations is "int8"; expected "float" or { type: "int8", ranges }'],
    [{ linear: nf4, activations: { type: "int8", ranges: "none" } }, 'quantization.activations.ranges is "none"'],
    [{ linear: nf4, rounding: "up" }, 'quantization.rounding is "up"'],
    [{ linear: nf4, equalization: true }, "quantization.equalization is true"],
    [{ linear: nf4, activationOrder: 1 }, "quantization.activationOrder is 1"],
    [{ linear: nf4, smoothing: "half" }, 'quantization.smoothing is "half"'],
    [{ linear: nf4, observer: "mean" }, 'quantization.observer is "mean"'],
    [{ linear: nf4, outlierThreshold: "6" }, 'quantization.outlierThreshold is "6"'],
    [{ linear: nf4, outlierThreshold: 6 }, 'quantization.outlierThreshold is 6 beside quantization.activations "float"'],
    [{ linear: nf4, activations: "float", outlierThreshold: 6 }, 'quantization.outlierThreshold is 6 beside quantization.activations "float"'],
    [{ linear: nf4, overrides: [f16] }, "quantization.overrides is [an object]"],
    [{ linear: nf4, overrides: { "h.0.*": { type: "int9" } } }, 'quantization.overrides["h.0.*"].type is "int9"'],
  ])("rejects %j by name", (recipe, message) => {
    expect(() => resolveRecipe(recipe as QuantizationRecipe)).toThrow(TypeError);
    expect(() => resolveRecipe(recipe as QuantizationRecipe)).toThrow(message);
  });

  test("takes an outlier threshold beside int8 activations", () => {
    expect(resolveRecipe({ linear: nf4, activations: { type: "int8", ranges: "dynamic" }, outlierThreshold: 6 }).outlierThreshold).toBe(6);
  });

  test("rejects numbers out of range, and NaN", () => {
    expect(() => resolveRecipe({ linear: { type: "nf4", block: 65 as 64 } })).toThrow(RangeError);
    for (const outlierThreshold of [0, -1, NaN]) expect(() => resolveRecipe({ linear: nf4, outlierThreshold })).toThrow(new RangeError(`quantization.outlierThreshold is ${outlierThreshold}; expected a number above 0.`));
  });
});

describe("calibratedField", () => {
  test.each<[string, Partial<QuantizationRecipe>, string | null]>([
    ["static ranges", { activations: { type: "int8", ranges: "static" } }, 'activations.ranges "static"'],
    ["GPTQ", { rounding: "gptq" }, 'rounding "gptq"'],
    ["SmoothQuant", { equalization: "smoothquant" }, 'equalization "smoothquant"'],
    ["AWQ", { equalization: "awq", rounding: "nearest" }, 'equalization "awq"'],
    ["dynamic ranges with outliers", { activations: { type: "int8", ranges: "dynamic" }, outlierThreshold: 6 }, null],
    ["rounding to nearest", { rounding: "nearest", equalization: "none", activations: "float" }, null],
  ])("of %s", (_, fields, field) => {
    expect(calibratedField({ linear: nf4, ...fields })).toBe(field);
  });
});

describe("formatOf", () => {
  test("takes the format of the tensor's kind; the embedding's default is f16", () => {
    expect(formatOf(presets.int4, "h.0.attn.c_attn.weight", "linear")).toBe(presets.int4.linear);
    expect(formatOf(presets.int4, "wte.weight", "embedding")).toBe(presets.int4.embedding);
    expect(formatOf({ linear: nf4 }, "lm_head.weight", "embedding")).toEqual(f16);
  });

  test.each<[string, string, boolean]>([
    ["h.0.*", "h.0.attn.c_attn.weight", true],
    ["h.0.*", "h.10.attn.c_attn.weight", false],
    ["h.1*", "h.10.attn.c_attn.weight", true],
    ["*.mlp.c_proj.weight", "h.3.mlp.c_proj.weight", true],
    ["*.mlp.c_proj.weight", "h.3.attn.c_proj.weight", false],
    ["h.*.c_proj.*", "h.3.mlp.c_proj.weight", true],
    ["*", "wte.weight", true],
    ["**te*weight", "wte.weight", true],
    ["wte.weight", "wte.weight", true],
    ["wte", "wte.weight", false],
    ["wte.weight*weight", "wte.weight", false], // the two ends may not overlap
    ["wte?weight", "wte.weight", false], // only * is special
    ["h.0.*", "transformer.h.0.mlp.c_fc.weight", true],
    ["transformer.h.0.*", "h.0.mlp.c_fc.weight", true],
    ["", "wte.weight", false],
  ])("%j against %j: %j", (glob, name, matches) => {
    expect(formatOf({ linear: nf4, overrides: { [glob]: f16 } }, name, "linear")).toEqual(matches ? f16 : nf4);
  });

  test("lets the last matching override win", () => {
    const recipe: QuantizationRecipe = { linear: nf4, overrides: { "h.0.*": { type: "f32" }, "*.c_fc.*": f16, "h.1.*": { type: "f32" } } };
    expect(formatOf(recipe, "h.0.mlp.c_fc.weight", "linear")).toEqual(f16);
    expect(formatOf(recipe, "h.1.mlp.c_fc.weight", "linear")).toEqual({ type: "f32" });
    expect(formatOf(recipe, "h.2.mlp.c_proj.weight", "linear")).toEqual(nf4);
  });
});

describe("unmatchedOverrides", () => {
  test("names the globs that no tensor matches", () => {
    const names = ["wte.weight", "h.0.mlp.c_fc.weight"];
    expect(unmatchedOverrides({ linear: nf4 }, names)).toEqual([]);
    expect(unmatchedOverrides({ linear: nf4, overrides: { "h.0.*": f16, "h.7.*": f16, wte: f16, "*": f16 } }, names)).toEqual(["h.7.*", "wte"]);
  });
});
