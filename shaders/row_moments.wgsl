// Mean and 1/√(variance + ε) of a row of x, by the whole workgroup; needs `x`, `shape` and WG. Two passes: GPT-2 has huge single channels.
#import "workgroup_sum"

// (mean, 1/√(variance + ε)) of the row that begins at x[start].
fn row_moments(start: u32, t: u32) -> vec2<f32> {
  var sum = vec4<f32>(0.0);
  for (var i = t; i < shape.x_stride; i += WG) { sum += x[start + i]; } // padding holds zeros
  let mean = workgroup_sum(sum.x + sum.y + sum.z + sum.w, t) / f32(shape.columns);
  var squares = vec4<f32>(0.0);
  for (var i = t; i < shape.x_stride; i += WG) {
    let inside = vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(shape.columns);
    let d = select(vec4<f32>(0.0), x[start + i] - mean, inside);
    squares += d * d;
  }
  let variance = workgroup_sum(squares.x + squares.y + squares.z + squares.w, t) / f32(shape.columns);
  return vec2<f32>(mean, 1.0 / sqrt(variance + shape.epsilon));
}
