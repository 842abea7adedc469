// Shape of a packed matrix (or of the rows of one), as the kernels that read it bind it.
struct Shape {
  rows: u32,             // outputs in this part
  row_offset: u32,       // first of them in the matrix
  columns: u32,          // inputs, without padding
  chunks_per_row: u32,
  groups_per_row: u32,
  chunks_per_group: u32,
  scale_base: u32,       // where scales, zero points and nested absmax begin in `scales`, in words
  zero_base: u32,
  nested_base: u32,
  x_stride: u32,         // vec4s per row of x
  y_stride: u32,         // f32s per row of y
  bias_base: u32,        // where the bias begins in `aux`, in vec4s
  epsilon: f32,          // of the layer norm in front
  head_size: u32,        // of the attention whose splits the merge prologue joins, and how many splits it may have
  max_splits: u32,
  epilogue: u32,         // what follows the product: 1 bias, 2 activation, 4 residual
  input_range: f32,      // static range of int8 activations; 0: each row's own
  outlier_threshold: f32, // where OUTLIERS: what is at least as large stays f32
  f16_base: u32,         // where the map of f16 columns begins in `scales`, in words; 0: there are none
};
