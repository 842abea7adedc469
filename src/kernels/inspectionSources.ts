import columnStatistics from "../../shaders/column_statistics.wgsl?raw";
import gram from "../../shaders/gram.wgsl?raw";
import rowDivergence from "../../shaders/row_divergence.wgsl?raw";
import rowNormalizer from "../../shaders/row_normalizer.wgsl?raw";
import rowSoftmax from "../../shaders/row_softmax.wgsl?raw";
import rowSums from "../../shaders/row_sums.wgsl?raw";
import { kernel, withPieces } from "./sources.ts";

const pieces = { row_softmax: rowSoftmax };

/** The other kernels, as in sources.ts: they measure. */
export const inspectionKernels = {
  rowNormalizer: kernel("row_normalizer", rowNormalizer, "uniform", "read", "write"),
  rowSums: withPieces(kernel("row_sums", rowSums, "uniform", "read", "read", "write"), pieces),
  rowDivergence: withPieces(kernel("row_divergence", rowDivergence, "uniform", "read", "read", "read", "read", "write"), pieces),
  columnStatistics: kernel("column_statistics", columnStatistics, "step", "uniform", "read", "write"),
  gram: kernel("gram", gram, "step", "uniform", "uniform", "read", "write"),
} as const;
