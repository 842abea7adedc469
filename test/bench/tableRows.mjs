/** The rows of the README's table after f32, in their order: presets by name, other recipes as objects with a name. @type {readonly (import("nibble-webgpu").PresetName | import("nibble-webgpu").QuantizationRecipe)[]} */
export const tableRows = ["f16", "int8", "int8-zeropoint", "int8-absmax-tensor", "int8-zeropoint-tensor", "int8-dynamic", "int4", "nf4", "nf4-dq", "fp4"];

/** @param {(typeof tableRows)[number]} row */
export const nameOfRow = (row) => (typeof row === "string" ? row : (row.name ?? ""));
