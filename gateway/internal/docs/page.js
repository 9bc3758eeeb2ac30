"use strict";
// The page is dark where the reader's system is.
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", paint);
paint();

SwaggerUIBundle({
  url: "/api/openapi.yaml",
  dom_id: "#docs",
  validatorUrl: null, // or it would send the contract to somebody else's server
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayOperationId: false,
  displayRequestDuration: true,
  filter: true,
  showExtensions: true, // x-nofx-role and x-nofx-scope: who may
  syntaxHighlight: { theme: dark.matches ? "obsidian" : "idea" },
});
