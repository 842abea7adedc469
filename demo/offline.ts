/** Lets the built page open without a network from the next visit on. A browser that refuses loses nothing else. */
export async function keepForOffline(): Promise<void> {
  if (!import.meta.env.PROD || !("serviceWorker" in navigator)) return;
  await navigator.serviceWorker.register(new URL("serviceWorker.js", document.baseURI)).catch(() => undefined);
}
