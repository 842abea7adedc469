// Mean and 1/√(variance + ε) of a row of x, by the whole workgroup; needs `x`, `shape` and WG. Two passes: GPT-2 has huge single channels.
var<workgroup> sums: array<f32, WG>;

// Sum of sums[0…WG) in a fixed order, the same value for every thread.
fn total(t: u32) -> f32 {
  workgroupBarrier();
  for (var half = WG / 2u; half > 0u; half >>= 1u) {
    if (t < half) { sums[t] += sums[t + half]; }
    workgroupBarrier();
  }
  let sum = sums[0];
  workgroupBarrier();
  return sum;
}

// (mean, 1/√(variance + ε)) of the row that begins at x[start].
fn row_moments(start: u32, t: u32) -> vec2<f32> {
  var sum = vec4<f32>(0.0);
  for (var i = t; i < shape.x_stride; i += WG) { sum += x[start + i]; } // padding holds zeros
  sums[t] = sum.x + sum.y + sum.z + sum.w;
  let mean = total(t) / f32(shape.columns);
  var squares = vec4<f32>(0.0);
  for (var i = t; i < shape.x_stride; i += WG) {
    let inside = vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(shape.columns);
    let d = select(vec4<f32>(0.0), x[start + i] - mean, inside);
    squares += d * d;
  }
  sums[t] = squares.x + squares.y + squares.z + squares.w;
  return vec2<f32>(mean, 1.0 / sqrt(total(t) / f32(shape.columns) + shape.epsilon));
}
