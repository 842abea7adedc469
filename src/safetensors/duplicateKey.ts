/**
 * The first key that occurs twice in one object of `json`, and that object's depth (1: the outermost); null where keys are unique.
 * JSON.parse keeps the last of two equal keys and says nothing. `json` must be valid JSON.
 */
export function findDuplicateKey(json: string): { key: string; depth: number } | null {
  const open: Set<string>[] = []; // keys of the objects around the cursor; arrays need no entry, they hold no keys
  for (let i = 0; i < json.length; i++) {
    const character = json[i];
    if (character === "{") open.push(new Set());
    else if (character === "}") open.pop();
    else if (character === '"') {
      const end = stringEnd(json, i);
      let next = end;
      while (" \t\r\n".includes(json[next]!)) next++; // after a string, valid JSON has at least a closing bracket
      if (json[next] === ":") {
        const key = JSON.parse(json.slice(i, end)) as string; // "\u0061" and "a" are one key
        const keys = open.at(-1)!;
        if (keys.has(key)) return { key, depth: open.length };
        keys.add(key);
      }
      i = next - 1;
    }
  }
  return null;
}

/** Index behind the closing quote of the string that opens at `start`. */
function stringEnd(json: string, start: number): number {
  for (let i = start + 1; ; i++) {
    if (json[i] === "\\") i++;
    else if (json[i] === '"') return i + 1;
  }
}
