// What the kernels over rows of logits share; a row is worked on by one workgroup.
struct Rows {
  vocabulary: u32,
  stride: u32, // f32s per row of logits
};

const WG = 256u;
#import "workgroup_sum"
#import "workgroup_max"
