// The sum of one value per thread, in a fixed order, the same for every thread. Two levels of √WG and two barriers: a tree of log WG
// barriers is slower where barriers cost (software adapters above all), one level reads too much. Needs WG, a power of two.
const SUM_LEAVES = select(16u, 8u, WG <= 64u); // values that one thread of the first level adds
var<workgroup> sum_values: array<f32, WG>;
var<workgroup> sum_parts: array<f32, WG / SUM_LEAVES>;

fn workgroup_sum(value: f32, t: u32) -> f32 {
  sum_values[t] = value;
  workgroupBarrier();
  if (t < WG / SUM_LEAVES) {
    var part = 0.0;
    for (var i = 0u; i < SUM_LEAVES; i++) { part += sum_values[t * SUM_LEAVES + i]; }
    sum_parts[t] = part;
  }
  workgroupBarrier();
  var sum = 0.0;
  for (var i = 0u; i < WG / SUM_LEAVES; i++) { sum += sum_parts[i]; }
  return sum;
}
