// Writes ONNX models, a protobuf format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto has the field numbers.

/** A protobuf message as a list of pieces, so that the bytes of a large tensor are copied once, at the end. */
class Message {
  readonly pieces: Uint8Array[] = [];
  sizeBytes = 0;

  /** int64, int32 or an enum; negative values take ten bytes. */
  int(field: number, value: number | bigint): this {
    return this.#append(varint(field << 3), varint(value));
  }

  float(field: number, value: number): this {
    return this.#append(varint((field << 3) | 5), new Uint8Array(Float32Array.of(value).buffer));
  }

  /** A string, bytes, or a message within this one. */
  content(field: number, value: string | Uint8Array | Message): this {
    const pieces = value instanceof Message ? value.pieces : [typeof value === "string" ? new TextEncoder().encode(value) : value];
    const sizeBytes = pieces.reduce((sum, { length }) => sum + length, 0);
    return this.#append(varint((field << 3) | 2), varint(sizeBytes), ...pieces);
  }

  toBytes(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(this.sizeBytes);
    let offset = 0;
    for (const piece of this.pieces) {
      bytes.set(piece, offset);
      offset += piece.length;
    }
    return bytes;
  }

  #append(...pieces: Uint8Array[]): this {
    for (const piece of pieces) {
      this.pieces.push(piece);
      this.sizeBytes += piece.length;
    }
    return this;
  }
}

function varint(value: number | bigint): Uint8Array {
  let rest = BigInt.asUintN(64, BigInt(value));
  const bytes: number[] = [];
  do {
    bytes.push(Number(rest & 127n) | (rest > 127n ? 128 : 0));
    rest >>= 7n;
  } while (rest > 0n);
  return Uint8Array.from(bytes);
}

/** TensorProto.DataType */
const DataType = { float32: 1, uint8: 2, int8: 3, int32: 6, int64: 7 } as const;
export type OnnxType = keyof typeof DataType;
type OnnxValues = Float32Array | Uint8Array | Int8Array | Int32Array | BigInt64Array;

function typeOf(values: OnnxValues): OnnxType {
  if (values instanceof Float32Array) return "float32";
  if (values instanceof Uint8Array) return "uint8";
  if (values instanceof Int8Array) return "int8";
  return values instanceof Int32Array ? "int32" : "int64";
}

/** Operators outside ONNX's own set. */
const CONTRIB_DOMAIN = "com.microsoft";
const IR_VERSION = 8;
const OPSET_VERSION = 17;

export interface NodeOptions {
  /** Names of the results; "" for one that nobody uses. @default one, named by the graph */
  outputs?: readonly string[];
  /** Of onnxruntime's own operator set, "com.microsoft". */
  contrib?: boolean;
  ints?: Readonly<Record<string, number>>;
  floats?: Readonly<Record<string, number>>;
}

/** A graph that is written node by node; values are known by name. */
export class OnnxGraph {
  readonly #graph = new Message();
  #nodes = 0;

  /** A constant, row-major; returns its name. */
  constant(name: string, shape: readonly number[], values: OnnxValues): string {
    const tensor = new Message();
    for (const size of shape) tensor.int(1, size);
    tensor.int(2, DataType[typeOf(values)]).content(8, name).content(9, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    this.#graph.content(5, tensor);
    return name;
  }

  /** Adds a node and returns the name of its first output. Inputs that are left out are "". */
  node(operator: string, inputs: readonly string[], { outputs = [`${operator}.${this.#nodes}`], contrib = false, ints = {}, floats = {} }: NodeOptions = {}): string {
    const node = new Message();
    for (const name of inputs) node.content(1, name);
    for (const name of outputs) node.content(2, name);
    node.content(3, `${operator}.${this.#nodes++}`).content(4, operator);
    for (const [name, value] of Object.entries(ints)) node.content(5, new Message().content(1, name).int(3, value).int(20, 2));
    for (const [name, value] of Object.entries(floats)) node.content(5, new Message().content(1, name).float(2, value).int(20, 1));
    if (contrib) node.content(7, CONTRIB_DOMAIN);
    this.#graph.content(1, node);
    return outputs[0]!;
  }

  /** Sizes that change from run to run have a name. */
  input(name: string, type: OnnxType, shape: readonly (number | string)[]): string {
    this.#graph.content(11, valueType(name, type, shape));
    return name;
  }

  output(name: string, type: OnnxType, shape: readonly (number | string)[]): void {
    this.#graph.content(12, valueType(name, type, shape));
  }

  toModel(): Uint8Array<ArrayBuffer> {
    const operators = (domain: string, version: number): Message => new Message().content(1, domain).int(2, version);
    return new Message().int(1, IR_VERSION).content(7, this.#graph.content(2, "gpt2")).content(8, operators("", OPSET_VERSION)).content(8, operators(CONTRIB_DOMAIN, 1)).toBytes();
  }
}

function valueType(name: string, type: OnnxType, shape: readonly (number | string)[]): Message {
  const dimensions = new Message();
  for (const size of shape) dimensions.content(1, typeof size === "string" ? new Message().content(2, size) : new Message().int(1, size));
  const tensor = new Message().int(1, DataType[type]).content(2, dimensions);
  return new Message().content(1, name).content(2, new Message().content(1, tensor));
}
