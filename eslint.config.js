import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["dist/", "dist-page/", "node_modules/", ".cache/", "docs/api/", "test-results/", "coverage/", "test/package/app/", "test/package/examples/", "test/package/extension/"] },
  ...tseslint.configs.recommendedTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: { allowDefaultProject: ["eslint.config.js"] }, tsconfigRootDir: import.meta.dirname } },
    rules: {
      "@typescript-eslint/no-explicit-any": "error",
      "@typescript-eslint/no-floating-promises": "error",
      "@typescript-eslint/no-non-null-assertion": "off",
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],
      "@typescript-eslint/require-await": "off",
      "@typescript-eslint/prefer-promise-reject-errors": "off", // an abort rejects with signal.reason, whatever it is
      "@typescript-eslint/only-throw-error": "off",
    },
  },
  // Plain JavaScript has no cast; its types are JSDoc, which tsc checks.
  { files: ["**/*.mjs"], rules: { "@typescript-eslint/no-unsafe-assignment": "off" } },
);
