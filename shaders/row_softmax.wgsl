// Reductions over one row of logits by the whole workgroup, in a fixed order.
struct Rows {
  vocabulary: u32,
  stride: u32, // f32s per row of logits
};

const WG = 256u;
var<workgroup> values: array<f32, WG>;
var<workgroup> indices: array<u32, WG>;

struct Highest {
  value: f32,
  index: u32,
};

// The largest value and its index, the lowest on a tie.
fn highest(value: f32, index: u32, t: u32) -> Highest {
  workgroupBarrier();
  values[t] = value;
  indices[t] = index;
  workgroupBarrier();
  for (var half = WG / 2u; half > 0u; half >>= 1u) {
    if (t < half) {
      let other = values[t + half];
      if (other > values[t] || (other == values[t] && indices[t + half] < indices[t])) {
        values[t] = other;
        indices[t] = indices[t + half];
      }
    }
    workgroupBarrier();
  }
  let result = Highest(values[0], indices[0]);
  workgroupBarrier();
  return result;
}

fn total(value: f32, t: u32) -> f32 {
  workgroupBarrier();
  values[t] = value;
  workgroupBarrier();
  for (var half = WG / 2u; half > 0u; half >>= 1u) {
    if (t < half) { values[t] += values[t + half]; }
    workgroupBarrier();
  }
  let result = values[0];
  workgroupBarrier();
  return result;
}
