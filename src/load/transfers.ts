/** Does work whose transfers end with the signal that it is given, and ends those that are open when it fails. */
export async function closingTransfers<T>(signal: AbortSignal | undefined, work: (signal: AbortSignal) => Promise<T>, closes: "onFailure" | "always" = "onFailure"): Promise<T> {
  const closing = new AbortController();
  let isDone = false;
  try {
    const result = await work(AbortSignal.any([closing.signal, ...(signal ? [signal] : [])]));
    isDone = true;
    return result;
  } finally {
    if (!isDone || closes === "always") closing.abort();
  }
}
