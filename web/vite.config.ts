import { defineConfig } from "vitest/config";

// The gateway serves `dist/`: `index.html` at `/`, and the rest under `/assets/`, by names that change with what is in them.
export default defineConfig({
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    target: "es2022",
    assetsInlineLimit: 0, // The page's policy allows no data: URL.
    modulePreload: { polyfill: false }, // It would be an inline script.
  },
  worker: { format: "es" },
  server: {
    // `npm run dev` beside a gateway that runs.
    proxy: Object.fromEntries(
      ["/v1", "/api", "/healthz", "/readyz", "/docs", "/static", "/openapi.json"].map((path) => [
        path,
        process.env.SONORANT_URL ?? "http://127.0.0.1:8000",
      ]),
    ),
  },
  test: { include: ["src/**/*.test.ts"], environment: "node" },
});
