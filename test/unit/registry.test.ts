import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { registry } from "../../models/registry.ts";
import { parseGpt2Config } from "../../src/checkpoint/config.ts";

const vocabulary = 50257;

describe("registry", () => {
  test("names each model once, the embedded one first", () => {
    expect(new Set(registry.map(({ id }) => id)).size).toBe(registry.length);
    expect(registry.map(({ source }) => source)).toEqual(["embedded", ...Array<string>(registry.length - 1).fill("hub")]);
  });

  test.each(registry)("$id: parameters follow from its shape", ({ parameters, layers: L, width: C, heads, context }) => {
    expect(parameters).toBe((vocabulary + context) * C + L * (12 * C * C + 13 * C) + 2 * C);
    expect(C % heads).toBe(0);
  });

  test.each(registry)("$id: the download holds every parameter, as F32 on the hub and F16 here", ({ parameters, source, layers, context, downloadBytes }) => {
    const weightBytes = parameters * (source === "hub" ? 4 : 2);
    const maskBytes = source === "hub" ? layers * context * context * 4 : 0;
    expect(downloadBytes).toBeGreaterThan(weightBytes);
    expect(downloadBytes).toBeLessThan(weightBytes + maskBytes + 100_000); // the header
  });

  test("the embedded file has the registered length, hash and shape", () => {
    const model = registry[0]!;
    const folder = new URL(`../../models/${model.id}/`, import.meta.url);
    const file = readFileSync(new URL("model.safetensors", folder));
    expect(file.length).toBe(model.downloadBytes);
    expect(createHash("sha256").update(file).digest("hex")).toBe(model.sha256);
    const config = parseGpt2Config(JSON.parse(readFileSync(new URL("config.json", folder), "utf8")));
    expect(config).toMatchObject({ nLayer: model.layers, nEmbd: model.width, nHead: model.heads, nPositions: model.context, vocabSize: vocabulary });
  });
});
