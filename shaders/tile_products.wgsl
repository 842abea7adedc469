// Inside linear_tile.wgsl: values 4j … 4j + 3 of chunk c, of 8 outputs and as many rows of x as there are, added to the sums. w0 … w7: that chunk of the outputs.
      let k4 = c * (CHUNK / 4u) + j;
#repeat r READS
#if PROLOGUE == none
      let read$r = x[x$r + k4];
#else
      let read$r = prepared[k4];
#endif
#endrepeat
#import "share_rows"
#repeat n 8
#if SCALE == group || SCALE == nested
      let v$n = dequantize(w$n, j, zero_of[$n]) * scale_of[$n];
#else
      let v$n = dequantize(w$n, j, zero_of[$n]);
#endif
#repeat r READS
#repeat l LANES
      sum$n_$r$l += dot(v$n, x$r$l);
#endrepeat
#endrepeat
#endrepeat
