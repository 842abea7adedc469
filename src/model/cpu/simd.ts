import type { Activation, QuantizedTensor } from "../../types.ts";
import { type ArrayType, type CpuKernels, type CpuMatrix, type InputCoding, LANES, type Rows } from "./kernels.ts";
import { createPlainMatrix } from "./matrix.ts";
import { simdMatrixBytes } from "./matrixBytes.ts";
import { activate, layerNorm } from "./ops.ts";
import { createLoops, type Loops } from "./simd/loops.ts";
import { type Constants, CONSTANT_BYTES, copyConstants, createSimdMatrix } from "./simd/matrix.ts";
import { Memory } from "./simd/memory.ts";

/** Of the 4 GiB that a WebAssembly memory may have, what matrices may take; the rest is for caches and activations. */
export const MATRICES_LIMIT_BYTES = 3 * 2 ** 30;

const EXCESS_BYTES = 4;
/** Of the arrays that every memory has. */
export const OWN_ARRAY_BYTES: readonly number[] = [...CONSTANT_BYTES, EXCESS_BYTES];

/** The loops in WebAssembly SIMD, f32 sums, with a memory of their own; null where the page cannot have them. */
export function createSimdKernels(): CpuKernels | null {
  if (typeof WebAssembly === "undefined") return null;
  try {
    const memory = new Memory();
    const loops = createLoops(memory.wasm);
    return loops && new SimdKernels(loops, memory);
  } catch (error) {
    if (error instanceof RangeError) return null; // no addresses left for one more memory, of which engines reserve gigabytes
    throw error;
  }
}

class SimdKernels implements CpuKernels {
  readonly name = "WASM SIMD";
  private readonly loops: Loops;
  private readonly memory: Memory;
  private readonly constants: Constants;
  private readonly sums = { sum: 0, excess: 0 };
  private readonly excess: number;
  /** Of the arrays and matrices in the memory. */
  private usedBytes = 0;

  constructor(loops: Loops, memory: Memory) {
    this.loops = loops;
    this.memory = memory;
    this.constants = copyConstants(memory);
    this.excess = memory.allocate(EXCESS_BYTES);
  }

  get overheadBytes(): number {
    return this.memory.wasm.buffer.byteLength - this.usedBytes;
  }

  allocate<A extends Float32Array | Int16Array | Uint16Array | Int8Array>(type: ArrayType<A>, length: number): A {
    const bytes = length * type.BYTES_PER_ELEMENT;
    const address = this.memory.allocate(bytes);
    this.usedBytes += bytes;
    return new type(this.memory.wasm.buffer, address, length);
  }

  reserve(arrayBytes: readonly number[]): void {
    this.memory.require(arrayBytes);
  }

  /** What the memory cannot hold, or has zero points beyond int8, stays with the plain loops. */
  createMatrix(tensor: QuantizedTensor, coding: InputCoding | null): CpuMatrix {
    const { loops, memory, constants } = this;
    const { format, shape, zeroPoints, doubleQuantization } = tensor;
    const hasWideZeroPoints = zeroPoints && !zeroPoints.every((zeroPoint) => zeroPoint >= -128 && zeroPoint <= 127);
    const { codeBytes, scaleBytes, arrayBytes } = simdMatrixBytes(format, shape, doubleQuantization?.map?.byteLength);
    if (hasWideZeroPoints || !memory.reserve(arrayBytes, MATRICES_LIMIT_BYTES)) return createPlainMatrix(tensor, coding);
    this.usedBytes += codeBytes + scaleBytes;
    return createSimdMatrix(tensor, coding, loops, memory, constants);
  }

  multiplyRows(x: Rows, w: Rows, K: number, y: Rows): void {
    const address = ({ values, start }: Rows): number => this.memory.addressOf(values, start);
    this.loops.multiplyFloats(address(x), 4 * x.stride, x.count, address(w), 4 * w.stride, w.count, K, address(y), 4 * y.stride);
  }

  largestMagnitude(x: Float32Array, start: number, count: number): number {
    return this.loops.largestMagnitude(this.memory.addressOf(x, start), count);
  }

  quantize(x: Float32Array, start: number, count: number, inverse: number, codes: Int16Array): void {
    this.loops.quantize(this.memory.addressOf(x, start), count, inverse, this.memory.addressOf(codes, start));
  }

  restoreHalves(halves: Uint16Array, start: number, stride: number, rows: number, columns: number, restored: Float32Array): void {
    this.loops.restoreHalves(this.memory.addressOf(halves, start), 2 * stride, rows, columns, this.memory.addressOf(restored), 4 * columns);
  }

  roundHalves(x: Float32Array, start: number, count: number, halves: Uint16Array): void {
    this.loops.roundHalves(this.memory.addressOf(x, start), count, this.memory.addressOf(halves));
  }

  layerNorm(x: Float32Array, y: Float32Array, T: number, C: number, affine: Float32Array, epsilon: number): void {
    const { loops, memory } = this;
    if (C % LANES > 0) layerNorm(x, y, T, C, affine, epsilon);
    else loops.layerNorm(memory.addressOf(x), T, C, memory.addressOf(affine), memory.addressOf(affine, C), epsilon, memory.addressOf(y));
  }

  addBias(y: Float32Array, T: number, O: number, bias: Float32Array): void {
    this.loops.addBias(this.memory.addressOf(y), T, this.memory.addressOf(bias), O);
  }

  activate(activation: Activation, x: Float32Array, count: number): void {
    if (activation === "gelu_new" || activation === "gelu_pytorch_tanh") this.loops.geluTanh(this.memory.addressOf(x), count);
    else activate(activation, x, count);
  }

  softmax(x: Float32Array, start: number, count: number, scale: number): void {
    this.loops.softmax(this.memory.addressOf(x, start), count, scale);
  }

  sumExp(logits: Float32Array, start: number, count: number, max: number, other?: Float32Array): { sum: number; excess: number } {
    this.sums.sum = this.loops.sumExp(this.memory.addressOf(logits, start), count, max, other ? this.memory.addressOf(other, start) : 0, this.excess);
    this.sums.excess = other ? new Float32Array(this.memory.wasm.buffer, this.excess, 1)[0]! : 0;
    return this.sums;
  }
}
