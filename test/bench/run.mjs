// Starts a benchmark whose TypeScript Vite turns into something that Node runs; the engine is the built one, as users have it.
// Usage: node test/bench/run.mjs node|page|peers|pack [options]; each of these files says which.
import * as engine from "nibble-webgpu";
import { createServer } from "vite";

const [name, ...words] = process.argv.slice(2);
if (!["node", "page", "peers", "pack"].includes(String(name))) throw new RangeError(`The benchmark is "${name}"; expected node, page, peers or pack.`);
const vite = await createServer({ mode: "test", logLevel: "error", server: { host: "127.0.0.1", port: 0, hmr: false, watch: null } });
try {
  const { main } = /** @type {{ main: typeof import("./node.ts").main }} */ (await vite.ssrLoadModule(`/test/bench/${name}.ts`));
  await main({ engine, vite, words });
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await vite.close();
}
process.exit(); // Dawn keeps the process alive while its GPU object exists
