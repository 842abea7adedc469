// Where a matrix product goes, and what it meets on the way: bindings 5 to 7 of gemm.wgsl, gemv.wgsl and linear_tile.wgsl.
#if EPILOGUE == normalizer
@group(0) @binding(5) var<storage, read> expected: array<u32>;       // [rows], from 0
@group(0) @binding(6) var<storage, read> unused: array<u32>;
@group(0) @binding(7) var<storage, read_write> y: array<vec4<f32>>;  // [rows][slots]: see normalizer.wgsl
#else
@group(0) @binding(5) var<storage, read> aux: array<vec4<f32>>;      // gamma, beta [K padded] of a norm in front, then bias [N]
@group(0) @binding(6) var<storage, read> residual: array<f32>;       // [rows, y_stride]
@group(0) @binding(7) var<storage, read_write> y: array<f32>;        // [rows, y_stride]
#endif
