import { existsSync, readFileSync } from "node:fs";
import { extname, resolve } from "node:path";

const root = resolve(import.meta.dirname, "../..");

/** What a server answers by path: at "/" a page that has the built package as a plain browser finds it, without a bundler, and the files of the package. null for the rest. */
export function packagePage(body: string): (path: string) => { type: string; body: string | Uint8Array } | null {
  const html = `<!doctype html><title>Nibble</title>\n${body}`;
  return (path) => {
    if (path === "/") return { type: "text/html", body: html };
    const file = resolve(root, `.${path}`);
    const isServed = extname(path) === ".js" && path.startsWith("/dist/") && existsSync(file);
    return isServed ? { type: "text/javascript", body: readFileSync(file) } : null;
  };
}
