import { BufferUsage } from "../gpu/constants.ts";
import type { BufferMaker, Gpu, MemoryPurpose } from "../gpu/device.ts";
import { CHUNK_VALUES, type Encoding, type PackedMatrix, type PackedPart } from "../quantize/pack.ts";
import type { Activation } from "../types.ts";

const SHAPE_BYTES = 80;
const LARGEST_FLOAT = 3.4028234663852886e38;

/** Parts of a packed matrix on the device, each within the binding limit. */
export interface GpuMatrixPart extends Omit<PackedPart, "codes" | "scales"> {
  /** Uniform `Shape` of matrix_shape.wgsl, SHAPE_BYTES. */
  shape: GPUBuffer;
  /** vec4<u32> [paddedRows / 8][paddedColumns / E][8] */
  codes: GPUBuffer;
  /** u32 words: table, scales, zero points, f16 columns */
  scales: GPUBuffer;
}

/** What follows the product. */
export interface LinearForm {
  activation: Activation | "none";
  bias: boolean;
  residual: boolean;
}

export interface GpuMatrix extends Omit<PackedMatrix, "parts"> {
  label: string;
  form: LinearForm;
  /** Its inputs are quantized too: products of codes, as exact integers. For int8 codes alone. */
  int8Activations: boolean;
  /** Of those inputs, the largest stay f32: LLM.int8(). */
  outliers: boolean;
  parts: readonly GpuMatrixPart[];
}

export interface MatrixUse {
  /** @default nothing: the product alone */
  form?: LinearForm;
  /** What the recipe says of activations; only a matrix of int8 codes heeds it. @default "float" */
  activations?: "float" | "int8";
  /** Static range of int8 activations. @default each row's own */
  inputRange?: number;
  /** Beside int8 activations: what is at least as large stays f32. @default nothing */
  outlierThreshold?: number;
  /** f32s per row of the output. */
  yStride: number;
  /** Where the bias begins in the op's `aux` buffer, in vec4s. */
  biasBase: number;
  /** Of the layer norm in front. */
  epsilon: number;
  /** Of the attention whose splits a merge prologue joins. */
  headSize?: number;
  maxSplits?: number;
}

/** copySrc: weights can be read back. */
export const weightUsage = BufferUsage.storage | BufferUsage.copyDst | BufferUsage.copySrc;

/** The buffers of one part of a matrix. */
export function createMatrixBuffers(gpu: BufferMaker, label: string, { codeBytes, scaleBytes }: { codeBytes: number; scaleBytes: number }, purpose: MemoryPurpose): Pick<GpuMatrixPart, "shape" | "codes" | "scales"> {
  return {
    codes: gpu.createBuffer(`${label}.codes`, codeBytes, weightUsage, purpose),
    scales: gpu.createBuffer(`${label}.scales`, scaleBytes, weightUsage, "scales"),
    shape: gpu.createBuffer(`${label}.shape`, SHAPE_BYTES, BufferUsage.uniform | BufferUsage.copyDst, "scales"),
  };
}

/** Uploads a packed matrix; its shape uniforms are made for the one place of the graph where it stands. */
export async function uploadMatrix(gpu: Gpu, label: string, packed: PackedMatrix, purpose: MemoryPurpose, use: MatrixUse): Promise<GpuMatrix> {
  const { form = { activation: "none", bias: false, residual: false }, outlierThreshold } = use;
  const epilogue = (form.bias ? 1 : 0) | (form.activation !== "none" ? 2 : 0) | (form.residual ? 4 : 0);
  const chunkValues = CHUNK_VALUES[packed.encoding.code];
  const parts: GpuMatrixPart[] = [];
  for (const [index, part] of packed.parts.entries()) {
    const name = packed.parts.length === 1 ? label : `${label}.part${index}`;
    const { codes, scales, shape } = createMatrixBuffers(gpu, name, { codeBytes: part.codes.byteLength, scaleBytes: part.scales.byteLength }, purpose);
    await gpu.settle();
    await gpu.upload(codes, part.codes);
    await gpu.upload(scales, part.scales);
    const words = new Uint32Array(SHAPE_BYTES / 4);
    const floats = new Float32Array(words.buffer);
    words.set([
      part.rows,
      part.rowOffset,
      packed.columns,
      packed.paddedColumns / chunkValues,
      packed.groupsPerRow,
      packed.chunksPerGroup,
      part.bases.scale,
      part.bases.zero,
      part.bases.nestedAbsmax,
      packed.paddedColumns / 4,
      use.yStride,
      use.biasBase,
    ]);
    floats[12] = use.epsilon;
    words.set([use.headSize ?? 0, use.maxSplits ?? 0, epilogue], 13);
    floats.set([use.inputRange ?? 0, Math.min(outlierThreshold ?? 0, LARGEST_FLOAT)], 16);
    words[18] = part.bases.f16Columns;
    await gpu.upload(shape, words);
    parts.push({ ...part, shape, codes, scales });
  }
  const int8Activations = use.activations === "int8" && packed.encoding.code === "int8";
  return { ...packed, label, form, int8Activations, outliers: int8Activations && outlierThreshold !== undefined, parts };
}

/** The shader constants that select how a matrix is read. */
export function encodingConstants({ code, scale, zero }: Encoding): { CODE: string; SCALE: string; ZERO: string; CHUNK: number; TABLE: "memory" } {
  return { CODE: code, SCALE: scale, ZERO: zero, CHUNK: CHUNK_VALUES[code], TABLE: "memory" };
}
