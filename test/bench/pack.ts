// npm run bench:pack -- --out FOLDER
// Puts all that the bench needs into one folder of 46 MB, for a machine that has Node and a GPU but neither npm nor network:
//   node FOLDER/bench.mjs --shapes 124m,355m --json FILE      (Linux needs the Vulkan loader, libvulkan.so.1, and the GPU's driver)
import { cpSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { build } from "vite";
import { type BenchCommand, root } from "./node.ts";

export async function main({ words }: BenchCommand): Promise<void> {
  const { out } = parseArgs({ args: words, options: { out: { type: "string" } } }).values;
  if (out === undefined) throw new RangeError("--out is missing; expected the folder to make.");
  const repository = fileURLToPath(root);
  await build({
    configFile: false,
    root: repository,
    publicDir: false,
    logLevel: "warn",
    resolve: { alias: { "nibble-webgpu": join(repository, "src/index.ts") } },
    ssr: { noExternal: true, external: ["webgpu"] },
    build: { ssr: "test/bench/packed.ts", outDir: resolve(out), emptyOutDir: true, target: "node20", rolldownOptions: { output: { entryFileNames: "bench.mjs" } } },
  });
  const dawn = dirname(createRequire(import.meta.url).resolve("webgpu"));
  const platform = `${process.platform}-${process.platform === "darwin" ? "universal" : process.arch}`;
  for (const path of ["package.json", "index.js", join("dist", platform)]) cpSync(join(dawn, path), join(out, "node_modules/webgpu", path), { recursive: true });
  cpSync(join(repository, "models/stories-12m"), join(out, "models/stories-12m"), { recursive: true });
  console.log(`node ${join(out, "bench.mjs")}`);
}
