/** One frame: rarer would be felt. */
const WORK_MS = 20;

/** For long loops on the CPU: what it returns awaits `rest` where 20 ms have passed since it last did. */
export function pausing(rest: (() => Promise<void>) | undefined): () => Promise<void> {
  let sinceMs = performance.now();
  return async () => {
    if (!rest || performance.now() - sinceMs < WORK_MS) return;
    await rest();
    sinceMs = performance.now();
  };
}
