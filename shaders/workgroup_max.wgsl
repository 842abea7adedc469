// The largest of one value per thread, the same for every thread; beside workgroup_sum.wgsl, whose levels and arrays it uses.
fn workgroup_max(value: f32, t: u32) -> f32 {
  workgroupBarrier(); // sum_parts may still be read
  sum_values[t] = value;
  workgroupBarrier();
  if (t < WG / SUM_LEAVES) {
    var part = -3.0e38;
    for (var i = 0u; i < SUM_LEAVES; i++) { part = max(part, sum_values[t * SUM_LEAVES + i]); }
    sum_parts[t] = part;
  }
  workgroupBarrier();
  var top = -3.0e38;
  for (var i = 0u; i < WG / SUM_LEAVES; i++) { top = max(top, sum_parts[i]); }
  return top;
}
