// Makes NAME.json, which opens in the editor, from api/NAME.json and the note in api/NAME.md, with the frontend's own code.
// node build.mjs URL NAME...   (dev.py workflow NAME starts the host and the rest)
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const { chromium } = createRequire(import.meta.url)(process.env.GUIDANCE_PLAYWRIGHT);
const folder = import.meta.dirname;
const [url, ...names] = process.argv.slice(2);

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"],
});
const page = await browser.newPage({ viewport: { width: 1600, height: 1000 } });
await page.goto(url, { waitUntil: "domcontentloaded" });
await page.waitForFunction(
  () => window.app?.extensionManager && window.app.graph && Object.keys(LiteGraph.registered_node_types).length > 100,
  null,
  { timeout: 120_000 },
);
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
        node.size = [Math.max(node.size[0], wanted[0]), Math.max(node.size[1], wanted[1])];
        if (/Sampler/.test(node.type)) node.size[1] += 240; // the live preview appears below the widgets
        if (/^(SaveImage|PreviewImage)$/.test(node.type)) node.size = [600, 480];
      }
      app.graph.arrange();
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
