// Inside linear_tile.wgsl: from the READS rows that each lane read, all rows for every lane; row r · LANES + l is xrl.
#repeat r READS
#repeat l LANES
#if LANES > 1
let x$r$l = subgroupBroadcast(read$r, $lu);
#else
let x$r$l = read$r;
#endif
#endrepeat
#endrepeat
