// Prints what openapi-2-kong makes of an OpenAPI document, as JSON. Run in a folder where the package is installed.
const { createRequire } = require("node:module");
const path = require("node:path");

const fromHere = createRequire(path.join(process.cwd(), "package.json"));
const { generate } = fromHere("openapi-2-kong");

generate(process.argv[2], "kong-declarative-config").then(
  (result) => process.stdout.write(JSON.stringify(result.documents[0])),
  (error) => {
    process.stderr.write(String(error) + "\n");
    process.exit(1);
  },
);
