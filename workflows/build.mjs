// Makes NAME.json, which opens in the editor, from api/NAME.json and the note in api/NAME.md, with the frontend's own code.
// node build.mjs URL NAME...   (dev.py workflow NAME starts the host and the rest)
import fs from "node:fs";
import path from "node:path";

import { openFrontend } from "./frontend.mjs";

const folder = import.meta.dirname;
const [url, ...names] = process.argv.slice(2);

const { browser, page } = await openFrontend(url);
for (const name of names) {
  const api = JSON.parse(fs.readFileSync(path.join(folder, "api", `${name}.json`)));
  const note = fs.readFileSync(path.join(folder, "api", `${name}.md`), "utf8");
  const workflow = await page.evaluate(
    async ({ api, note, name }) => {
      await app.loadApiJson(api, name);
      for (const node of app.graph._nodes) {
        const title = api[String(node.id)]?._meta?.title;
        if (title) node.title = title;
        for (const widget of node.widgets ?? []) if (widget.name === "control_after_generate") widget.value = "fixed";
        const wanted = node.computeSize();
        node.size = [Math.max(node.size[0], wanted[0], 270), Math.max(node.size[1], wanted[1])];
        // the live preview appears below the widgets
        if (/Sampler/.test(node.type) && node.outputs[0].type === "LATENT") node.size[1] += 240;
        if (/^(SaveImage|PreviewImage)$/.test(node.type)) node.size = [600, 480];
      }
      app.graph.arrange(60);
      const left = Math.min(...app.graph._nodes.map((node) => node.pos[0]));
      const top = Math.min(...app.graph._nodes.map((node) => node.pos[1]));
      const text = LiteGraph.createNode("MarkdownNote");
      text.title = "About this workflow";
      text.pos = [left - 480, top];
      text.size = [440, 520];
      app.graph.add(text);
      text.widgets[0].value = note;
      return app.graph.serialize();
    },
    { api, note, name },
  );
  fs.writeFileSync(path.join(folder, `${name}.json`), JSON.stringify(workflow, null, 1) + "\n");
}
await browser.close();
