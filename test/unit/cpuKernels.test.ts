import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { allocateTogether, type ArrayType, type CpuKernels } from "../../src/model/cpu/kernels.ts";
import { plainKernels } from "../../src/model/cpu/plain.ts";
import { createSimdKernels } from "../../src/model/cpu/simd.ts";
import { toHalfBits } from "../../src/quantize/half.ts";
import { gaussian } from "../fixtures/seededCheckpoint.ts";
import { maxAbsError, nmse } from "../reference/metrics.ts";
import { tolerances } from "../tolerances.ts";

/** The same arrays in the memory of plain TypeScript and of SIMD. */
function both<T extends Float32Array | Uint16Array | Int16Array>(...arrays: T[]): { kernels: CpuKernels; arrays: T[] }[] {
  return [plainKernels, createSimdKernels()!].map((kernels) => ({
    kernels,
    arrays: allocateTogether(kernels, (kernels) =>
      arrays.map((array) => {
        const copy = kernels.allocate(array.constructor as ArrayType<T>, array.length);
        if (copy.length > 0) copy.set(array);
        return copy;
      }),
    ),
  }));
}

describe("the SIMD loops against the plain ones", () => {
  test.each([[1, 1, 4], [1, 5, 64], [2, 3, 8], [4, 2, 64], [5, 7, 36], [9, 6, 768]])("multiplyRows of %d by %d rows of %d values, between other rows", (T, O, K) => {
    const [xStride, wStride, yStride] = [K + 4, K + 8, O + 3];
    const inputs = [gaussian(T * xStride + 1, 1, 0, 1), gaussian(O * wStride + 2, 1, 0, 2), new Float32Array(T * yStride + 3).fill(9)];
    const [plain, simd] = both(...inputs).map(({ kernels, arrays: [x, w, y] }) => {
      kernels.multiplyRows({ values: x!, start: 1, stride: xStride, count: T }, { values: w!, start: 2, stride: wStride, count: O }, K, { values: y!, start: 3, stride: yStride, count: T });
      return y!;
    });
    expect(nmse(simd!, plain!)).toBeLessThan(tolerances.kernelNmse.f32);
    expect([...simd!].filter((value) => value === 9)).toHaveLength(3 + 3 * T); // the rest is untouched
  });

  test("multiplyRows gives each row the same sums, however many rows come along", () => {
    const K = 100;
    const [, simd] = both(gaussian(6 * K, 1, 0, 1), gaussian(7 * K, 1, 0, 2), new Float32Array(42), new Float32Array(1));
    const { kernels, arrays: [x, w, y, one] } = simd!;
    kernels.multiplyRows({ values: x!, start: 0, stride: K, count: 6 }, { values: w!, start: 0, stride: K, count: 7 }, K, { values: y!, start: 0, stride: 7, count: 6 });
    for (let i = 0; i < 42; i++) {
      kernels.multiplyRows({ values: x!, start: Math.floor(i / 7) * K, stride: K, count: 1 }, { values: w!, start: (i % 7) * K, stride: K, count: 1 }, K, { values: one!, start: 0, stride: 1, count: 1 });
      expect(one![0]).toBe(y![i]);
    }
  });

  test.each([[1, 4], [2, 7], [3, 768]])("layerNorm of %d rows of %d values, one of them far out", (T, C) => {
    const x = gaussian(T * C, 1, 0.2, 1);
    x[C - 1] = 3000;
    const [plain, simd] = both(x, new Float32Array(T * C), gaussian(2 * C, 1, 0, 2)).map(({ kernels, arrays: [x, y, affine] }) => (kernels.layerNorm(x!, y!, T, C, affine!, 1e-5), y!));
    expect(nmse(simd!, plain!)).toBeLessThan(tolerances.kernelNmse.layerNorm);
  });

  test.each([[1, 1], [3, 2], [2, 7], [5, 64]])("addBias to %d rows of %d values", (T, O) => {
    const [plain, simd] = both(gaussian(T * O + 4, 1, 0, 1), gaussian(O, 1, 0, 2)).map(({ kernels, arrays: [y, bias] }) => (kernels.addBias(y!, T, O, bias!), y!));
    expect([...simd!]).toEqual([...plain!]);
  });

  test.each([1, 3, 4, 5, 64, 1023])("softmax over %d values", (count) => {
    const [plain, simd] = both(gaussian(count, 20, 0, 3)).map(({ kernels, arrays: [x] }) => (kernels.softmax(x!, 0, count, 0.3), x!));
    expect(maxAbsError(simd!, plain!)).toBeLessThan(tolerances.probability);
  });

  test("softmax of one value that stands far out is that value alone", () => {
    const [, simd] = both(Float32Array.of(-3e38, 500, -500, 0, 1));
    simd!.kernels.softmax(simd!.arrays[0]!, 0, 5, 1);
    expect(maxAbsError(simd!.arrays[0]!, [0, 1, 0, 0, 0])).toBeLessThan(tolerances.probability);
  });

  test.each([1, 3, 24, 57])("sumExp over %d values, with another row and without", (count) => {
    const max = 12;
    const [plain, simd] = both(gaussian(count, 4, 0, 5), gaussian(count, 4, 0, 6)).map(({ kernels, arrays: [x, other] }) => {
      return [kernels.sumExp(x!, 0, count, max).sum, kernels.sumExp(x!, 0, count, max).excess, ...Object.values(kernels.sumExp(x!, 0, count, max, other))];
    });
    expect(nmse(simd!, plain!)).toBeLessThan(tolerances.kernelNmse.activation);
    expect(simd![1]).toBe(0);
  });

  test("geluTanh on both tails, around zero and in between, in counts that are no multiple of four", () => {
    const values = Float32Array.from({ length: 801 }, (_, i) => (i - 400) / 40);
    const [plain, simd] = both(values).map(({ kernels, arrays: [x] }) => (kernels.activate("gelu_new", x!, 801), x!));
    expect(maxAbsError(simd!.map((y, i) => y / Math.max(1, Math.abs(values[i]!))), plain!.map((y, i) => y / Math.max(1, Math.abs(values[i]!))))).toBeLessThan(tolerances.geluRelative);
  });

  test("restoreHalves is exact for every finite f16", () => {
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i).filter((half) => (half & 0x7c00) !== 0x7c00);
    const [plain, simd] = both<Uint16Array | Float32Array>(bits, new Float32Array(bits.length)).map(({ kernels, arrays: [halves, restored] }) => {
      kernels.restoreHalves(halves as Uint16Array, 0, bits.length, 1, bits.length, restored as Float32Array);
      return restored as Float32Array;
    });
    expect(simd!.every((value, i) => Object.is(value, plain![i]))).toBe(true);
    expect(toHalfBits(simd!).bits.every((half, i) => half === bits[i])).toBe(true);
  });

  test("roundHalves rounds to nearest even like toHalfBits, subnormals too, and saturates", () => {
    const halfSteps = Float32Array.from({ length: 2000 }, (_, i) => (i - 1000) * 2 ** -25); // every second one a tie between two subnormals
    const ties = Float32Array.from({ length: 2048 }, (_, i) => 1 + i * 2 ** -11);
    const values = Float32Array.of(...gaussian(1000, 1, 0, 4), ...gaussian(1000, 1e-5, 0, 5), ...halfSteps, ...ties, 65504, -65504, 0, -0);
    const [plain, simd] = both<Float32Array | Uint16Array>(Float32Array.of(...values, 65520, -3e38, Infinity), new Uint16Array(values.length + 4)).map(({ kernels, arrays: [x, halves] }) => {
      kernels.roundHalves(x as Float32Array, 0, values.length + 3, halves as Uint16Array);
      return halves!;
    });
    expect([...plain!.subarray(0, values.length)]).toEqual([...toHalfBits(values).bits]);
    expect([...plain!.subarray(values.length)]).toEqual([0x7bff, 0xfbff, 0x7bff, 0]);
    expect([...simd!]).toEqual([...plain!]);
  });

  test("largestMagnitude and quantize give the same codes, ties to even", () => {
    const values = gaussian(64, 1, 0, 8);
    values.set([0.5, 1.5, 2.5, -0.5, -1.5, 200, -200, 126.5], 32);
    const [plain, simd] = both<Float32Array | Int16Array>(values, new Int16Array(64)).map(({ kernels, arrays: [x, codes] }) => {
      const largest = kernels.largestMagnitude(x as Float32Array, 0, 64);
      kernels.quantize(x as Float32Array, 0, 64, 1, codes as Int16Array);
      return { largest, codes: [...codes!], values: [...x!] };
    });
    expect(plain!.largest).toBe(200);
    expect(plain!.codes.slice(32, 40)).toEqual([0, 2, 2, -0, -2, 127, -127, 126].map((code) => code + 0));
    expect(simd!.codes).toEqual(plain!.codes);
    expect(simd!.values.map((code) => code + 0)).toEqual(plain!.values.map((code) => code + 0));
    expect(simd!.largest).toBe(plain!.largest);
  });
});

describe("createSimdKernels", () => {
  beforeEach(() => void vi.resetModules()); // the compiled module is kept for all models
  afterEach(() => void vi.unstubAllGlobals());
  const createAfresh = async (): Promise<CpuKernels | null> => (await import("../../src/model/cpu/simd.ts")).createSimdKernels();

  test("is null without WebAssembly, and where a Content-Security-Policy refuses to compile it", async () => {
    expect((await createAfresh())?.name).toBe("WASM SIMD"); // control case
    vi.resetModules();
    vi.stubGlobal("WebAssembly", undefined);
    expect(await createAfresh()).toBeNull();
    vi.unstubAllGlobals();
    vi.stubGlobal("WebAssembly", { Memory: WebAssembly.Memory, Module: refuse });
    expect(await createAfresh()).toBeNull();
  });

  test("is null where there is no room for one more memory", async () => {
    expect((await createAfresh())?.name).toBe("WASM SIMD"); // control case
    class FullMemory {
      constructor() {
        throw new RangeError("WebAssembly.Memory(): could not allocate memory");
      }
    }
    vi.stubGlobal("WebAssembly", { ...WebAssembly, Memory: FullMemory });
    expect(await createAfresh()).toBeNull();
  });

  test("refuses an array that lies outside its memory, having taken one from inside", () => {
    const kernels = createSimdKernels()!;
    kernels.softmax(kernels.allocate(Float32Array, 4), 0, 4, 1); // control case
    expect(() => kernels.softmax(new Float32Array(4), 0, 4, 1)).toThrow("not in this WebAssembly memory");
  });

  function refuse(): never {
    throw new Error("Refused to compile or instantiate WebAssembly module because of the policy.");
  }
});
