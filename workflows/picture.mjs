// Draws a template as pictures/NAME.jpg, where its models are not at hand.
// node picture.mjs URL NAME...   (dev.py workflow --picture NAME starts the host and the rest)
import fs from "node:fs";
import path from "node:path";

import { openFrontend } from "./frontend.mjs";

const folder = import.meta.dirname;
const [url, ...names] = process.argv.slice(2);
const titles = JSON.parse(fs.readFileSync(path.join(folder, "browser", "names.json")));

const { browser, page } = await openFrontend(url);
await page.addStyleTag({
  content: `
    body * { visibility: hidden !important }
    #graph-canvas, .dom-widget, .dom-widget * { visibility: visible !important }`,
});
await page.evaluate(async () => {
  const { setting } = app.extensionManager;
  await setting.set("Comfy.Graph.CanvasInfo", false);
  await setting.set("Comfy.RightSidePanel.ShowErrorsTab", false); // no red frames around loaders of missing files
  await setting.set("LiteGraph.Canvas.MinFontSizeForLOD", 0); // text at every zoom
});
for (const name of names) {
  const workflow = JSON.parse(fs.readFileSync(path.join(folder, "..", "example_workflows", `${titles[name]}.json`)));
  await page.evaluate((workflow) => app.loadGraphData(workflow), workflow);
  await page.waitForTimeout(3000); // for reference pictures, which make their nodes larger
  const size = await page.evaluate(() => {
    const [scale, margin] = [0.65, 30];
    const nodes = app.graph._nodes;
    const left = Math.min(...nodes.map((node) => node.pos[0])) - margin;
    const top = Math.min(...nodes.map((node) => node.pos[1])) - LiteGraph.NODE_TITLE_HEIGHT - margin;
    const right = Math.max(...nodes.map((node) => node.pos[0] + node.size[0])) + margin;
    const bottom = Math.max(...nodes.map((node) => node.pos[1] + node.size[1])) + margin;
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [-left, -top];
    return { width: Math.ceil((right - left) * scale), height: Math.ceil((bottom - top) * scale) };
  });
  await page.setViewportSize(size);
  await page.evaluate(() => app.canvas.setDirty(true, true));
  await page.waitForTimeout(2000);
  await page.screenshot({ path: path.join(folder, "pictures", `${name}.jpg`), type: "jpeg", quality: 92 });
}
await browser.close();
