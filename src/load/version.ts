/** The version of package.json, which a page cannot read; a test compares them. */
export const ENGINE_VERSION = "0.1.0";
