/** Which neighbours merge, in which order, into what. Ids and ranks are below MAX_TOKEN_COUNT. */
export interface MergeRules {
  /** Order of merging these two tokens, the lowest first; −1 where they do not merge. */
  rank(left: number, right: number): number;
  /** The token that a merge of this rank makes. */
  merged(rank: number): number;
}

/** Bound of ids and ranks, so that a pair of ids fits one f64. */
export const MAX_TOKEN_COUNT = 2 ** 21;
/** Pairs whose ranks are remembered. */
const SLOT_BITS = 14;

/** The same rules, which remember the rank that was last asked for in each of 16,384 slots: text repeats its pairs, and a vocabulary looks them up by their bytes. */
export function remembering(rules: MergeRules): MergeRules {
  const pairs = new Float64Array(2 ** SLOT_BITS).fill(-1);
  const ranks = new Int32Array(2 ** SLOT_BITS);
  return {
    rank(left, right) {
      const pair = left * MAX_TOKEN_COUNT + right;
      const slot = (Math.imul(left, 0x9e3779b1) + Math.imul(right, 0x85ebca6b)) >>> (32 - SLOT_BITS); // odd constants of well spread bits
      if (pairs[slot] !== pair) {
        pairs[slot] = pair;
        ranks[slot] = rules.rank(left, right);
      }
      return ranks[slot]!;
    },
    merged: (rank) => rules.merged(rank),
  };
}

/**
 * Merges the tokens of one piece as openai/gpt-2's encoder.py: again and again the pair of the lowest rank, everywhere from left to right, until none is left.
 * A linked list of tokens, and by rank the places where its pair begins, of which outdated ones are skipped when met; O(n log n) for a piece of any length,
 * and nearly linear, since the heap holds ranks alone and places come nearly in order.
 * @param ids one per byte of the piece
 */
export function mergePiece(ids: ArrayLike<number>, rules: MergeRules): number[] {
  const count = ids.length;
  const tokens = Int32Array.from(ids);
  const next = new Int32Array(count);
  const previous = new Int32Array(count);
  for (let at = 0; at < count; at++) {
    next[at] = at + 1;
    previous[at] = at - 1;
  }
  /** Rank of the pair that begins here; −1 where there is none, or where the token was merged away. */
  const ranks = new Int32Array(count).fill(-1);
  const places = new Map<number, number[]>();
  const heap: number[] = [];
  const offerPair = (at: number): void => {
    const right = next[at]!;
    const rank = right < count ? rules.rank(tokens[at]!, tokens[right]!) : -1;
    ranks[at] = rank;
    if (rank < 0) return;
    const others = places.get(rank);
    if (others) {
      others.push(at);
    } else {
      places.set(rank, [at]);
      pushKey(heap, rank);
    }
  };
  for (let at = 0; at < count; at++) offerPair(at);

  while (heap.length > 0) {
    const rank = popKey(heap);
    const found = ascending(places.get(rank)!);
    places.delete(rank);
    for (const at of found) {
      if (ranks[at] !== rank) continue;
      const gone = next[at]!;
      const after = next[gone]!;
      tokens[at] = rules.merged(rank);
      ranks[gone] = -1;
      next[at] = after;
      if (after < count) previous[after] = at;
      offerPair(at);
      if (previous[at]! >= 0) offerPair(previous[at]!);
    }
  }

  const merged: number[] = [];
  for (let at = 0; at < count; at = next[at]!) merged.push(tokens[at]!);
  return merged;
}

function ascending(places: number[]): ArrayLike<number> & Iterable<number> {
  return places.every((at, i) => i === 0 || places[i - 1]! <= at) ? places : Int32Array.from(places).sort();
}

/** Puts a key into a binary heap, the smallest first. */
function pushKey(heap: number[], key: number): void {
  let at = heap.push(key) - 1;
  while (at > 0) {
    const parent = (at - 1) >> 1;
    if (heap[parent]! <= key) break;
    heap[at] = heap[parent]!;
    at = parent;
  }
  heap[at] = key;
}

/** Takes the smallest key from a heap that has one. */
function popKey(heap: number[]): number {
  const smallest = heap[0]!;
  const key = heap.pop()!;
  if (heap.length === 0) return smallest;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && heap[child + 1]! < heap[child]!) child++;
    if (heap[child]! >= key) break;
    heap[at] = heap[child]!;
    at = child;
  }
  heap[at] = key;
  return smallest;
}
