import { readFileSync, statSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { extname, join, normalize } from "node:path";
import { expect, generateGreedily, ready, root, test } from "./fixture.ts";

const folder = "/some/folder/";
const types: Readonly<Record<string, string>> = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".json": "application/json", ".webmanifest": "application/manifest+json" };

/** The built page in a folder of a plain file server: no special headers, no answers of its own. */
function servePage(): Server {
  return createServer((request, response) => {
    const { pathname } = new URL(request.url!, "http://127.0.0.1");
    const path = join(root, "dist-page", normalize(pathname.slice(folder.length - 1).replace(/\/$/, "/index.html")));
    if (!pathname.startsWith(folder) || !statSync(path, { throwIfNoEntry: false })?.isFile()) response.writeHead(404).end();
    else response.writeHead(200, { "Content-Type": types[extname(path)] ?? "application/octet-stream" }).end(readFileSync(path));
  });
}

test.use({ serviceWorkers: "allow" });

test("a page that was open once, in any folder of any server, opens and writes when the server is gone", async ({ page, context, complaints }) => {
  const server = servePage();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const { port } = server.address() as { port: number };
    const address = `http://127.0.0.1:${port}${folder}?backend=cpu`;
    await page.goto(address);
    await ready(page);
    await page.evaluate(() => navigator.serviceWorker.ready);
    expect(complaints.splice(0).filter((line) => !line.includes("404"))).toEqual([]); // the files that a model need not have
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));

    const visit = await context.newPage(); // the first was loaded without the worker
    await visit.goto(address);
    await ready(visit);
    expect(await generateGreedily(visit, 3)).toBe(" a little girl");
    const kept = await visit.evaluate(async () => {
      const names = await caches.keys();
      const files = await Promise.all(names.map(async (name) => (await (await caches.open(name)).keys()).map(({ url }) => new URL(url).pathname)));
      return files.flat();
    });
    expect(kept).toContain(folder);
    expect(kept).toContain(`${folder}models/stories-12m/model.safetensors`);
    expect(kept.filter((path) => !path.startsWith(folder) || path.endsWith(".map"))).toEqual([]);
  } finally {
    server.close();
  }
});

test("the manifest names the page, its folder and its icon", async ({ page, request }) => {
  await page.goto("./?backend=cpu");
  const address = await page.locator("link[rel=manifest]").evaluate((link: HTMLLinkElement) => link.href);
  const manifest = (await (await request.get(address)).json()) as { start_url: string; icons: { src: string }[] };
  expect(new URL(manifest.start_url, address).href).toBe(new URL("./", page.url()).href);
  for (const { src } of manifest.icons) expect((await request.get(new URL(src, address).href)).headers()["content-type"]).toContain("image/svg+xml");
});
