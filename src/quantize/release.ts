/**
 * Gives the memory of an array back at once, and leaves the array empty. Engines collect buffers late, and a load makes many, each of some megabytes.
 * The buffer must be the array's own, and nobody's who still wants it. What has no ArrayBuffer.transfer (2024) waits for the collector.
 */
export function release({ buffer }: { readonly buffer: ArrayBufferLike }): void {
  (buffer as { transfer?: (length: number) => ArrayBuffer }).transfer?.(0);
}
