/** One way to store an item. */
export interface Choice {
  bytes: number;
  /** Not negative. */
  cost: number;
}

/** One choice for every item. */
export interface Allocation {
  bytes: number;
  cost: number;
  /** u8 [items]: index of each item's choice. */
  picks: Uint8Array;
}

/** Sizes that are told apart between the smallest and the largest allocation. */
const BUCKETS = 2 ** 14;

/**
 * The allocations of least total cost for their size, ascending in bytes and falling in cost; the first is the smallest there is.
 * Dynamic programming, item by item, that keeps the cheapest allocation of every bucket of sizes: sums are exact, but what differs by less than
 * a bucket per item may be passed over; improve() takes up such slack.
 * @param items at least one choice each, at most 256
 */
export function allocationFrontier(items: readonly (readonly Choice[])[]): Allocation[] {
  const smallest = items.map((choices) => choices.reduce((best, choice) => (choice.bytes < best.bytes || (choice.bytes === best.bytes && choice.cost < best.cost) ? choice : best)));
  const span = items.reduce((sum, choices, i) => sum + Math.max(...choices.map(({ bytes }) => bytes)) - smallest[i]!.bytes, 0);
  const bucketBytes = Math.max(1, span / (BUCKETS - 1));
  let costs = new Float64Array(BUCKETS).fill(Infinity); // of the items so far, by bucket
  let excess = new Float64Array(BUCKETS); // bytes beyond the smallest
  costs[0] = 0;
  const steps = items.map((choices, i) => {
    const nextCosts = new Float64Array(BUCKETS).fill(Infinity);
    const nextExcess = new Float64Array(BUCKETS);
    const picks = new Uint8Array(BUCKETS);
    const from = new Uint16Array(BUCKETS); // bucket before this item
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      if (costs[bucket] === Infinity) continue;
      for (const [pick, choice] of choices.entries()) {
        const bytes = excess[bucket]! + choice.bytes - smallest[i]!.bytes;
        const cost = costs[bucket]! + choice.cost;
        const to = Math.floor(bytes / bucketBytes);
        if (cost > nextCosts[to]! || (cost === nextCosts[to] && bytes >= nextExcess[to]!)) continue;
        nextCosts[to] = cost;
        nextExcess[to] = bytes;
        picks[to] = pick;
        from[to] = bucket;
      }
    }
    costs = nextCosts;
    excess = nextExcess;
    return { picks, from };
  });

  const frontier = [allocationOf(items, Uint8Array.from(items, (choices, i) => choices.indexOf(smallest[i]!)))];
  for (let end = 0; end < BUCKETS; end++) {
    if (!(costs[end]! < frontier.at(-1)!.cost)) continue;
    const picks = new Uint8Array(items.length);
    for (let i = items.length - 1, bucket = end; i >= 0; bucket = steps[i]!.from[bucket]!, i--) picks[i] = steps[i]!.picks[bucket]!;
    const allocation = allocationOf(items, picks);
    if (allocation.bytes === frontier.at(-1)!.bytes) frontier.pop();
    frontier.push(allocation);
  }
  return frontier;
}

/** Sums over the items in their order. */
export function allocationOf(items: readonly (readonly Choice[])[], picks: Uint8Array): Allocation {
  let bytes = 0;
  let cost = 0;
  for (const [i, pick] of picks.entries()) {
    bytes += items[i]![pick]!.bytes;
    cost += items[i]![pick]!.cost;
  }
  return { bytes, cost, picks };
}

/**
 * The allocations within limitBytes that differ from this one in one item or two, the cheapest first, at most `count`.
 * Two: what one item gives up pays for what the other gains.
 */
export function neighbours(items: readonly (readonly Choice[])[], { bytes, cost, picks }: Allocation, limitBytes: number, count: number): Allocation[] {
  const moves = items.flatMap((choices, item) => choices.map((choice, pick) => ({ item, pick, bytes: choice.bytes - choices[picks[item]!]!.bytes, cost: choice.cost - choices[picks[item]!]!.cost })).filter(({ pick }) => pick !== picks[item]));
  const found: { cost: number; moves: (typeof moves)[number][] }[] = [];
  const offer = (...pair: (typeof moves)[number][]): void => {
    const sum = pair.reduce((sum, move) => ({ bytes: sum.bytes + move.bytes, cost: sum.cost + move.cost }), { bytes, cost });
    if (sum.bytes > limitBytes || (found.length === count && sum.cost >= found.at(-1)!.cost)) return;
    const at = found.findIndex((other) => other.cost > sum.cost);
    found.splice(at < 0 ? found.length : at, 0, { cost: sum.cost, moves: pair });
    found.length = Math.min(found.length, count);
  };
  for (const [i, move] of moves.entries()) {
    offer(move);
    for (let j = i + 1; j < moves.length; j++) if (moves[j]!.item !== move.item) offer(move, moves[j]!);
  }
  return found.map((neighbour) => {
    const changed = picks.slice();
    for (const { item, pick } of neighbour.moves) changed[item] = pick;
    return allocationOf(items, changed);
  });
}

/** The cheapest allocation within limitBytes: the frontier's, then exact moves of one or two items as long as they gain. null where the smallest is too large. */
export function cheapestWithin(items: readonly (readonly Choice[])[], frontier: readonly Allocation[], limitBytes: number): Allocation | null {
  let best = frontier.findLast(({ bytes }) => bytes <= limitBytes) ?? null;
  while (best) {
    const [next] = neighbours(items, best, limitBytes, 1);
    if (!next || next.cost >= best.cost) break;
    best = next;
  }
  return best;
}
