// Makes ../../pipelines/viewing/static/niivue.js and the licences of all that is in it.
// `make niivue` runs it; the same package-lock.json gives the same bytes.

import { createHash } from "node:crypto";
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";

const STATIC = "../../pipelines/viewing/static";
// decoders of Zarr chunks, 1.4 MB of WebAssembly: the page is given NIfTI and never uses them
const UNUSED = ["zstd", "blosc", "lz4", "gzip", "zlib"].map((name) => `numcodecs/${name}`);

const made = await build({
  stdin: { contents: 'export { Niivue } from "@niivue/niivue";', resolveDir: "." },
  bundle: true,
  format: "esm",
  minify: true,
  target: "es2022",
  legalComments: "none",
  metafile: true,
  write: false,
  alias: Object.fromEntries(UNUSED.map((name) => [name, "./unused.mjs"])),
});
const code = made.outputFiles[0].contents;

const packages = new Set(
  Object.keys(made.metafile.inputs)
    .map((path) => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1])
    .filter(Boolean),
);
const texts = [...packages].sort().map((name) => {
  const folder = join("node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  const own = join("licences", `${name.replace("/", "-").replace("@", "")}.txt`); // not in its npm package
  if (!file && !existsSync(own)) throw new Error(`${name} ${version} (${license}) has no licence text`);
  const text = readFileSync(file ? join(folder, file) : own, "utf8").trim();
  return `${name} ${version} (${license})\n\n${text}\n`;
});

writeFileSync(`${STATIC}/niivue.js`, code);
writeFileSync(`${STATIC}/niivue.LICENSE.txt`, texts.join(`\n${"-".repeat(80)}\n\n`));
const digest = createHash("sha256").update(code).digest("hex");
writeFileSync("niivue.js.sha256", `${digest}  niivue.js\n`);
console.log(`niivue.js: ${code.length} bytes, SHA-256 ${digest}, of ${texts.length} packages`);
