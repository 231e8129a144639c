// Makes subgraphs/TITLE.json, which the node library offers as one node, from the nodes of blueprints/NAME.json that stand
// "inside" TITLE. What is "shown" of a node stays on the outside; blueprints/NAME.md says what it is for.
// node blueprints.mjs URL   (dev.py workflow --blueprints starts the host and the rest)
import fs from "node:fs";
import path from "node:path";

import { openFrontend } from "./frontend.mjs";
import { alone, folded, opened } from "./page.mjs";
import { mended } from "./mended.mjs";

const folder = path.join(import.meta.dirname, "blueprints");
const { browser, page } = await openFrontend(process.argv[2]);
for (const file of fs.readdirSync(folder).filter((file) => file.endsWith(".json"))) {
  const name = path.basename(file, ".json");
  const api = JSON.parse(fs.readFileSync(path.join(folder, file)));
  const about = fs.readFileSync(path.join(folder, `${name}.md`), "utf8").trim();
  await page.evaluate(opened, { api, note: about, name });
  await page.evaluate(folded, api);
  const { title, workflow } = await page.evaluate(alone, { api, about });
  fs.writeFileSync(path.join(folder, "..", "..", "subgraphs", `${title}.json`), JSON.stringify(mended(workflow), null, 1) + "\n");
  console.log(title);
}
await browser.close();
