import { describe, expect } from "vitest";
import { resolveRecipe } from "../../src/quantize/recipes.ts";
import { Gpu, OPTIONAL_FEATURES } from "../../src/gpu/device.ts";
import { chooseVariants } from "../../src/model/knownAnswers.ts";
import { buildOnGpu } from "../conformance/backendCases.ts";
import { formulaTokens } from "../conformance/case.ts";
import { seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";
import { adapterName, gpuTest } from "../gpu.ts";
import { referenceLogits } from "../reference/gpt2.ts";
import { maxAbsError } from "../reference/metrics.ts";
import { tolerances } from "../tolerances.ts";

const files = seededCheckpoint(tinyCheckpoints.width100); // a width that is no multiple of 32

/** A device of everything the adapter has, whose WGSL passes through `change`: an adapter that computes something else. */
async function openChanged(adapter: GPUAdapter, change: (code: string) => string): Promise<GPUDevice> {
  const device = await adapter.requestDevice({ requiredFeatures: OPTIONAL_FEATURES.filter((feature) => adapter.features.has(feature)) });
  const create = device.createShaderModule.bind(device);
  device.createShaderModule = (descriptor) => create({ ...descriptor, code: change(descriptor.code) });
  return device;
}

async function errorOfLogits({ config, weights, backend }: Awaited<ReturnType<typeof buildOnGpu>>): Promise<number> {
  const tokens = formulaTokens(12, config.vocabSize);
  return maxAbsError(await backend.forward(tokens, 0), referenceLogits(config, weights, tokens, { rows: [11] }));
}

// SwiftShader compiles the kernels anew for 15 s in each test.
describe.runIf((await adapterName()) !== "swiftshader")("known answers at load", () => {
  gpuTest("pass on this adapter, leave no buffer and are asked once a device", async ({ adapter }) => {
    const device = await openChanged(adapter, (code) => code);
    const first = await buildOnGpu(device, files, resolveRecipe("nf4"));
    expect(first.backend.adapter.notices).toEqual([]);
    expect(await errorOfLogits(first)).toBeLessThan(tolerances.logit);
    const second = await buildOnGpu(device, files, resolveRecipe("nf4"));
    expect(second.gpu.counts.submits).toBeLessThan(first.gpu.counts.submits);
    expect(second.gpu.memory.total).toBe(first.gpu.memory.total);
    device.destroy();
  });
  gpuTest.for([
    ["broadcasts of another lane", "subgroupBroadcast(read0, 0u)", "subgroupBroadcast(read0, 1u)"],
    ["broadcasts in attention alone", "subgroupBroadcast(v0, 1u)", "subgroupBroadcast(v0, 2u)"],
  ] as const)("with wrong %s the kernels without subgroups are used, and say so", async ([, right, wrong], { adapter }) => {
    const device = await openChanged(adapter, (code) => code.replaceAll(right, wrong));
    const model = await buildOnGpu(device, files, resolveRecipe("int8"));
    expect(model.backend.adapter.notices).toMatchObject([expect.stringMatching(/^Kernels gave wrong answers on this adapter and are not used: software, [48] lane\(s\), (packed|plain) products, with an error of \d/)]);
    expect(await errorOfLogits(model)).toBeLessThan(tolerances.logit);
    device.destroy();
  });
  gpuTest("have outliers where the model may have some: kernels that lose them are refused, for such models alone", async ({ adapter }) => {
    const device = await openChanged(adapter, (code) => code.replaceAll("sums[n] += prepared_at(k >> 2u)", "sums[n] -= prepared_at(k >> 2u)"));
    const gpu = await Gpu.open({ device, largestTensorBytes: 0 });
    const kind = { format: { type: "int8", mode: "absmax", granularity: "channel" }, columns: 100, activations: "int8" } as const;
    const ask = (outlierThreshold?: number) => chooseVariants(gpu, { matrices: [{ ...kind, outlierThreshold }], attention: { heads: 1, headSize: 4, kv: "f32" } }, { tuning: "software", lanes: 1, dot4: "plain" });
    expect((await ask()).notices).toEqual([]); // control case
    await expect(ask(6)).rejects.toMatchObject({ code: "shader" });
    device.destroy();
  });
  gpuTest("an adapter on which every variant is wrong rejects with `shader`, and frees what was asked with", async ({ adapter }) => {
    const device = await openChanged(adapter, (code) => code.replaceAll("y[m * shape.y_stride + n] = value;", "y[m * shape.y_stride + n] = value + 1.0;"));
    await expect(buildOnGpu(device, files, resolveRecipe("int8"))).rejects.toMatchObject({ code: "shader", message: expect.stringMatching(/^This adapter computes wrong results: /) as string });
    device.destroy();
  });
});
