#if EPILOGUE == normalizer
#import "normalizer"
#else
#import "activation"
// Scale, bias, activation and residual of one output, on its way to y. Needs `shape`, `scales`, `aux`, `residual` and `y`.
// `row`: the output within this part; `m`: the row of residual and y.
fn finish(row: u32, m: u32, product: f32) {
  if (row >= shape.rows) { return; }
  let n = shape.row_offset + row;
  var value = product;
#if SCALE == tensor || SCALE == channel
  value *= scale_at(row, 0u);
#endif
#if EPILOGUE == uniform
  if ((shape.epilogue & 1u) != 0u) { value += aux[shape.bias_base + (n >> 2u)][n & 3u]; }
  if ((shape.epilogue & 2u) != 0u) { value = activate(value); }
  if ((shape.epilogue & 4u) != 0u) { value += residual[m * shape.y_stride + n]; }
#else
#if BIAS
  value += aux[shape.bias_base + (n >> 2u)][n & 3u];
#endif
  value = activate(value);
#if RESIDUAL
  value += residual[m * shape.y_stride + n];
#endif
#endif
  y[m * shape.y_stride + n] = value;
}
#endif
