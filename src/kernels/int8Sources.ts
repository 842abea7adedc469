import codeRows from "../../shaders/code_rows.wgsl?raw";
import int8Code from "../../shaders/int8_code.wgsl?raw";
import int8Dot from "../../shaders/int8_dot.wgsl?raw";
import outlierRows from "../../shaders/outlier_rows.wgsl?raw";
import quantizeRowsWgsl from "../../shaders/quantize_rows.wgsl?raw";
import { kernel, withPieces } from "./sources.ts";

/** What kernels are made of, too, where their inputs are int8 codes. */
export const int8Pieces = { code_rows: codeRows, int8_code: int8Code, int8_dot: int8Dot, outlier_rows: outlierRows };

/** Rows of x into codes; as in sources.ts. */
export const quantizeRows = withPieces(kernel("quantize_rows", quantizeRowsWgsl, "step", "uniform", "read", "write"), int8Pieces);
