// Shape of attention and of one chunk of the KV cache, as the kernels that use it bind them.
struct Attention {
  heads: u32,
  positions: u32,  // that the cache holds
  qkv_stride: u32, // f32s per row of qkv
  y_stride: u32,   // f32s per row of y
  scale: f32,      // on the scores
};

#if KV == f32
alias CacheChunk = vec4<f32>;
#elif KV == f16
alias CacheChunk = vec2<u32>;
#else
alias CacheChunk = u32;
#endif
