/** The compiled module, a few KB in base64: vite.config.ts compiles kernels.as where it is imported. */
declare const base64: string;
export default base64;
