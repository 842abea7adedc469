/** What vite.config.ts uses of assemblyscript/asc. The package's own types declare AssemblyScript's globals over those of TypeScript. */
export interface CompilerOptions {
  readFile: (name: string) => string | null;
  writeFile: (name: string, content: string | Uint8Array) => void;
  listFiles: () => string[];
  stderr: { write: (text: string | Uint8Array) => void };
}
declare const asc: { main(parameters: readonly string[], options: CompilerOptions): Promise<{ error: Error | null }> };
export default asc;
