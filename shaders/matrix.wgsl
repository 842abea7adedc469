// A packed matrix of design §4: chunk = (row_tile · chunks_per_row + chunk) · 8 + (row & 7), a vec4<u32> each.
// Needs `codes`, `scales` and `shape` bound by the importing kernel. `row` is the row within this part.
#if CODE == lut4 && TABLE == lanes
// Codes l and 8 + l in lane l of every 8: looking one up is a shuffle, one instruction where 8 lanes are a vector register.
var<private> low_code: f32;
var<private> high_code: f32;

fn load_table(lane: u32) {
  low_code = bitcast<f32>(scales[lane & 7u]);
  high_code = bitcast<f32>(scales[8u + (lane & 7u)]);
}

fn code_value(code: u32) -> f32 { return select(subgroupShuffle(low_code, code & 7u), subgroupShuffle(high_code, code & 7u), code > 7u); }
#elif CODE == lut4
var<workgroup> table: array<f32, 16>;

// Copies the 16 codes into workgroup memory: a const array indexed dynamically is copied per call by some compilers.
fn load_table(t: u32) {
  if (t < 16u) { table[t] = bitcast<f32>(scales[t]); }
  workgroupBarrier();
}

fn code_value(code: u32) -> f32 { return table[code]; }
#endif

#if CODE == int8
fn int8_values(word: u32, bias: f32) -> vec4<f32> {
  let bytes = (vec4<u32>(word ^ 0x80808080u) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(0xffu);
  return bitcast<vec4<f32>>(bytes | vec4<u32>(0x4b000000u)) - vec4<f32>(bias);
}
#elif CODE == int4
// The low nibbles of the four bytes.
fn int4_values(word: u32, bias: f32) -> vec4<f32> {
  let nibbles = (vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(15u);
  return bitcast<vec4<f32>>(nibbles | vec4<u32>(0x4b000000u)) - vec4<f32>(bias);
}
#elif CODE == lut4
fn lut4_values(word: u32) -> vec4<f32> {
  return vec4<f32>(code_value(word & 15u), code_value((word >> 8u) & 15u), code_value((word >> 16u) & 15u), code_value((word >> 24u) & 15u));
}
#endif

// Values 4j … 4j + 3 of a chunk, before the scale. `bias` is zero_bias(): 2^23 + the code's excess + the zero point, so that
// putting a code into the mantissa of 2^23 and subtracting is an exact conversion and takes the zero point off at once.
fn dequantize(w: vec4<u32>, j: u32, bias: f32) -> vec4<f32> {
#if CODE == f32
  return bitcast<vec4<f32>>(w);
#elif CODE == f16
  let halves = select(w.xy, w.zw, j == 1u);
  return vec4<f32>(unpack2x16float(halves.x), unpack2x16float(halves.y));
#elif CODE == int8
  return int8_values(w[j], bias);
#elif CODE == int4
  return int4_values(w[j >> 1u] >> ((j & 1u) * 4u), bias);
#elif CODE == lut4
  return lut4_values(w[j >> 1u] >> ((j & 1u) * 4u));
#endif
}

fn slot(row: u32, group: u32) -> u32 {
#if SCALE == tensor
  return 0u;
#else
  return ((row >> 3u) * shape.groups_per_row + group) * 8u + (row & 7u);
#endif
}

fn scale_at(row: u32, group: u32) -> f32 {
#if SCALE == none
  return 1.0;
#elif SCALE == nested
  // absmax = map[code] · absmax2[index / 256] + offset; words: table 16, offset 1, map 256, absmax2, codes
  let s = slot(row, group);
  let code = (scales[shape.scale_base + (s >> 2u)] >> ((s & 3u) * 8u)) & 0xffu;
  let block = ((shape.row_offset + row) * shape.groups_per_row + group) >> 8u;
  return bitcast<f32>(scales[17u + code]) * bitcast<f32>(scales[shape.nested_base + block]) + bitcast<f32>(scales[16]);
#else
  return bitcast<f32>(scales[shape.scale_base + slot(row, group)]);
#endif
}

fn zero_bias(row: u32, group: u32) -> f32 {
#if CODE == int8
  let excess = 8388736.0;
#elif CODE == int4
  let excess = 8388616.0;
#else
  let excess = 0.0;
#endif
#if ZERO == i8
  let s = slot(row, group);
  return excess + f32(extractBits(i32(scales[shape.zero_base + (s >> 2u)]), (s & 3u) * 8u, 8u));
#elif ZERO == f32
  return excess + bitcast<f32>(scales[shape.zero_base + slot(row, group)]);
#else
  return excess;
#endif
}
