// Keeps the files of the page for when there is no network: what the build wrote and the embedded model; nothing of the hub's.

/** The build puts them here: path relative to the page -> hash of the content. The page itself is "". */
declare const PAGE_FILES: Readonly<Record<string, string>>;

// TypeScript keeps the types of service workers in a library that contradicts the page's.
interface ExtendableEvent extends Event {
  waitUntil(work: Promise<unknown>): void;
}
interface FetchEvent extends ExtendableEvent {
  readonly request: Request;
  respondWith(response: Promise<Response>): void;
}
interface ServiceWorkerScope {
  readonly registration: ServiceWorkerRegistration;
  addEventListener(type: "install" | "activate", listener: (event: ExtendableEvent) => void): void;
  addEventListener(type: "fetch", listener: (event: FetchEvent) => void): void;
}
const worker = self as unknown as ServiceWorkerScope;

const pageFiles = PAGE_FILES;
const cacheName = `nibble ${worker.registration.scope}`; // one origin may serve several copies

/** What a file is kept under: two versions of it lie side by side while an old page is still open. */
function keyOf(path: string): string | null {
  const hash = pageFiles[path];
  return hash === undefined ? null : `${worker.registration.scope}${path}?kept=${hash}`;
}
const keys = new Map(Object.keys(pageFiles).map((path) => [keyOf(path)!, path]));

/** Fetches what is not kept yet: after an update, only what has changed. What the page itself has just fetched comes from the browser's cache. */
async function fill(): Promise<void> {
  const cache = await caches.open(cacheName);
  for (const [key, path] of keys) {
    if (await cache.match(key)) continue;
    const response = await fetch(new URL(path, worker.registration.scope), { cache: "no-cache" });
    if (!response.ok) throw new Error(`${path} answered ${response.status}; the page is not kept for offline use.`);
    await cache.put(key, response);
  }
}

async function dropOldVersions(): Promise<void> {
  const cache = await caches.open(cacheName);
  for (const { url } of await cache.keys()) if (!keys.has(url)) await cache.delete(url);
}

/** What the build did not write is not there: without a network that is an answer, too, and the engine asks for files that a model need not have. */
async function answer(request: Request, key: string | null): Promise<Response> {
  const kept = key === null ? undefined : await (await caches.open(cacheName)).match(key);
  return kept ?? fetch(request).catch(() => new Response(null, { status: 404 }));
}

worker.addEventListener("install", (event) => event.waitUntil(fill()));
worker.addEventListener("activate", (event) => event.waitUntil(dropOldVersions()));
worker.addEventListener("fetch", (event) => {
  const { origin, pathname } = new URL(event.request.url);
  const scope = new URL(worker.registration.scope);
  if (event.request.method !== "GET" || origin !== scope.origin || !pathname.startsWith(scope.pathname)) return;
  const path = decodeURIComponent(pathname.slice(scope.pathname.length)).replace(/^index\.html$/, "");
  event.respondWith(answer(event.request, keyOf(path)));
});
