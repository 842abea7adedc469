/** Which neighbours merge, in which order, into what. Ids and ranks are below MAX_TOKEN_COUNT. */
export interface MergeRules {
  /** Order of merging these two tokens, the lowest first; −1 where they do not merge. */
  rank(left: number, right: number): number;
  /** The token that a merge of this rank makes. */
  merged(rank: number): number;
}

/** Bound of ids and ranks, so that a rank and a position fit one f64. */
export const MAX_TOKEN_COUNT = 2 ** 21;
const POSITION_SPAN = 2 ** 32;

/**
 * Merges the tokens of one piece: again and again the pair of the lowest rank, the leftmost of equals, until none is left.
 * O(n log n) for a piece of any length: a linked list of tokens, and a heap of pairs in which outdated ones are skipped when met.
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
  const heap: number[] = [];
  const offerPair = (at: number): void => {
    const right = next[at]!;
    ranks[at] = right < count ? rules.rank(tokens[at]!, tokens[right]!) : -1;
    if (ranks[at] >= 0) pushKey(heap, ranks[at] * POSITION_SPAN + at);
  };
  for (let at = 0; at < count; at++) offerPair(at);

  while (heap.length > 0) {
    const key = popKey(heap);
    const rank = Math.floor(key / POSITION_SPAN);
    const at = key % POSITION_SPAN;
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

  const merged: number[] = [];
  for (let at = 0; at < count; at = next[at]!) merged.push(tokens[at]!);
  return merged;
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
