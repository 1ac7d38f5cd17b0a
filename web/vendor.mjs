// Copies the files that pages load, and their licences, from node_modules to static/vendor. `npm ci` runs it.

import { cpSync, mkdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const modules = join(here, "node_modules");
const vendor = join(here, "static", "vendor");

const files = {
  "htmx.min.js": "htmx.org/dist/htmx.min.js",
  "htmx.LICENSE": "htmx.org/LICENSE",
  "uPlot.iife.min.js": "uplot/dist/uPlot.iife.min.js",
  "uPlot.LICENSE": "uplot/LICENSE",
};

rmSync(vendor, { recursive: true, force: true });
mkdirSync(vendor, { recursive: true });
for (const [name, source] of Object.entries(files)) {
  cpSync(join(modules, source), join(vendor, name));
}
