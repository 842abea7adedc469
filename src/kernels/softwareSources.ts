import attentionRowsWgsl from "../../shaders/attention_rows.wgsl?raw";
import linearTileWgsl from "../../shaders/linear_tile.wgsl?raw";
import shareRows from "../../shaders/share_rows.wgsl?raw";
import tileProducts from "../../shaders/tile_products.wgsl?raw";
import { kernel, withPieces } from "./sources.ts";

const pieces = { share_rows: shareRows, tile_products: tileProducts };

// The kernels that only software adapters take, as in sources.ts.
export const linearTile = withPieces(kernel("linear_tile", linearTileWgsl, "step", "uniform", "read", "read", "read", "read", "read", "write"), pieces);
export const linearTileOutliers = withPieces(kernel("linear_tile", linearTileWgsl, "step", "uniform", "read", "read", "read", "read", "read", "write", "read"), pieces);
export const attentionRows = kernel("attention_rows", attentionRowsWgsl, "step", "uniform", "read", "read", "read", "write");
